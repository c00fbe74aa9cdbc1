//! Every limit that the platform states: the last value is taken, and the first one above it is
//! refused with its field and the limit. A limit that is in no table fails.

use std::collections::BTreeSet;

use fairmazon_broker::core::CoreConfig;
use fairmazon_model::{access::Role, id::VolumeId, limits};
use fairmazon_proto::v1::{
    self, accounts_service_client::AccountsServiceClient, hosts_service_client::HostsServiceClient,
    instances_service_client::InstancesServiceClient,
    operations_service_client::OperationsServiceClient,
    placement_groups_service_client::PlacementGroupsServiceClient,
    tokens_service_client::TokensServiceClient, volumes_service_client::VolumesServiceClient,
};
use tonic::{Code, Status};

use crate::harness::{Broker, Client, detail, host_spec, instance_spec};

/// Limits that are no bounds of a request, and where they are shown or what they do.
const OTHERS: [(&str, &str); 23] = [
    ("IMPORTS_WAITING", "core: imports"),
    ("IMPORT_BYTES_MIN", "below: a lower bound"),
    ("IDEMPOTENCY_KEEP_MS", "core: idempotency"),
    ("PAGE_MAX", "more is answered with a page of this size"),
    ("PAGE_BYTES_MAX", "api: services; a page is cut off"),
    ("API_MESSAGE_MAX", "api: errors"),
    ("HOST_MESSAGE_MAX", "core: sets, as what is on a host is bounded by the next"),
    ("HOST_SPECIFICATIONS_MAX", "core: sets"),
    ("VOLUME_SPECIFICATION_BYTES", "what is counted, no bound"),
    ("HOST_TEXT_MAX", "the rest is cut off"),
    ("HOST_IMAGES_MAX", "further ones are not kept"),
    ("ADDRESSES_MAX", "further ones are not kept"),
    ("STREAMS_PER_TOKEN", "api: limits"),
    ("CONNECTIONS_PER_ACCOUNT", "api: connections; the number: api::peers"),
    ("CONNECTIONS_PER_HOST", "api::peers"),
    ("CONNECTIONS", "api: connections"),
    ("STRANGERS_PER_ADDRESS", "api: connections"),
    ("STRANGERS_REQUESTS_PER_SECOND", "api::limits"),
    ("STRANGERS_REQUESTS_AT_ONCE", "api::limits"),
    ("GIVE_KEYS_MAX", "below: so many keys are given at a time"),
    ("TRANSFERS_PER_ACCOUNT", "api: transfers, imports"),
    ("TRANSFERS_PER_HOST", "api: transfers; transfer::import"),
    ("REQUESTS_PER_SECOND", "api: limits"),
];

/// The limits on how many things an account has.
const COUNTS: [&str; 5] = [
    "INSTANCES_PER_ACCOUNT",
    "VOLUMES_PER_ACCOUNT",
    "PLACEMENT_GROUPS_PER_ACCOUNT",
    "HOSTS_PER_ACCOUNT",
    "TOKENS_PER_ACCOUNT",
];

/// A request that stays within a limit or not.
enum Asked {
    Instance(v1::InstanceSpec),
    Volume(v1::VolumeSpec),
    Host(v1::HostSpec),
    /// A group with this idempotency key.
    Group(String),
    Confirm(Vec<String>),
    Keys(Vec<v1::GivenKey>),
    /// A host emptied within these milliseconds.
    Drain(usize),
}

/// A limit by its name, its value, the field that is blamed, and a request for a number.
type Limit = (&'static str, usize, &'static str, fn(usize) -> Asked);

fn instance(change: impl FnOnce(&mut v1::InstanceSpec)) -> Asked {
    let mut spec = instance_spec("bounded");
    change(&mut spec);
    Asked::Instance(spec)
}

fn labels(key: String, value: String) -> Asked {
    instance(|spec| spec.labels = [(key, value)].into())
}

fn placement(change: impl FnOnce(&mut v1::Placement)) -> Asked {
    instance(|spec| change(spec.placement.as_mut().unwrap()))
}

/// A host of its own name and site for each number.
fn host(number: usize, change: impl FnOnce(&mut v1::HostSpec)) -> Asked {
    let mut spec = v1::HostSpec::from(&host_spec(&format!("host {number}")));
    spec.site = format!("site{number}");
    change(&mut spec);
    Asked::Host(spec)
}

fn volume(size_gib: usize) -> Asked {
    Asked::Volume(v1::VolumeSpec {
        name: "bounded".into(),
        size_gib: size_gib as u64,
        class: "standard".into(),
        ..Default::default()
    })
}

fn spot_notice(seconds: usize) -> Asked {
    let notice_seconds = seconds as u32;
    let spot = v1::Spot { max_price_nano_eur: 1, notice_seconds, ..Default::default() };
    instance(|spec| spec.spot = Some(spot))
}

/// SSH keys of so many bytes each, which differ.
fn ssh_keys(bytes: impl IntoIterator<Item = usize>) -> Vec<String> {
    let key = |(number, bytes)| format!("{:A<bytes$}", format!("ssh-rsa {number}"));
    bytes.into_iter().enumerate().map(key).collect()
}

/// Words that differ.
fn words(number: usize) -> Vec<String> {
    (0..number).map(|number| format!("word-{number}")).collect()
}

const LIMITS: &[Limit] = &[
    ("NAME_MAX", limits::NAME_MAX, "name", |n| instance(|spec| spec.name = "x".repeat(n))),
    ("LABELS_MAX", limits::LABELS_MAX, "labels", |n| {
        instance(|spec| spec.labels = words(n).into_iter().map(|key| (key, "x".into())).collect())
    }),
    ("LABEL_KEY_MAX", limits::LABEL_KEY_MAX, "labels", |n| labels("x".repeat(n), "x".into())),
    ("LABEL_VALUE_MAX", limits::LABEL_VALUE_MAX, "labels", |n| labels("x".into(), "x".repeat(n))),
    ("USER_DATA_MAX", limits::USER_DATA_MAX, "user_data", |n| {
        instance(|spec| spec.user_data = "x".repeat(n))
    }),
    ("SSH_KEYS_MAX", limits::SSH_KEYS_MAX, "ssh_keys", |n| {
        instance(|spec| spec.ssh_keys = ssh_keys(vec![100; n]))
    }),
    ("SSH_KEY_MAX", limits::SSH_KEY_MAX, "ssh_keys", |n| {
        instance(|spec| spec.ssh_keys = ssh_keys([n]))
    }),
    ("SSH_KEYS_TOTAL_MAX", limits::SSH_KEYS_TOTAL_MAX, "ssh_keys", |n| {
        let half = n / 8;
        let last = n - 7 * half;
        instance(|spec| spec.ssh_keys = ssh_keys([vec![half; 7], vec![last]].concat()))
    }),
    ("FLAVOR_FALLBACK_MAX", limits::FLAVOR_FALLBACK_MAX, "flavor_fallback", |n| {
        instance(|spec| spec.flavor_fallback = vec!["small".into(); n])
    }),
    ("SCHEDULE_WINDOWS_MAX", limits::SCHEDULE_WINDOWS_MAX, "schedule", |n| {
        let window = v1::ScheduleWindow {
            timezone: "Europe/Berlin".into(),
            start_minute: 60,
            stop_minute: 120,
            days: vec![v1::Weekday::Mon.into()],
        };
        instance(|spec| spec.schedule = vec![window; n])
    }),
    ("PLACEMENT_LIST_MAX", limits::PLACEMENT_LIST_MAX, "placement.regions", |n| {
        placement(|placement| placement.regions = words(n))
    }),
    ("PLACEMENT_LIST_MAX", limits::PLACEMENT_LIST_MAX, "placement.countries", |n| {
        let country =
            |n: usize| ["A", "B"][n / 26].to_owned() + &"ABCDEFGHIJKLMNOPQRSTUVWXYZ"[n % 26..][..1];
        placement(|placement| placement.countries = (0..n).map(country).collect())
    }),
    ("WORD_MAX", limits::WORD_MAX, "placement.regions", |n| {
        placement(|placement| placement.regions = vec!["x".repeat(n)])
    }),
    ("WORD_MAX", limits::WORD_MAX, "site.region", |n| host(n, |spec| spec.region = "x".repeat(n))),
    ("WORD_MAX", limits::WORD_MAX, "features", |n| {
        host(100 + n, |spec| spec.features = vec!["x".repeat(n)])
    }),
    ("FEATURES_MAX", limits::FEATURES_MAX, "features", |n| {
        host(200 + n, |spec| spec.features = words(n))
    }),
    (
        "MEMORY_OVERCOMMIT_PERCENT_MAX",
        limits::MEMORY_OVERCOMMIT_PERCENT_MAX as usize,
        "memory_overcommit_percent",
        |n| host(300 + n, |spec| spec.memory_overcommit_percent = n as u32),
    ),
    ("VOLUME_GIB_MAX", limits::VOLUME_GIB_MAX as usize, "size_gib", volume),
    ("VOLUME_GIB_MAX", limits::VOLUME_GIB_MAX as usize, "boot_volume.size_gib", |n| {
        instance(|spec| spec.boot_volume.as_mut().unwrap().size_gib = n as u64)
    }),
    ("IDEMPOTENCY_KEY_MAX", limits::IDEMPOTENCY_KEY_MAX, "idempotency_key", |n| {
        Asked::Group("k".repeat(n))
    }),
    (
        "CPU_OVERCOMMIT_PERCENT_MAX",
        limits::CPU_OVERCOMMIT_PERCENT_MAX as usize,
        "cpu_overcommit_percent",
        |n| host(600 + n, |spec| spec.cpu_overcommit_percent = n as u32),
    ),
    ("PRICE_PERCENT_MAX", limits::PRICE_PERCENT_MAX as usize, "price_percent", |n| {
        host(3_000 + n, |spec| spec.price_percent = n as u32)
    }),
    ("STOP_TIMEOUT_MS_MAX", limits::STOP_TIMEOUT_MS_MAX as usize, "stop_timeout", |n| {
        instance(|spec| spec.stop_timeout_ms = n as u64)
    }),
    (
        "SPOT_NOTICE_SECONDS_MAX",
        limits::SPOT_NOTICE_SECONDS_MAX as usize,
        "spot.notice_seconds",
        spot_notice,
    ),
    ("DRAIN_MS_MAX", limits::DRAIN_MS_MAX as usize, "deadline_ms", Asked::Drain),
    ("CONFIRM_MAX", limits::CONFIRM_MAX, "ids", |n| Asked::Confirm(words(n))),
];

/// The lower bounds of what has both.
const LEAST: &[Limit] = &[
    ("OVERCOMMIT_PERCENT_MIN", limits::OVERCOMMIT_PERCENT_MIN as usize, "cpu_over", |n| {
        host(5_000 + n, |spec| spec.cpu_overcommit_percent = n as u32)
    }),
    ("OVERCOMMIT_PERCENT_MIN", limits::OVERCOMMIT_PERCENT_MIN as usize, "memory_over", |n| {
        host(5_200 + n, |spec| spec.memory_overcommit_percent = n as u32)
    }),
    ("PRICE_PERCENT_MIN", limits::PRICE_PERCENT_MIN as usize, "price_percent", |n| {
        host(5_400 + n, |spec| spec.price_percent = n as u32)
    }),
    ("STOP_TIMEOUT_MS_MIN", limits::STOP_TIMEOUT_MS_MIN as usize, "stop_timeout", |n| {
        instance(|spec| spec.stop_timeout_ms = n as u64)
    }),
    (
        "SPOT_NOTICE_SECONDS_MIN",
        limits::SPOT_NOTICE_SECONDS_MIN as usize,
        "spot.notice_seconds",
        spot_notice,
    ),
    ("DRAIN_MS_MIN", limits::DRAIN_MS_MIN as usize, "deadline_ms", Asked::Drain),
    ("VOLUME_GIB_MIN", limits::VOLUME_GIB_MIN as usize, "size_gib", volume),
];

/// Asks as who may.
struct Clients {
    customer: Client,
    operator: Client,
    host: String,
    asked: usize,
}

impl Clients {
    async fn of(broker: &Broker) -> Self {
        let customer = broker.as_role(Role::Customer).await;
        let operator = broker.as_role(Role::HostOperator).await;
        Self { customer, operator, host: broker.host.to_string(), asked: 0 }
    }

    async fn ask(&mut self, asked: Asked) -> Result<(), Status> {
        self.asked += 1;
        let (customer, idempotency_key) = (self.customer.clone(), format!("ask {}", self.asked));
        match asked {
            Asked::Instance(spec) => {
                let spec = Some(spec);
                let request = v1::CreateInstanceRequest { spec, idempotency_key };
                InstancesServiceClient::new(customer).create_instance(request).await.map(drop)
            }
            Asked::Volume(spec) => {
                let spec = Some(spec);
                let request = v1::CreateVolumeRequest { spec, idempotency_key };
                VolumesServiceClient::new(customer).create_volume(request).await.map(drop)
            }
            Asked::Host(spec) => {
                let request = v1::RegisterHostRequest { spec: Some(spec), idempotency_key };
                let mut hosts = HostsServiceClient::new(self.operator.clone());
                hosts.register_host(request).await.map(drop)
            }
            Asked::Group(idempotency_key) => {
                let (name, labels) = ("group".into(), Default::default());
                let request = v1::CreatePlacementGroupRequest { name, labels, idempotency_key };
                let mut groups = PlacementGroupsServiceClient::new(customer);
                groups.create_placement_group(request).await.map(drop)
            }
            Asked::Confirm(ids) => {
                let request = v1::ConfirmCreatedRequest { ids, idempotency_key };
                OperationsServiceClient::new(customer).confirm_created(request).await.map(drop)
            }
            Asked::Keys(keys) => {
                let request = v1::GiveKeysRequest { keys, idempotency_key };
                VolumesServiceClient::new(customer).give_keys(request).await.map(drop)
            }
            Asked::Drain(within_ms) => {
                let (id, deadline_ms) = (self.host.clone(), within_ms as i64);
                let request = v1::DrainHostRequest { id, deadline_ms, idempotency_key };
                let mut hosts = HostsServiceClient::new(self.operator.clone());
                hosts.drain_host(request).await.map(drop)
            }
        }
    }

    /// That a request is refused for the limit.
    async fn refused(&mut self, asked: Asked, code: Code, (field, named): (&str, &str)) {
        let answer = self.ask(asked).await;
        let status = answer.expect_err(&format!("{field} is above {named}"));
        let said = detail(&status);
        assert_eq!(status.code(), code, "{field}: {status}");
        assert!(said.field.starts_with(field), "{field}: {said:?}");
        assert!(said.message.contains(named), "{named}: {said:?}");
    }
}

#[tokio::test]
async fn the_last_value_is_taken_and_the_first_above_it_refused_with_the_limit() {
    let broker = Broker::start().await;
    let mut clients = Clients::of(&broker).await;
    for (name, most, field, asked) in LIMITS {
        let taken = clients.ask(asked(*most)).await;
        taken.unwrap_or_else(|status| panic!("{name} of {field}: {status}"));
        let blamed = (*field, &*most.to_string());
        clients.refused(asked(most + 1), Code::InvalidArgument, blamed).await;
    }
    for (name, least, field, asked) in LEAST {
        let taken = clients.ask(asked(*least)).await;
        taken.unwrap_or_else(|status| panic!("{name} of {field}: {status}"));
        let blamed = (*field, &*least.to_string());
        clients.refused(asked(least - 1), Code::InvalidArgument, blamed).await;
    }
    clients
        .refused(Asked::Group(String::new()), Code::InvalidArgument, ("idempotency_key", "1 to"))
        .await;
    let import = |bytes| {
        let Asked::Volume(spec) = volume(1) else { unreachable!() };
        let import = Some(v1::VolumeImport { bytes, sha256: "0".repeat(64) });
        Asked::Volume(v1::VolumeSpec { read_only: true, import, ..spec })
    };
    let (least, most) = (limits::IMPORT_BYTES_MIN, limits::import_bytes_max(1));
    for (bytes, named) in [(least - 1, least), (most + 1, most)] {
        let blamed = ("import.bytes", &*named.to_string());
        clients.refused(import(bytes), Code::InvalidArgument, blamed).await;
    }
    for bytes in [least, most] {
        // Only a host is missing.
        let status = clients.ask(import(bytes)).await.unwrap_err();
        assert_ne!(status.code(), Code::InvalidArgument, "{status}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn an_instance_has_so_many_disks_and_no_more() {
    let broker = Broker::start().await;
    let mut clients = Clients::of(&broker).await;
    let mut volumes = VolumesServiceClient::new(clients.customer.clone());
    let mut ids = Vec::new();
    for number in 0..=limits::ATTACHMENTS_MAX {
        let Asked::Volume(spec) = volume(1) else { unreachable!() };
        let idempotency_key = format!("disk {number}");
        let request = v1::CreateVolumeRequest { spec: Some(spec), idempotency_key };
        let made = volumes.create_volume(request).await.unwrap().into_inner();
        ids.push(made.volume.unwrap().id);
    }
    let with = |number: usize| {
        let attached = ids[..number].iter().enumerate().map(|(index, id)| {
            let attachment = v1::VolumeAttachment { volume_id: id.clone(), read_only: false };
            (format!("disk{index}"), attachment)
        });
        instance(|spec| spec.volumes = attached.collect())
    };
    let most = limits::ATTACHMENTS_MAX;
    let blamed = ("volumes", &*most.to_string());
    clients.refused(with(most + 1), Code::InvalidArgument, blamed).await;
    clients.ask(with(most)).await.unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn so_many_keys_are_given_at_a_time_and_no_more() {
    let broker = Broker::start().await;
    let mut clients = Clients::of(&broker).await;
    let keys = |number: usize| {
        let given = |number| v1::GivenKey {
            volume_id: VolumeId::from_parts(1, number).to_string(),
            host_id: broker.host.to_string(),
            version: 1,
            key_version: 1,
            fingerprint: format!("SHA256:{}", "A".repeat(43)),
            sealed: vec![1],
            wrapped: vec![2],
        };
        Asked::Keys((0..number as u128).map(given).collect())
    };
    // There are no such volumes: that is what is wrong with as many as may be given.
    let status = clients.ask(keys(limits::GIVE_KEYS_MAX)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");
    let blamed = ("keys", &*limits::GIVE_KEYS_MAX.to_string());
    clients.refused(keys(limits::GIVE_KEYS_MAX + 1), Code::InvalidArgument, blamed).await;
    broker.stop().await;
}

#[tokio::test]
async fn an_account_has_so_many_of_a_kind_and_no_more() {
    let config = CoreConfig {
        instances_per_account: 2,
        volumes_per_account: 5,
        groups_per_account: 2,
        // One is there.
        hosts_per_account: 3,
        // One is there.
        tokens_per_account: 3,
        ..CoreConfig::default()
    };
    let broker = Broker::start_on(config, |_| {}).await;
    let mut clients = Clients::of(&broker).await;
    type Ask = fn(usize) -> Asked;
    // The two instances have boot volumes, which count.
    let kinds: [(&str, usize, u64, Ask); 4] = [
        ("instances", 2, 2, |_| instance(|_| {})),
        ("volumes", 3, 5, |_| volume(1)),
        ("placement groups", 2, 2, |number| Asked::Group(format!("group {number}"))),
        ("hosts", 2, 3, |number| host(number, |_| {})),
    ];
    for (noun, more, most, ask) in kinds {
        for number in 0..more {
            clients.ask(ask(number)).await.unwrap();
        }
        let named = format!("{most} {noun}");
        clients.refused(ask(more), Code::ResourceExhausted, ("", &named)).await;
    }
    let mut accounts = AccountsServiceClient::new(clients.customer.clone());
    let account = accounts.get_account(v1::GetAccountRequest {}).await.unwrap().into_inner();
    assert_eq!((account.instances, account.instances_limit), (2, 2));
    assert_eq!((account.volumes, account.volumes_limit), (5, 5));
    let mut tokens = TokensServiceClient::new(clients.customer.clone());
    let mut make = async |name: &str| {
        let request = v1::CreateTokenRequest {
            name: name.into(),
            role: v1::Role::Customer.into(),
            idempotency_key: name.into(),
            ..Default::default()
        };
        tokens.create_token(request).await
    };
    let mut made = 0;
    let status = loop {
        match make(&format!("token {made}")).await {
            Ok(_) => made += 1,
            Err(status) => break status,
        }
    };
    assert!(made > 0, "{status}");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(detail(&status).message.contains("3 tokens"), "{status}");
    broker.stop().await;
}

#[test]
fn every_stated_limit_is_in_a_table() {
    let source = include_str!("../../../model/src/limits.rs");
    let stated = source.lines().filter_map(|line| line.strip_prefix("pub const "));
    let stated: BTreeSet<_> = stated.filter_map(|line| line.split_once(':')).map(|l| l.0).collect();
    let stated: BTreeSet<_> = stated.into_iter().filter(|name| !name.contains("fn ")).collect();
    assert!(stated.len() > 30, "{stated:?}");
    let tested = LIMITS.iter().chain(LEAST).map(|limit| limit.0);
    let tested = tested.chain(COUNTS).chain(["ATTACHMENTS_MAX"]);
    let others = OTHERS.iter().map(|other| other.0);
    let known: BTreeSet<_> = tested.chain(others).collect();
    assert_eq!(known, stated);
}
