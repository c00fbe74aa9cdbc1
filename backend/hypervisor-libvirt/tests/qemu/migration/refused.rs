//! What a host does not take: machines that do not fit, and a source that is hostile.

use std::{sync::Arc, time::Duration};

use fairmazon_hypervisor::{
    Hypervisor, HypervisorError, Landing, Marks, OffReason, RunState,
    contract::{instance, spec, volume, wish},
};
use fairmazon_hypervisor_libvirt::qemu::QemuHost;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{LIBVIRT, Wire, counting, depart, give_keys_there, make_ready, ready, run};
use crate::lab::{Lab, give_keys};

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let (here, there) = (Lab::start(), Lab::start());
    let source = counting(&here).await;
    let target = there.host();
    let description = source.describe(instance(1)).await.unwrap();
    let prepare = async || target.prepare(instance(1), &description).await;
    let missing = prepare().await;
    assert!(matches!(missing, Err(HypervisorError::NotFound { .. })), "{missing:?}");
    make_ready_without_keys(&source, &target).await;
    let keyless = prepare().await;
    assert!(matches!(keyless, Err(HypervisorError::KeyMissing { .. })), "{keyless:?}");
    give_keys(&target).await;
    let wrong = prepare().await;
    assert!(matches!(wrong, Err(HypervisorError::KeyWrong { .. })), "{wrong:?}");
    give_keys_there(&target).await;
    let text = String::from_utf8(description.clone()).unwrap();
    for (had, has) in [
        ("\"kernel\":true", "\"kernel\":false"),
        ("\"card\":[", "\"card\":null,\"x\":["),
        (&volume(2).to_string(), &volume(3).to_string()),
        ("pc-i440fx-", "q35-"),
    ] {
        let other = text.replacen(had, has, 1);
        assert_ne!(other, text);
        let refused = target.prepare(instance(1), other.as_bytes()).await;
        assert!(matches!(refused, Err(HypervisorError::Refused { .. })), "{has}: {refused:?}");
    }
    // Two devices at one place.
    let mut twice: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(twice["balloon"].is_array());
    twice["rng"] = twice["balloon"].clone();
    target.prepare(instance(1), twice.to_string().as_bytes()).await.unwrap_err();
    let awaited = prepare().await.unwrap();
    let again = prepare().await;
    assert!(matches!(again, Err(HypervisorError::Busy { .. })), "{again:?}");
    drop(awaited);
    prepare().await.unwrap();
    let running = source.prepare(instance(1), &description).await;
    assert!(matches!(running, Err(HypervisorError::Busy { .. })), "{running:?}");
    let off = target.describe(instance(1)).await;
    assert!(matches!(off, Err(HypervisorError::Busy { .. })), "{off:?}");
}

async fn make_ready_without_keys(from: &QemuHost, to: &QemuHost) {
    give_keys_there(to).await;
    make_ready(from, to).await;
    for number in 1..=9 {
        to.forget_key(volume(number)).await.unwrap();
    }
}

/// A message of libvirt's protocol.
fn message(procedure: u32, serial: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(28 + body.len()).unwrap();
    let head = [length, 0x2000_8086, 1, procedure, 0, serial, 0];
    head.iter().flat_map(|number| number.to_be_bytes()).chain(body.iter().copied()).collect()
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The arguments with which libvirt's migration begins.
fn beginning(domain: &str) -> Vec<u8> {
    let uri = |name: &str| format!("unix:///run/fairmazon/moves/{}-{name}.sock", instance(1));
    let texts = [
        ("destination_xml", domain.to_owned()),
        ("migrate_uri", uri("memory")),
        ("migrate_disks", "vda".into()),
        ("migrate_disks", "vdb".into()),
        ("disks_uri", uri("disks")),
    ];
    let mut body = u32::try_from(texts.len()).unwrap().to_be_bytes().to_vec();
    for (name, value) in &texts {
        body.extend([text(name), 7_u32.to_be_bytes().to_vec(), text(value)].concat());
    }
    body.extend([text(""), 0x63_u32.to_be_bytes().to_vec()].concat());
    body
}

/// What a connection between libvirts answers to these messages, up to its end.
async fn answers(awaited: &Landing, messages: &[Vec<u8>]) -> Vec<u8> {
    let mut connection = awaited.channels.open(LIBVIRT).await.unwrap();
    for message in messages {
        // One that is refused ends the connection under the next.
        let _ = connection.write_all(message).await;
    }
    let mut answers = Vec::new();
    let read = connection.read_to_end(&mut answers);
    // The connection that nothing is wrong with stays open.
    let _ = tokio::time::timeout(Duration::from_secs(5), read).await;
    answers
}

#[tokio::test]
async fn a_source_that_is_hostile_is_refused() {
    let (here, mut there) = (Lab::start(), Lab::start());
    let source = counting(&here).await;
    let target = ready(&source, &there).await;
    // A machine of another customer's, which must come to no harm.
    target.create_volume(&wish(5)).await.unwrap();
    target.define(&Arc::new(spec(5)), Marks::default()).await.unwrap();
    target.start(instance(5)).await.unwrap();
    let uuid = there.run(&format!("virsh domuuid {}", instance(5))).trim().replace('-', "");
    let uuid: Vec<u8> =
        (0..16).map(|at| u8::from_str_radix(&uuid[2 * at..2 * at + 2], 16).unwrap()).collect();
    let other = [text(&instance(5).to_string()), uuid, 5_u32.to_be_bytes().to_vec()].concat();
    let open = [1_u32.to_be_bytes().to_vec(), text("qemu:///system"), vec![0; 4]].concat();
    let begin = || vec![message(66, 0, &[]), message(1, 1, &open)];
    let description = source.describe(instance(1)).await.unwrap();
    let domain = |awaited: &Landing| {
        let note: serde_json::Value = serde_json::from_slice(&awaited.description).unwrap();
        note["domain"].as_str().unwrap().to_owned()
    };
    let awaited = target.prepare(instance(1), &description).await.unwrap();
    let whole = domain(&awaited);
    // What is wanted gets its answers: this is not refused for its form.
    let said = answers(&awaited, &begin()).await;
    assert_eq!(said.len(), 36 + 28);
    drop(awaited);
    let shadow = whole.replace(&there.pool().display().to_string(), "/etc");
    let emulator = whole.replace("/usr/bin/qemu-system-x86_64", "/bin/sh");
    let plain = whole.replacen("<encryption", "<x", 1).replacen("</encryption>", "</x>", 1);
    let device = whole.replace("</devices>", "<hostdev/></devices>");
    assert!([&shadow, &emulator, &plain, &device].iter().all(|changed| **changed != whole));
    let evil = "<domain type='qemu'><name>evil</name><memory>65536</memory><os><type>hvm</type></os></domain>";
    let hostile: Vec<(&str, u32, Vec<u8>)> = vec![
        ("shut another machine down", 33, other.clone()),
        ("end another machine", 12, other.clone()),
        ("undefine another machine", 35, other.clone()),
        ("define a machine", 11, text(evil)),
        ("start a machine", 10, [text(evil), vec![0; 4]].concat()),
        ("list machines", 273, [1_u32.to_be_bytes(), [0; 4]].concat()),
        ("another file", 303, beginning(&shadow)),
        ("another emulator", 303, beginning(&emulator)),
        ("a disk without encryption", 303, beginning(&plain)),
        ("a device of the host's", 303, beginning(&device)),
    ];
    for (what, procedure, body) in hostile {
        let awaited = target.prepare(instance(1), &description).await.unwrap();
        let mut messages = begin();
        messages.push(message(procedure, 2, &body));
        let said = answers(&awaited, &messages).await;
        assert!(said.len() <= 36 + 28, "{what}: {said:?}");
        // Nor is there another connection to try it on.
        assert!(awaited.channels.open(LIBVIRT).await.is_err(), "{what}");
        drop(awaited);
        assert_eq!(run(&target).await, RunState::Off(OffReason::NeverStarted), "{what}");
        assert!(target.machine(instance(5)).await.unwrap().unwrap().runs(), "{what}");
        let names = there.run("virsh list --all --name");
        assert_eq!(names.split_whitespace().count(), 2, "{what}: {names}");
    }
    // And none of it stands in the way of what is wanted.
    let awaited = target.prepare(instance(1), &description).await.unwrap();
    depart(&source, &awaited, Wire::to(&awaited)).await.unwrap();
    assert_eq!(run(&target).await, RunState::Arrived);
}
