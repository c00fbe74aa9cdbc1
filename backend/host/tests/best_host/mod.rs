//! The facts of a host that reaches the highest level of the standard.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::time::Duration;

use fairmazon_host::standard::{
    Boots, ClassFacts, ClockFacts, DaemonFacts, DiskSpeed, Facts, HypervisorFacts, Limit, Location,
    Mounted, Settings, StateFolder, User,
};

pub const GIB: u64 = 1 << 30;

/// What the hypervisor's driver finds on the best of hosts.
pub fn hypervisor() -> HypervisorFacts {
    HypervisorFacts {
        guest: Ok(Boots::Hardware),
        driver: Some(Boots::Hardware),
        encryption: Ok(Ok(())),
        qemu: Ok((10, 0)),
        libvirt: Ok((11, 3)),
        daemon: Ok(Ok(DaemonFacts {
            runs: vec![Boots::Hardware, Boots::Software],
            qemu_user: None,
            keeps_secrets: true,
        })),
        clock: Ok(ClockFacts { synchronised: true, error_most: Duration::from_millis(4) }),
    }
}

pub fn on(folder: &str, filesystem: &str) -> Mounted {
    Mounted { folder: folder.into(), filesystem: filesystem.into() }
}

fn class(name: &str, device: u64) -> ClassFacts {
    ClassFacts {
        class: name.into(),
        offered_gib: 100,
        folder: format!("/srv/{name}"),
        device,
        free: 150 * GIB,
        used: 50 * GIB,
        speed: Ok(DiskSpeed { megabytes_per_second: 900, sync: Duration::from_micros(300) }),
    }
}

/// The best of hosts.
pub fn best() -> Facts {
    Facts {
        hypervisor: hypervisor(),
        keys_folder: Ok(on("/var/lib/libvirt/qemu", "tmpfs")),
        run_folders: Ok(vec![on("/run/host", "tmpfs"), on("/run/host/seeds", "ramfs")]),
        logs_folder: Ok(on("/var/log/libvirt/qemu", "ext4")),
        swaps: Ok(Vec::new()),
        core_pattern: Ok("|/bin/false".into()),
        core_limit: Ok(Limit::Unlimited),
        libvirt_core_limits: Ok(Vec::new()),
        hibernation: Ok(None),
        qemu_settings: Ok(Settings::parse("max_core = 0")),
        qemu_user: Ok(Some(User { name: "root".into(), id: 0 })),
        agent_user: Ok(0),
        guests_on_shutdown: Ok(None),
        saved_guests: Ok(Vec::new()),
        libvirt_listeners: Ok(Vec::new()),
        locked_memory: Ok(Limit::Unlimited),
        state_folder: Ok(StateFolder::There { mode: 0o700, open: Vec::new() }),
        storage: Ok(vec![class("fast", 1), class("standard", 2)]),
        round_trip: Ok(Duration::from_millis(12)),
        location: Ok(Location { country: "DE".into(), latitude: 48.14, longitude: 11.58 }),
    }
}
