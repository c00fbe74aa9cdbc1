//! Rows for tests and benches: complete, distinct by their number, the same at every run.

use std::collections::{BTreeMap, BTreeSet};

use fairmazon_model::{
    access::{Account, Credential, CredentialKind, Recurs, Role},
    geo::Coordinates,
    host::{Capacity, Host, HostSpec},
    id::{AccountId, HostId, InstanceId, OperationId, PlacementGroupId, TokenId, VolumeId},
    instance::{
        BootVolumeSpec, Instance, InstanceObserved, InstanceSpec, OnUserDataChange, Power,
        RestartPolicy,
    },
    operation::{Operation, OperationKind, OperationState},
    placement::{Placement, PlacementGroup, Prefer, Preferences},
    site::Site,
    units::{Epoch, Gib, Mib, Revision, UnixMs, Vcpus},
    volume::{Volume, VolumeObserved, VolumeSpec},
};
use fairmazon_store::IdempotencyRecord;

/// When everything happens.
pub(crate) const NOW: UnixMs = UnixMs(1_800_000_000_000);

fn unix_ms(number: u64) -> u64 {
    1_800_000_000_000 + number
}

/// The id of account number `number`.
pub(crate) fn account_id(number: u64) -> AccountId {
    AccountId::from_parts(unix_ms(number), 1)
}

/// An account.
pub(crate) fn account(number: u64) -> Account {
    Account {
        id: account_id(number),
        name: format!("account {number}"),
        created_at: NOW,
        revision: Revision(0),
    }
}

/// A host of the account.
pub(crate) fn host(account: AccountId, number: u64) -> Host {
    Host {
        sealing: None,
        draining: None,
        conformity: None,
        lost_at: None,
        id: HostId::from_parts(unix_ms(number), 2),
        account,
        spec: HostSpec {
            name: format!("host-{number}"),
            site: Site {
                name: "fra1".into(),
                town: "Frankfurt am Main".into(),
                country: "DE".into(),
                region: "eu-central".into(),
                coordinates: Coordinates { latitude: 50.1109, longitude: 8.6821 },
            },
            capacity: Capacity {
                vcpus: Vcpus(64),
                memory: Mib(262_144),
                storage: BTreeMap::from([("standard".into(), Gib(10_000))]),
            },
            cpu_overcommit_percent: 200,
            memory_overcommit_percent: 100,
            conformity: 1,
            features: BTreeSet::new(),
            price_percent: 100,
            schedulable: true,
        },
        created_at: NOW,
        revision: Revision(0),
    }
}

/// A token of the account.
pub(crate) fn credential(account: AccountId, number: u64) -> Credential {
    Credential {
        id: TokenId::from_parts(unix_ms(number), 3),
        account,
        kind: CredentialKind::Token,
        sha256: format!("{number:064x}"),
        role: Role::Customer,
        host: None,
        name: format!("token {number}"),
        created_at: NOW,
        expires_at: None,
        revoked_at: None,
        recurs: Recurs::Never,
        joined_with: None,
        revision: Revision(0),
    }
}

/// A placement group of the account.
pub(crate) fn group(account: AccountId, number: u64) -> PlacementGroup {
    PlacementGroup {
        id: PlacementGroupId::from_parts(unix_ms(number), 4),
        account,
        name: format!("group {number}"),
        labels: BTreeMap::new(),
        unconfirmed: false,
        created_at: NOW,
        revision: Revision(0),
    }
}

/// A machine: instance, boot volume, and the operation that creates it.
pub(crate) fn machine(account: AccountId, number: u64) -> (Instance, Volume, Operation) {
    let id = InstanceId::from_parts(unix_ms(number), 5);
    let boot_volume_id = VolumeId::from_parts(unix_ms(number), 6);
    let labels = BTreeMap::from([("env".to_owned(), "test".to_owned())]);
    let instance = Instance {
        id,
        account,
        spec: InstanceSpec {
            name: format!("web-{number}"),
            flavor: "small".into(),
            flavor_fallback: Vec::new(),
            image: "debian-13".into(),
            placement: Placement {
                countries: BTreeSet::from(["DE".into()]),
                ..Placement::default()
            },
            preferences: Preferences { prefer: Prefer::Spread, near: Some("fra1".into()) },
            boot_volume: BootVolumeSpec {
                size: Gib(10),
                class: "standard".into(),
                delete_with_instance: true,
            },
            volumes: BTreeMap::new(),
            user_data: String::new(),
            on_user_data_change: OnUserDataChange::NextBoot,
            ssh_keys: BTreeSet::from([format!("ssh-ed25519 {}", "A".repeat(68))]),
            power: Power::Running,
            schedule: None,
            spot: None,
            restart_policy: RestartPolicy::Always,
            stop_timeout_ms: 60_000,
            deletion_protection: false,
            labels: labels.clone(),
        },
        spec_version: 1,
        reboots: 0,
        rebuilds: 0,
        first_boots: 0,
        migration: None,
        interruption: None,
        carrier: false,
        in_vain: Default::default(),
        later: None,
        reserved: None,
        displaced: None,
        boot_volume_id,
        decision: None,
        last_epoch: Epoch(0),
        observed: InstanceObserved::default(),
        waiting_for: String::new(),
        deleting: None,
        unconfirmed: true,
        created_at: NOW,
        revision: Revision(0),
    };
    let volume = Volume {
        id: boot_volume_id,
        account,
        spec: VolumeSpec {
            name: format!("web-{number}"),
            size: Gib(10),
            class: "standard".into(),
            source: None,
            image: None,
            import: None,
            read_only: false,
            key_version: 1,
            placement: Placement::default(),
            deletion_protection: false,
            labels,
        },
        boot_of: Some(id),
        attached_to: Some(id),
        may_be_on: Default::default(),
        next_keys: Default::default(),
        refused_keys: 0,
        keys: Default::default(),
        host: None,
        made: false,
        observed: VolumeObserved::Unknown,
        deleting: None,
        unconfirmed: true,
        created_at: NOW,
        revision: Revision(0),
    };
    let operation = Operation {
        id: OperationId::from_parts(unix_ms(number), 7),
        account,
        kind: OperationKind::Create,
        target: id.to_string(),
        spec_version: 1,
        state: OperationState::running(""),
        created_at: NOW,
        finished_at: None,
        revision: Revision(0),
    };
    (instance, volume, operation)
}

/// An idempotency record that counts for a day from [`NOW`].
pub(crate) fn idempotency(account: AccountId, key: &str) -> IdempotencyRecord {
    IdempotencyRecord {
        account,
        key: key.to_owned(),
        fingerprint: "f".repeat(64),
        answer: serde_json::Value::Null,
        created_at: NOW,
        expires_at: UnixMs(NOW.0 + 86_400_000),
    }
}
