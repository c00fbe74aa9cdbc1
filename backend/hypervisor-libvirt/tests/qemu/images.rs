//! Images that are not what was signed are not used, and the customer learns that much and no more.

use std::{fs, sync::Arc, time::Instant};

use fairmazon_hypervisor::{
    Hypervisor, HypervisorError, Marks, Result,
    contract::{instance, spec, volume, wish},
};
use fairmazon_model::{machine::HostVolume, transfer::Sha256, units::Gib};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::timeout;

use crate::lab::{IMAGE, Lab, PATIENCE, give_keys, says};

/// That it was refused for its image, and what its customer is told.
fn refused(lab: &Lab, call: Result<()>) -> String {
    let error = call.unwrap_err();
    assert!(
        matches!(&error, HypervisorError::ImageDamaged { image, .. } if image == IMAGE),
        "{error:?}"
    );
    // The operator learns which file it is, the customer does not.
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains(&lab.folder.display().to_string()), "{cause}");
    let told = error.for_customer();
    assert!(told.contains(IMAGE) && !told.contains('/'), "{told}");
    told
}

#[tokio::test]
async fn an_image_that_is_not_what_was_signed_is_not_used() {
    let lab = Lab::start();
    let host = lab.host();
    give_keys(&host).await;
    let version = Sha256::of(&fs::read(lab.image_file("image.json")).unwrap());
    let told = host.inventory().await.unwrap().images;
    assert_eq!(told, Some([(IMAGE.to_owned(), Some(version))].into()));
    let boot = HostVolume { image: Some(IMAGE.into()), ..wish(1) };
    // Damaged before this process has used it.
    let (disk, signature) = (lab.image_file("disk.raw"), lab.image_file("image.json.minisig"));
    let whole = fs::read(&disk).unwrap();
    fs::write(&disk, vec![b'x'; whole.len()]).unwrap();
    let told = refused(&lab, host.create_volume(&boot).await);
    assert!(told.contains("is damaged"), "{told}");
    assert_eq!(host.volume(volume(1)).await.unwrap(), None);
    fs::write(&disk, &whole).unwrap();
    host.create_volume(&boot).await.unwrap();
    // And damaged after that.
    fs::write(&disk, vec![b'x'; whole.len()]).unwrap();
    let other = HostVolume { image: Some(IMAGE.into()), ..wish(2) };
    refused(&lab, host.create_volume(&other).await);
    // A machine that is defined does not boot a kernel that somebody has changed.
    host.define(&Arc::new(spec(1)), Marks::default()).await.unwrap();
    let kernel = lab.image_file("kernel");
    let mut bytes = fs::read(&kernel).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&kernel, &bytes).unwrap();
    refused(&lab, host.start(instance(1)).await);
    bytes[last] ^= 1;
    fs::write(&kernel, &bytes).unwrap();
    let signed = fs::read(&signature).unwrap();
    fs::remove_file(&signature).unwrap();
    let told = refused(&lab, host.start(instance(1)).await);
    assert!(told.contains("is not signed"), "{told}");
    assert_eq!(host.inventory().await.unwrap().images, Some([].into()), "it is not told any more");
    assert!(!host.machine(instance(1)).await.unwrap().unwrap().runs());
    fs::write(&signature, signed).unwrap();
    host.start(instance(1)).await.unwrap();
    says(&host, instance(1), "GUEST-READY").await;
}

/// The process that fills this volume, once it stands still; none where it has ended before.
fn held_up(lab: &Lab, number: u128) -> Option<Pid> {
    let new = format!("{}.new", volume(number));
    // Labs of other tests have volumes of the same names.
    let folder = lab.folder.to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut fillers = processes.filter_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let command = fs::read(process.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command);
        let is_it = ["convert", folder, &new].iter().all(|part| command.contains(part));
        is_it.then(|| Pid::from_raw(pid))?
    });
    let pid = fillers.next()?;
    kill_process(pid, Signal::STOP).ok()?;
    loop {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let state = status.lines().find_map(|line| line.strip_prefix("State:\t"))?;
        match state.chars().next()? {
            'T' => return Some(pid),
            'Z' | 'X' => return None,
            _ => std::thread::yield_now(),
        }
    }
}

#[tokio::test]
async fn a_volume_that_takes_long_to_be_filled_holds_up_no_other() {
    let lab = Lab::start();
    let host = lab.host();
    give_keys(&host).await;
    host.create_volume(&wish(3)).await.unwrap();
    let begin = Instant::now();
    let (filler, made) = 'caught: loop {
        assert!(begin.elapsed() < PATIENCE, "a volume is filled too fast to be caught");
        let filled = host.clone();
        let made = tokio::spawn(async move {
            let boot = HostVolume { image: Some(IMAGE.into()), ..wish(1) };
            filled.create_volume(&boot).await
        });
        while !made.is_finished() {
            if let Some(filler) = held_up(&lab, 1) {
                break 'caught (filler, made);
            }
            tokio::task::yield_now().await;
        }
        made.await.unwrap().unwrap();
        host.delete_volume(volume(1)).await.unwrap();
    };
    let others = async {
        host.create_volume(&wish(2)).await?;
        host.grow_volume(volume(2), Gib(2)).await?;
        host.delete_volume(volume(3)).await
    };
    let others = timeout(PATIENCE, others).await;
    let deleted = timeout(PATIENCE, host.delete_volume(volume(1))).await;
    kill_process(filler, Signal::CONT).unwrap();
    others.expect("they wait for the one that is filled").unwrap();
    assert!(matches!(deleted, Ok(Err(HypervisorError::Busy { .. }))), "{deleted:?}");
    made.await.unwrap().unwrap();
    let listed: Vec<_> =
        host.inventory().await.unwrap().volumes.into_iter().map(|found| found.volume).collect();
    assert_eq!(listed, [volume(1), volume(2)]);
}
