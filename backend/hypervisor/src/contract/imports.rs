//! Files of volumes: what was exported makes the same volume again, and nothing else does.

use fairmazon_model::{
    machine::{HostVolume, VolumeCopy},
    transfer::Sha256,
    units::Gib,
    volume::Import,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{CLASS, Subject, volume, wish};
use crate::{HypervisorError, Incoming, Result};

/// The file of a volume.
pub async fn file_of(host: &Subject, number: u128) -> Vec<u8> {
    let mut file = host.read_volume(volume(number), 0).await.unwrap();
    let mut bytes = Vec::new();
    file.reader.read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// The wish for a volume of one GiB that is made from this file.
pub fn import(number: u128, file: &[u8]) -> HostVolume {
    let import = Import { bytes: file.len() as u64, sha256: Sha256::of(file) };
    HostVolume { copy: Some(VolumeCopy::Import(import)), ..wish(number) }
}

/// Hands the host bytes of a volume's file.
pub async fn send(host: &Subject, wish: &HostVolume, bytes: &[u8]) -> Result<()> {
    let mut sink = host.begin_import(wish).await?;
    sink.writer.write_all(bytes).await.unwrap();
    sink.writer.flush().await.unwrap();
    Ok(())
}

/// Hands the host all of a file and has it made a volume.
pub async fn take(host: &Subject, wish: &HostVolume, file: &[u8]) -> Result<()> {
    send(host, wish, file).await?;
    host.create_volume(wish).await
}

/// Nothing of an import is left.
pub async fn nothing_is_left(host: &Subject, number: u128) {
    assert_eq!(host.inventory().await.unwrap().incoming, []);
    assert_eq!(host.volume(volume(number)).await.unwrap(), None);
}

/// The file of volume 1, which is gone; none where volumes have none.
async fn exported(host: &Subject) -> Option<Vec<u8>> {
    host.create_volume(&wish(1)).await.unwrap();
    if let Err(HypervisorError::Unsupported { .. }) = host.read_volume(volume(1), 0).await {
        let refused = host.begin_import(&import(2, b"")).await.err().unwrap();
        assert!(matches!(refused, HypervisorError::Unsupported { .. }), "{refused}");
        return None;
    }
    let file = file_of(host, 1).await;
    host.delete_volume(volume(1)).await.unwrap();
    Some(file)
}

pub async fn a_volumes_file_makes_the_same_volume_again(host: Subject) {
    let Some(file) = exported(&host).await else { return };
    let wish = import(1, &file);
    take(&host, &wish, &file).await.unwrap();
    assert_eq!(host.volume(volume(1)).await.unwrap().unwrap().size, Gib(1));
    assert_eq!(host.inventory().await.unwrap().incoming, []);
    assert!(file_of(&host, 1).await == file);
    host.create_volume(&wish).await.unwrap();
    host.drop_import(volume(1)).await.unwrap();
    assert!(file_of(&host, 1).await == file, "it stays");
    host.delete_volume(volume(1)).await.unwrap();
}

pub async fn an_import_goes_on_where_it_was_left_and_holds_its_room(host: Subject) {
    let Some(file) = exported(&host).await else { return };
    let wish = import(1, &file);
    let (first, rest) = file.split_at(70_001);
    send(&host, &wish, first).await.unwrap();
    let bytes = first.len() as u64;
    let incoming = Incoming { volume: volume(1), bytes };
    assert_eq!(host.inventory().await.unwrap().incoming, [incoming]);
    assert_eq!(host.volume(volume(1)).await.unwrap(), None);
    let refused = host.create_volume(&wish).await;
    assert!(matches!(refused, Err(HypervisorError::Busy { .. })), "{refused:?}");

    // Its whole room is taken, whatever of it is there.
    let all = host.capacity().await.unwrap().storage[CLASS];
    let others = HostVolume { size: all, ..super::wish(2) };
    let full = host.create_volume(&others).await;
    assert!(matches!(full, Err(HypervisorError::Full { .. })), "{full:?}");
    let too_large = HostVolume { size: Gib(all.0 + 1), ..import(3, &file) };
    let full = host.begin_import(&too_large).await.err().unwrap();
    assert!(matches!(full, HypervisorError::Full { .. }), "{full}");

    // One at a time.
    let sink = host.begin_import(&wish).await.unwrap();
    assert_eq!(sink.offset, bytes);
    let busy = host.begin_import(&wish).await.err().unwrap();
    assert!(matches!(busy, HypervisorError::Busy { .. }), "{busy}");
    let busy = host.drop_import(volume(1)).await;
    assert!(matches!(busy, Err(HypervisorError::Busy { .. })), "{busy:?}");
    drop(sink);
    take(&host, &wish, rest).await.unwrap();
    assert!(file_of(&host, 1).await == file);

    let other = import(2, &file);
    send(&host, &other, first).await.unwrap();
    for _ in 0..2 {
        host.drop_import(volume(2)).await.unwrap();
    }
    nothing_is_left(&host, 2).await;
    host.delete_volume(volume(1)).await.unwrap();
    host.create_volume(&others).await.unwrap();
}

pub async fn a_file_that_is_not_what_was_promised_is_not_used(host: Subject) {
    let Some(file) = exported(&host).await else { return };
    let mut changed = file.clone();
    changed[file.len() - 1] ^= 1;
    let larger = HostVolume { size: Gib(2), ..import(1, &file) };
    let noise: Vec<u8> = (0..file.len()).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
    let half = &file[..file.len() / 2];
    for (wish, sent) in [
        (import(1, &file), &changed[..]),
        (larger, &file[..]),
        (import(1, &noise), &noise[..]),
        (import(1, &file[..64]), &file[..64]),
    ] {
        let refused = take(&host, &wish, sent).await;
        assert!(matches!(refused, Err(HypervisorError::BadFile { .. })), "{refused:?}");
        nothing_is_left(&host, 1).await;
    }
    send(&host, &import(1, &file), half).await.unwrap();
    host.drop_import(volume(1)).await.unwrap();
    if host.features().encrypts {
        // It is another volume's, and opens with that one's key only.
        let refused = take(&host, &import(2, &file), &file).await;
        assert!(matches!(refused, Err(HypervisorError::KeyWrong { .. })), "{refused:?}");
        nothing_is_left(&host, 2).await;
    }
    take(&host, &import(1, &file), &file).await.unwrap();
}
