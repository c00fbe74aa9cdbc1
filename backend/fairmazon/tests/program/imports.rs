//! Files that are imported: what is refused before anything is made, and what becomes of what the
//! host refuses or what breaks off. That a guest finds its data again is for the tests with guests.

use std::{fs, path::Path, process::Command};

use fairmazon_keys::{Identity, VolumeKey, WrappedKey};
use fairmazon_model::id::VolumeId;

use crate::{
    dev::create_and_wait,
    keys::{Platform, fail},
    process::{Environment, Running, ask, client},
    volumes::{hold, logged, snapshot},
};

/// A file as an export writes it, with its key beside it.
fn exported(folder: &Path, name: &str, identity: &Identity) {
    let (key, file) = (VolumeKey::random().unwrap(), folder.join(name));
    let passphrase = folder.join("passphrase");
    fs::write(&passphrase, key.passphrase().as_bytes()).unwrap();
    let secret = format!("secret,id=key,file={}", passphrase.display());
    let options = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
    let mut made = Command::new("qemu-img");
    made.args(["create", "-q", "-f", "qcow2", "--object", &secret, "-o", options]);
    assert!(made.arg(&file).arg("1G").status().unwrap().success());
    fs::remove_file(passphrase).unwrap();
    let volume = VolumeId::from_parts(1, 1);
    let wrapped = WrappedKey::wrap(&key, volume, &identity.recipient()).unwrap();
    fs::write(folder.join(format!("{name}.key")), wrapped.bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_the_host_refuses_leaves_nothing_and_what_breaks_off_goes_on() {
    let mut platform = Platform::start();
    platform.add_host("two");
    let own = tempfile::tempdir().unwrap();
    let at = |name: &str| own.path().join(name).display().to_string();
    ask(&["key", "init", &at("id")], &Environment::new());
    let environment = platform.with_identity(&own.path().join("id"));
    let identity = Identity::read(&fs::read_to_string(at("id")).unwrap()).unwrap();
    exported(own.path(), "file", &identity);
    let import = ["volume", "import", &at("file"), "--name", "back"];

    // Before anything is made.
    let stranger = Identity::generate();
    exported(own.path(), "other", &stranger);
    let other = fail(&["volume", "import", &at("other"), "--name", "back"], &environment);
    assert!(other.contains("does not open with this identity"), "{other}");
    fs::write(at("text"), vec![b'x'; 1 << 20]).unwrap();
    let key = at("file.key");
    let text = ["volume", "import", &at("text"), "--key", &key, "--name", "back"];
    let refused = fail(&text, &environment);
    assert!(refused.contains("is not the file of an exported volume: it is not in"), "{refused}");
    let misnamed = fail(&["volume", "import", &at("file"), "--name", "-"], &environment);
    assert!(misnamed.contains("a name begins and ends with"), "{misnamed}");
    let nowhere = fail(&[&import[..], &["--country", "SE"]].concat(), &environment);
    assert!(nowhere.contains("none of 2 hosts fits (not in SE: 2)"), "{nowhere}");
    assert_eq!(ask(&["volume", "list"], &environment), "");

    // The account has no transfer left: the import waits, and is interrupted.
    let machine = create_and_wait(&client(&platform.customer).await, "first").await;
    ask(&["key", "give"], &environment);
    let kept = snapshot(&platform, &machine.boot_volume_id).await;
    ask(&["key", "give"], &environment);
    let held = hold(&platform, &kept).await;
    let log = own.path().join("log");
    let waits = Running::start(&import, &environment, &log);
    logged(&log, "waits for a place");
    let listed = ask(&["volume", "list"], &environment);
    let line = listed.lines().find(|line| line.contains("imported")).unwrap().to_owned();
    let id = line.split('\t').next().unwrap();
    assert!(line.contains("creating\t1 GiB\tstandard\timported\t-\tback"), "{line}");
    waits.interrupt();
    assert!(!waits.end().success());
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains(&format!("{id} waits for its file")), "{said}");

    // The same command goes on with it. A simulated host knows no qcow2, and refuses the file.
    drop(held);
    let refused = fail(&import, &environment);
    assert!(refused.contains(&format!("the file that came for {id} is not used")), "{refused}");
    assert!(refused.contains("no volume's"), "{refused}");
    let listed = ask(&["volume", "list"], &environment);
    assert!(listed.starts_with(&kept) && listed.lines().count() == 1, "{listed}");
    platform.end();
}
