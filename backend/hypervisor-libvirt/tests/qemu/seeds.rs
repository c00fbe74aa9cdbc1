//! What guests are told at their start.

use std::sync::Arc;

use fairmazon_hypervisor::{
    Counters, Hypervisor, Marks, OffReason,
    contract::{instance, spec, wish},
};
use fairmazon_hypervisor_libvirt::qemu::QemuHost;
use fairmazon_model::machine::{HostVolume, MachineSpec};

use crate::{
    guests::is_off,
    lab::{IMAGE, Lab, give_keys, marked, says},
};

const SCRIPT: &str = "#!/bin/sh\nset -e\necho \"the script runs on $(hostname)\"\n";

/// A host with machine 1 defined, which has a script and two keys.
async fn defined(lab: &Lab) -> (QemuHost, MachineSpec) {
    let host = lab.host();
    give_keys(&host).await;
    host.create_volume(&HostVolume { image: Some(IMAGE.into()), ..wish(1) }).await.unwrap();
    let spec = MachineSpec {
        name: "Web_1".into(),
        user_data: SCRIPT.into(),
        ssh_keys: vec!["ssh-ed25519 AAAA one".into(), "ssh-ed25519 BBBB two".into()],
        ..spec(1)
    };
    host.define(&Arc::new(spec.clone()), Marks::default()).await.unwrap();
    (host, spec)
}

/// Starts it again; what its guest has said in this run until its script has run.
async fn said_by_another_run(host: &QemuHost, runs: usize) -> String {
    host.start(instance(1)).await.unwrap();
    let said = said_times(host, "GUEST-SCRIPT ", runs).await;
    host.force_stop(instance(1)).await.unwrap();
    is_off(host).await;
    let last = said.rfind("GUEST-BOOT-DISK").unwrap();
    said[last..].to_owned()
}

async fn said_times(host: &QemuHost, text: &str, times: usize) -> String {
    let begin = std::time::Instant::now();
    loop {
        let said = says(host, instance(1), text).await;
        if marked(&said, text).count() == times {
            return said;
        }
        assert!(begin.elapsed() < crate::lab::PATIENCE, "{said}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_guest_gets_its_name_its_keys_and_runs_the_users_script() {
    let lab = Lab::start();
    let (host, mut spec) = defined(&lab).await;
    let said = said_by_another_run(&host, 1).await;
    let id = format!("GUEST-INSTANCE-ID {}-0-0", instance(1));
    for line in [
        id.as_str(),
        "GUEST-HOSTNAME web-1",
        "GUEST-USER-DATA #!/bin/sh",
        "GUEST-SSH-KEY ssh-ed25519 AAAA one",
        "GUEST-SSH-KEY ssh-ed25519 BBBB two",
        "the script runs on web-1",
        "GUEST-SCRIPT 0",
    ] {
        assert!(said.lines().any(|said| said.trim_end() == line), "{line}: {said}");
    }
    assert!(!said.contains("GUEST-FAILED"), "{said}");
    // What changes reaches the guest at its next start, and makes no new instance of it.
    spec.name = "web-2".into();
    spec.ssh_keys.truncate(1);
    spec.user_data = "#!/bin/sh\nfalse\n".into();
    host.define(&Arc::new(spec.clone()), Marks::default()).await.unwrap();
    let said = said_by_another_run(&host, 2).await;
    assert!(said.contains(&id) && said.contains("GUEST-HOSTNAME web-2"), "{said}");
    assert!(said.contains("GUEST-SCRIPT 1") && !said.contains("BBBB"), "{said}");
    // A first boot that was asked for does.
    spec.first_boots = 1;
    let done = Counters { first_boots: 1, ..Counters::default() };
    let marks = Marks { done, ..Marks::default() };
    host.define(&Arc::new(spec), marks).await.unwrap();
    let said = said_by_another_run(&host, 3).await;
    assert!(said.contains(&format!("GUEST-INSTANCE-ID {}-1-0", instance(1))), "{said}");
}

#[tokio::test]
async fn what_may_be_secret_goes_with_the_machine_and_with_the_host() {
    let lab = Lab::start();
    let (host, spec) = defined(&lab).await;
    host.start(instance(1)).await.unwrap();
    host.force_stop(instance(1)).await.unwrap();
    let memory = |name: &str| lab.consoles.join(name).join(instance(1).to_string());
    let files = [memory(""), memory("seeds"), memory("user-data")];
    assert!(files.iter().all(|file| file.exists()));
    // A host that was restarted has lost what is in memory: the agent is shown that.
    std::fs::remove_dir_all(&lab.consoles).unwrap();
    drop(host);
    let host = lab.host();
    give_keys(&host).await;
    let machine = host.machine(instance(1)).await.unwrap().unwrap();
    assert_eq!(*machine.definition, MachineSpec { user_data: String::new(), ..spec.clone() });
    host.define(&Arc::new(spec), Marks::default()).await.unwrap();
    assert!(said_by_another_run(&host, 1).await.contains("the script runs on web-1"));
    host.undefine(instance(1)).await.unwrap();
    assert!(!files.iter().any(|file| file.exists()));
    // What a process that was killed has left of a machine goes at the next start.
    for file in &files {
        std::fs::write(file, "left").unwrap();
    }
    drop(lab.host());
    assert!(!files.iter().any(|file| file.exists()));
}

#[tokio::test]
async fn a_guest_that_ends_at_once_has_said_why_on_its_console() {
    let lab = Lab::start();
    let (host, mut spec) = defined(&lab).await;
    spec.user_data = "#!/bin/sh\necho 'no licence found'\nsync\npoweroff -f\n".into();
    host.define(&Arc::new(spec), Marks::default()).await.unwrap();
    host.start(instance(1)).await.unwrap();
    assert_eq!(is_off(&host).await, OffReason::Guest);
    let host: Arc<dyn Hypervisor> = Arc::new(host);
    let said = host.console(instance(1)).await.unwrap();
    let said = String::from_utf8_lossy(&said).into_owned();
    let last: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = &last[last.len().saturating_sub(8)..];
    assert!(last.contains(&"no licence found"), "{said}");
}
