//! Images are made by their makers and taken by hosts.

use std::{fs, path::Path};

use crate::process::{Environment, ask, run};

#[test]
fn images_are_packed_added_and_refused_when_they_are_not_what_was_signed() {
    let folder = tempfile::tempdir().unwrap();
    let none = Environment::new();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (key, public, made, images) = (path("key"), path("key.pub"), path("made"), path("images"));
    fs::create_dir(&made).unwrap();
    fs::write(Path::new(&made).join("disk.raw"), "a disk").unwrap();
    let made_keys = ask(&["image", "key", "--to", &key], &none);
    assert!(made_keys.contains(&public), "{made_keys}");
    assert!(!run(&["image", "key", "--to", &key], &none).status.success(), "never overwritten");

    let pack = ["image", "pack", &made, "--key", &key, "--id", "img-mine", "--min-disk-gib", "2"];
    let sha256 = "\tdisk.raw\t6\t";
    let packed = ask(&pack, &none);
    assert!(packed.starts_with("img-mine") && packed.contains(sha256), "{packed}");
    let add = ["image", "add", "--from", &made, "--to", &images, "--trust", &public];
    assert_eq!(ask(&add, &none), packed);
    let manifest = Path::new(&images).join("img-mine/image.json");
    let manifest = fs::read_to_string(manifest).unwrap();
    assert!(manifest.contains("\"min_disk_gib\": 2"), "{manifest}");

    fs::write(Path::new(&made).join("disk.raw"), "A disk").unwrap();
    let refused = run(&add, &none);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    assert!(said.contains("disk.raw is not what its image's maker signed"), "{said}");
    let untrusted = ["image", "add", "--from", &made, "--to", &images];
    assert!(!run(&untrusted, &none).status.success(), "a key has to be named");
    assert_eq!(fs::read(Path::new(&images).join("img-mine/disk.raw")).unwrap(), b"a disk");
}
