//! Refusals that users cause, one after the other: what each has to say is looked at where answers
//! come in, in `advice`.

use std::collections::BTreeMap;

use fairmazon_model::access::Role;
use fairmazon_proto::v1::{
    self, CreateInstanceRequest, CreateTokenRequest, CreateVolumeRequest, DeleteVolumeRequest,
    DrainHostRequest, GetAccountRequest, ListUsageRequest, RegisterHostRequest,
    accounts_service_client::AccountsServiceClient, hosts_service_client::HostsServiceClient,
    instances_service_client::InstancesServiceClient, tokens_service_client::TokensServiceClient,
    usage_service_client::UsageServiceClient, volumes_service_client::VolumesServiceClient,
};
use tonic::{Code, Status};

use crate::harness::{Broker, detail, host_spec, instance_spec};

/// A change of a good request that makes it a bad one, and the field that is to blame.
type Wrong<T> = (&'static str, fn(&mut T));

fn blames(answer: Result<(), Status>, field: &str) {
    let status = answer.expect_err(field);
    assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status}");
    assert_eq!(detail(&status).field, field, "{status}");
}

#[tokio::test]
async fn what_an_instance_may_not_be_is_told() {
    let broker = Broker::start().await;
    let mut instances = InstancesServiceClient::new(broker.as_role(Role::Customer).await);
    let spot = |change: fn(&mut v1::Spot)| {
        let mut spot = v1::Spot { max_price_nano_eur: 1, notice_seconds: 60, on_interrupt: 1 };
        change(&mut spot);
        Some(spot)
    };
    let wrong: [Wrong<v1::InstanceSpec>; 13] = [
        ("flavor", |spec| spec.flavor = "gigantic".into()),
        ("flavor_fallback", |spec| spec.flavor_fallback = vec!["gigantic".into()]),
        ("image", |spec| spec.image = "none".into()),
        ("boot_volume", |spec| spec.boot_volume = None),
        ("boot_volume.class", |spec| boot(spec).class = "none".into()),
        ("boot_volume.size_gib", |spec| {
            spec.image = "debian-13".into();
            boot(spec).size_gib = 1;
        }),
        ("stop_timeout", |spec| spec.stop_timeout_ms = 1),
        ("stop_timeout", |spec| spec.stop_timeout_ms = 3_600_001),
        ("ssh_keys", |spec| spec.ssh_keys = vec!["none".into()]),
        ("power_state", |spec| spec.power_state = 99),
        ("restart_policy", |spec| spec.restart_policy = 99),
        ("placement.countries", |spec| place(spec).countries = vec!["Germany".into()]),
        ("placement.min_conformity", |spec| place(spec).min_conformity = 7),
    ];
    for (number, (field, change)) in wrong.into_iter().enumerate() {
        let mut spec = instance_spec("wrong");
        change(&mut spec);
        let request =
            CreateInstanceRequest { spec: Some(spec), idempotency_key: number.to_string() };
        blames(instances.create_instance(request).await.map(drop), field);
    }
    for (field, spot) in [
        ("spot.notice_seconds", spot(|spot| spot.notice_seconds = 29)),
        ("spot.max_price_per_hour", spot(|spot| spot.max_price_nano_eur = 0)),
    ] {
        let spec = Some(v1::InstanceSpec { spot, ..instance_spec("wrong") });
        let request = CreateInstanceRequest { spec, idempotency_key: field.into() };
        blames(instances.create_instance(request).await.map(drop), field);
    }
    broker.stop().await;
}

fn boot(spec: &mut v1::InstanceSpec) -> &mut v1::BootVolume {
    spec.boot_volume.as_mut().unwrap()
}

fn place(spec: &mut v1::InstanceSpec) -> &mut v1::Placement {
    spec.placement.as_mut().unwrap()
}

#[tokio::test]
async fn what_a_host_may_not_be_is_told() {
    let broker = Broker::start().await;
    let mut hosts = HostsServiceClient::new(broker.as_role(Role::HostOperator).await);
    let wrong: [Wrong<v1::HostSpec>; 12] = [
        ("site.country", |spec| spec.country = "Germany".into()),
        ("site", |spec| spec.town = "Munich".into()),
        ("latitude", |spec| spec.latitude = 91.0),
        ("longitude", |spec| spec.longitude = -181.0),
        ("capacity", |spec| spec.vcpus = 0),
        ("capacity.storage", |spec| spec.storage_gib = BTreeMap::from([("none".into(), 1)])),
        ("cpu_overcommit_percent", |spec| spec.cpu_overcommit_percent = 99),
        ("cpu_overcommit_percent", |spec| spec.cpu_overcommit_percent = 1_601),
        ("conformity", |spec| spec.conformity = 4),
        ("conformity", |spec| spec.conformity = 400),
        ("price_percent", |spec| spec.price_percent = 0),
        ("price_percent", |spec| spec.price_percent = 1_001),
    ];
    for (number, (field, change)) in wrong.into_iter().enumerate() {
        let mut spec = v1::HostSpec::from(&host_spec("wrong"));
        change(&mut spec);
        let request = RegisterHostRequest { spec: Some(spec), idempotency_key: number.to_string() };
        blames(hosts.register_host(request).await.map(drop), field);
    }
    for deadline_ms in [999, 30 * 24 * 60 * 60 * 1_000 + 1] {
        let (id, idempotency_key) = (broker.host.to_string(), deadline_ms.to_string());
        let request = DrainHostRequest { id, deadline_ms, idempotency_key };
        blames(hosts.drain_host(request).await.map(drop), "deadline_ms");
    }
    broker.stop().await;
}

#[tokio::test]
async fn what_a_volume_may_not_be_and_what_is_not_attached_is_told() {
    let broker = Broker::start().await;
    let customer = broker.as_role(Role::Customer).await;
    let mut volumes = VolumesServiceClient::new(customer.clone());
    let mut instances = InstancesServiceClient::new(customer);
    let good = v1::VolumeSpec {
        name: "data".into(),
        size_gib: 5,
        class: "standard".into(),
        ..v1::VolumeSpec::default()
    };
    let wrong: [Wrong<v1::VolumeSpec>; 4] = [
        ("class", |spec| spec.class = "none".into()),
        ("source.image", |spec| spec.image = "none".into()),
        ("source", |spec| spec.read_only = true),
        ("placement.min_conformity", |spec| {
            spec.placement = Some(v1::Placement { min_conformity: 9, ..v1::Placement::default() });
        }),
    ];
    for (number, (field, change)) in wrong.into_iter().enumerate() {
        let mut spec = good.clone();
        change(&mut spec);
        let request = CreateVolumeRequest { spec: Some(spec), idempotency_key: number.to_string() };
        blames(volumes.create_volume(request).await.map(drop), field);
    }
    let create = |name: &str, volume_id: Option<&str>| CreateInstanceRequest {
        spec: Some(v1::InstanceSpec {
            volumes: volume_id
                .map(|id| {
                    ("data".into(), v1::VolumeAttachment { volume_id: id.into(), read_only: false })
                })
                .into_iter()
                .collect(),
            ..instance_spec(name)
        }),
        idempotency_key: name.into(),
    };
    let first = instances.create_instance(create("first", None)).await.unwrap().into_inner();
    let boot = first.instance.unwrap().boot_volume_id;
    let status = instances.create_instance(create("second", Some(&boot))).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let request = DeleteVolumeRequest { id: boot, idempotency_key: "boot".into() };
    let status = volumes.delete_volume(request).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");

    let request = CreateVolumeRequest { spec: Some(good), idempotency_key: "good".into() };
    let data = volumes.create_volume(request).await.unwrap().into_inner().volume.unwrap().id;
    instances.create_instance(create("third", Some(&data))).await.unwrap();
    let status = instances.create_instance(create("fourth", Some(&data))).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    broker.stop().await;
}

#[tokio::test]
async fn what_a_credential_may_not_is_told() {
    let broker = Broker::start().await;
    let nobody = broker.with_token(Some("fmz_none")).await;
    let status =
        AccountsServiceClient::new(nobody).get_account(GetAccountRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let customer = broker.as_role(Role::Customer).await;
    let mut tokens = TokensServiceClient::new(customer.clone());
    let wrong: [(Code, Wrong<CreateTokenRequest>); 5] = [
        (Code::InvalidArgument, ("role", |request| request.role = 0)),
        (Code::InvalidArgument, ("role", |request| request.role = 99)),
        (Code::InvalidArgument, ("role", |request| request.role = v1::Role::Host.into())),
        (
            Code::InvalidArgument,
            ("lifetime_seconds", |request| request.lifetime_seconds = u64::MAX),
        ),
        (
            Code::PermissionDenied,
            ("", |request| {
                request.account_id = "acc-01hf7yat000000000000000001".into();
            }),
        ),
    ];
    for (number, (code, (field, change))) in wrong.into_iter().enumerate() {
        let mut request = CreateTokenRequest {
            name: "wrong".into(),
            role: v1::Role::Customer.into(),
            idempotency_key: number.to_string(),
            ..CreateTokenRequest::default()
        };
        change(&mut request);
        let status = tokens.create_token(request).await.unwrap_err();
        assert_eq!((status.code(), detail(&status).field.as_str()), (code, field), "{status}");
    }
    let request = ListUsageRequest { from_ms: 2, until_ms: 1, ..ListUsageRequest::default() };
    let mut usage = UsageServiceClient::new(customer);
    blames(usage.list_usage(request).await.map(drop), "until_ms");
    broker.stop().await;
}
