//! Neither a guest's data nor a key is on a disk of the host.

use fairmazon_hypervisor::{Hypervisor, contract::instance};

use crate::{
    guests::{USER_DATA, running},
    lab::{Lab, files_with, key_bytes, says},
};

/// A key in the forms in which it may be written.
pub(crate) fn forms(key: &[u8; 32]) -> Vec<Vec<u8>> {
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let base64 = base64(hex.as_bytes());
    vec![
        key.to_vec(),
        hex.to_uppercase().into(),
        base64.into(),
        self::base64(key).into(),
        hex.into(),
    ]
}

/// Without its end: that depends on what follows.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |chunk: &[u8], at: usize| {
        let number = chunk.iter().fold(0_usize, |sum, &byte| (sum << 8) | usize::from(byte));
        char::from(DIGITS[(number >> (18 - 6 * at)) & 63])
    };
    bytes.chunks_exact(3).flat_map(|chunk| (0..4).map(move |at| digit(chunk, at))).collect()
}

#[tokio::test]
async fn neither_plain_text_nor_keys_are_in_any_file() {
    let mut lab = Lab::start();
    let host = running(&lab).await;
    let said = says(&host, instance(1), "GUEST-COUNTER vdb 1").await;
    assert!(said.contains(USER_DATA), "{said}");
    assert_eq!(lab.run("virsh secret-list | tail -n +3").trim(), "", "keys are lent for a moment");
    assert_eq!(lab.run("ls /etc/libvirt/secrets 2>/dev/null || true").trim(), "");
    let written = b"written by the guest in plain text".to_vec();
    let mut secrets = [forms(&key_bytes(1)), forms(&key_bytes(2))].concat();
    secrets.extend([written, USER_DATA.into(), base64(USER_DATA.as_bytes()).into()]);
    let (folder, pool) = (lab.folder.clone(), lab.pool());
    let image = folder.join("images");
    let nowhere = |when: &str| {
        let found = files_with(&folder, &secrets);
        assert!(found.is_empty(), "{when}: {found:?}");
        // The disk of the image is no secret; what a volume was filled with from it is.
        let found = files_with(&pool, &[crate::lab::IMAGE_TEXT.into()]);
        assert!(found.is_empty(), "{when}: {found:?}");
    };
    nowhere("while it runs");
    // The search finds what is there.
    assert_eq!(files_with(&image, &[crate::lab::IMAGE_TEXT.into()]).len(), 1);
    let log = [instance(1).to_string().into_bytes()];
    assert!(!files_with(&folder.join("log"), &log).is_empty());
    let canaries = folder.join("canaries");
    std::fs::create_dir(&canaries).unwrap();
    for (number, form) in secrets.iter().enumerate() {
        let text = [b"x".as_slice(), form, b"y"].concat();
        std::fs::write(canaries.join(number.to_string()), text).unwrap();
    }
    let found = files_with(&folder, &secrets);
    assert!(found.iter().all(|path| path.starts_with(&canaries)), "{found:?}");
    assert_eq!(found.len(), secrets.len());
    std::fs::remove_dir_all(&canaries).unwrap();
    let master = lab.run("find /var/lib/libvirt/qemu -name master-key.aes -printf '%F %p\\n'");
    assert!(
        master.lines().all(|line| line.starts_with("tmpfs ")) && !master.is_empty(),
        "{master}"
    );
    host.force_stop(instance(1)).await.unwrap();
    nowhere("after it has ended");
}
