//! Whatever the model holds survives the wire, and wrong messages name the field to blame.

use std::collections::{BTreeMap, BTreeSet};

use fairmazon_model::{
    DomainError, ErrorKind,
    catalogue::Catalogue,
    id::{InstanceId, PlacementGroupId, VolumeId},
    instance::{
        Attachment, BootVolumeSpec, InstanceSpec, ObservedState, OnInterrupt, OnUserDataChange,
        Power, RestartPolicy, Spot,
    },
    machine::{
        DesiredSet, Disk, HostVolume, MachineSeen, MachineSpec, ObservedSet, VolumeSeen, VolumeWish,
    },
    placement::Placement,
    price::NanoEur,
    schedule::{Schedule, Weekday, Window},
    units::{Epoch, Generation, Gib, Mib, Vcpus},
    volume::{VolumeObserved, VolumeSpec},
};
use fairmazon_proto::{host::v1 as host, v1};
use proptest::{collection, option, prelude::*, sample::select};

fn placement() -> impl Strategy<Value = Placement> {
    let group = any::<u128>().prop_map(|n| PlacementGroupId::from_parts(0, n >> 48));
    let groups = || collection::btree_set(group.clone(), 0..3);
    (
        collection::btree_set("[A-Z]{2}", 0..3),
        collection::btree_set("[a-z-]{1,9}", 0..3),
        groups(),
        groups(),
        0..4_u8,
        any::<bool>(),
    )
        .prop_map(|(countries, regions, not_with, with, min_conformity, confidential)| {
            Placement { countries, regions, not_with, with, min_conformity, confidential }
        })
}

fn volume_id() -> impl Strategy<Value = VolumeId> {
    (0..1_u64 << 47, any::<u64>()).prop_map(|(ms, n)| VolumeId::from_parts(ms, n.into()))
}

fn window() -> impl Strategy<Value = Window> {
    (0..1_440_u16, 0..1_440_u16, collection::btree_set(select(Weekday::ALL.to_vec()), 1..7))
        .prop_map(|(start_minute, stop_minute, days)| Window {
            timezone: "Europe/Helsinki".into(),
            start_minute,
            stop_minute,
            days,
        })
}

fn texts() -> impl Strategy<Value = BTreeMap<String, String>> {
    collection::btree_map(".{0,9}", ".{0,9}", 0..4)
}

prop_compose! {
    fn instance_spec()(
        name in ".{0,9}",
        flavors in collection::vec("[a-z]{1,6}", 1..4),
        placement in placement(),
        boot in (1..100_u64, any::<bool>()),
        volumes in collection::btree_map("[a-z]{1,5}", (volume_id(), any::<bool>()), 0..3),
        user_data in ".{0,30}",
        choices in (0..3_usize, any::<bool>(), 0..3_usize),
        ssh_keys in collection::btree_set(".{0,9}", 0..3),
        windows in collection::vec(window(), 0..3),
        spot in option::of((1..1_000_000_i64, 30..3_600_u32, any::<bool>())),
        stop_timeout_ms in 1..3_600_000_u64,
        deletion_protection in any::<bool>(),
        labels in texts(),
    ) -> InstanceSpec {
        InstanceSpec {
            name,
            flavor: flavors[0].clone(),
            flavor_fallback: flavors[1..].to_vec(),
            image: "debian-13".into(),
            placement,
            boot_volume: BootVolumeSpec { size: Gib(boot.0), class: "fast".into(), delete_with_instance: boot.1 },
            volumes: volumes
                .into_iter()
                .map(|(name, (volume_id, read_only))| (name, Attachment { volume_id, read_only }))
                .collect(),
            user_data,
            on_user_data_change: [OnUserDataChange::Ignore, OnUserDataChange::NextBoot, OnUserDataChange::Rebuild][choices.0],
            ssh_keys,
            power: if choices.1 { Power::Running } else { Power::Stopped },
            schedule: (!windows.is_empty()).then_some(Schedule { windows }),
            spot: spot.map(|(max_price, notice_seconds, delete)| Spot {
                max_price: NanoEur(max_price),
                notice_seconds,
                on_interrupt: if delete { OnInterrupt::Delete } else { OnInterrupt::Stop },
            }),
            restart_policy: [RestartPolicy::Always, RestartPolicy::OnHostFailure, RestartPolicy::Never][choices.2],
            stop_timeout_ms,
            deletion_protection,
            labels,
        }
    }
}

prop_compose! {
    fn machine()(
        ids in (any::<u64>(), any::<u64>(), any::<u64>()),
        sizes in (1..64_u32, 1..1_000_000_u64),
        running in any::<bool>(),
        disks in collection::vec(("[a-z]{1,5}", volume_id(), any::<bool>()), 1..4),
        text in ".{0,30}",
        counts in (any::<u64>(), any::<u64>(), any::<u64>()),
    ) -> MachineSpec {
        let disks: Vec<_> = disks
            .into_iter()
            .map(|(name, volume, read_only)| Disk { name, volume, read_only })
            .collect();
        MachineSpec {
            instance: InstanceId::from_parts(1, ids.0.into()),
            epoch: Epoch(ids.1),
            spec_version: ids.2,
            name: text.clone(),
            vcpus: Vcpus(sizes.0),
            memory: Mib(sizes.1),
            image: "img-debian-13".into(),
            power: if running { Power::Running } else { Power::Stopped },
            restart: RestartPolicy::OnHostFailure,
            boot: disks[0].clone(),
            disks: disks[1..].to_vec(),
            user_data: text,
            ssh_keys: vec!["ssh-ed25519 AAAA".into()],
            stop_timeout_ms: 5,
            reboots: counts.0,
            rebuilds: counts.1,
            first_boots: counts.2,
        }
    }
}

proptest! {
    #[test]
    fn an_instance_spec_survives(spec in instance_spec()) {
        let back = InstanceSpec::try_from(v1::InstanceSpec::from(&spec)).unwrap();
        prop_assert_eq!(back, spec);
    }

    #[test]
    fn a_volume_spec_survives(name in ".{0,9}", size in any::<u64>(), placement in placement(), labels in texts()) {
        let spec = VolumeSpec { name, size: Gib(size), class: "fast".into(), placement, deletion_protection: true, labels };
        prop_assert_eq!(VolumeSpec::try_from(v1::VolumeSpec::from(&spec)).unwrap(), spec);
    }

    #[test]
    fn a_desired_set_survives(
        generation in any::<u64>(),
        machines in collection::vec(machine(), 0..4),
        volumes in collection::vec((volume_id(), any::<u64>(), any::<bool>(), any::<bool>()), 0..4),
    ) {
        let volumes = volumes
            .into_iter()
            .map(|(volume, size, image, delete)| HostVolume {
                volume,
                size: Gib(size),
                class: "fast".into(),
                image: image.then(|| "img-debian-13".into()),
                wish: if delete { VolumeWish::Delete } else { VolumeWish::Keep },
            })
            .collect();
        let set = DesiredSet { generation: Generation(generation), machines, volumes };
        prop_assert_eq!(DesiredSet::try_from(host::Desired::from(&set)).unwrap(), set);
    }

    #[test]
    fn an_observed_set_survives(
        states in collection::vec((any::<u64>(), 0..7_usize, "[a-z]{1,9}"), 0..9),
        volumes in collection::vec((volume_id(), 0..3_usize, "[a-z]{1,9}"), 0..9),
    ) {
        let machines = states
            .into_iter()
            .map(|(n, state, reason)| MachineSeen {
                instance: InstanceId::from_parts(1, n.into()),
                epoch: Epoch(n),
                spec_version: n,
                state: [
                    ObservedState::Unknown,
                    ObservedState::Absent,
                    ObservedState::Starting,
                    ObservedState::Running,
                    ObservedState::Stopping,
                    ObservedState::Stopped,
                    ObservedState::Failed { reason },
                ][state].clone(),
                addresses: vec!["2001:db8::1".into()],
            })
            .collect();
        let volumes = volumes
            .into_iter()
            .map(|(volume, state, reason)| VolumeSeen {
                volume,
                state: [
                    VolumeObserved::Absent,
                    VolumeObserved::Present { size: Gib(7) },
                    VolumeObserved::Failed { reason },
                ][state].clone(),
            })
            .collect();
        let set = ObservedSet { generation: Generation(9), machines, volumes };
        prop_assert_eq!(ObservedSet::try_from(host::Observed::from(&set)).unwrap(), set);
    }
}

#[test]
fn the_catalogue_survives() {
    let catalogue = Catalogue::default_catalogue();
    assert_eq!(Catalogue::from(v1::Catalogue::from(&catalogue)), catalogue);
}

#[test]
fn an_error_survives_without_the_operators_text() {
    let error = DomainError::invalid("boot_volume.size_gib", "too small")
        .advise("raise it")
        .for_operator("secret");
    let back = DomainError::from(v1::ErrorDetail::from(&error));
    assert_eq!(back, DomainError { operator: String::new(), ..error });
    let unknown =
        v1::ErrorDetail { kind: "of_the_future".into(), message: "m".into(), ..Default::default() };
    assert_eq!(DomainError::from(unknown).kind, ErrorKind::Internal);
}

#[test]
fn a_wrong_message_names_its_field() {
    let good =
        v1::InstanceSpec { boot_volume: Some(v1::BootVolume::default()), ..Default::default() };
    assert!(InstanceSpec::try_from(good.clone()).is_ok());
    let blamed = |spec: v1::InstanceSpec| {
        InstanceSpec::try_from(spec).unwrap_err().field.unwrap_or_default()
    };
    assert_eq!(blamed(v1::InstanceSpec { boot_volume: None, ..good.clone() }), "boot_volume");
    assert_eq!(blamed(v1::InstanceSpec { power_state: 99, ..good.clone() }), "power_state");
    let volumes = BTreeMap::from([(
        "data".to_owned(),
        v1::VolumeAttachment { volume_id: "x".into(), read_only: false },
    )]);
    assert_eq!(blamed(v1::InstanceSpec { volumes, ..good.clone() }), "volumes[\"data\"].volume_id");
    let placement = Some(v1::Placement { not_with: vec!["x".into()], ..Default::default() });
    assert_eq!(blamed(v1::InstanceSpec { placement, ..good.clone() }), "placement.not_with");
    let schedule = vec![v1::ScheduleWindow { start_minute: 70_000, ..Default::default() }];
    assert_eq!(blamed(v1::InstanceSpec { schedule, ..good }), "schedule[0].start");
}

#[test]
fn every_weekday_has_its_own_number() {
    let numbers: BTreeSet<i32> =
        Weekday::ALL.iter().map(|day| v1::Weekday::from(*day).into()).collect();
    assert_eq!(numbers.len(), 7);
}
