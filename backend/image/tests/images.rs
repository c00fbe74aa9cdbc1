//! Images are taken and used as they were signed, or not at all.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use fairmazon_image::{
    About, ImageError, Images, SigningKey, TrustedKey, add, catalogue, pack, publish,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

struct Maker {
    folder: TempDir,
    key: SigningKey,
    trusted: TrustedKey,
}

impl Maker {
    /// A maker with the files of an image in `made`: a kernel, and a disk with a hole.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::make(&folder.path().join("key")).unwrap();
        let made = folder.path().join("made");
        fs::create_dir(&made).unwrap();
        fs::write(made.join("kernel"), "a kernel").unwrap();
        let mut disk = vec![0; 8 << 20];
        disk[5 << 20] = 1;
        fs::write(made.join("disk.raw"), disk).unwrap();
        fs::write(made.join("notes"), "no part of an image").unwrap();
        Self { trusted: key.trusted().unwrap(), folder, key }
    }

    fn made(&self) -> PathBuf {
        self.folder.path().join("made")
    }

    fn images(&self) -> PathBuf {
        self.folder.path().join("images")
    }

    fn pack(&self) {
        pack(&self.made(), &about("img-1"), &self.key).unwrap();
    }

    fn add(&self) -> Result<fairmazon_image::Manifest, ImageError> {
        add(&self.made(), &self.images(), std::slice::from_ref(&self.trusted))
    }

    fn store(&self) -> Images {
        Images::new(self.images(), vec![self.trusted.clone()])
    }
}

fn about(id: &str) -> About {
    named(id, &format!("The image {id}"))
}

fn named(id: &str, name: &str) -> About {
    let architecture = "x86_64".into();
    About { id: id.into(), name: name.into(), architecture, min_disk_gib: 1, ..About::default() }
}

/// What is in a folder, in order, the lock aside.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != ".lock").collect();
    names.sort();
    names
}

/// All files of an image through a store, as a driver asks for them.
fn use_all(store: &Images, id: &str) -> Result<usize, ImageError> {
    let Some(manifest) = store.manifest(id)? else { return Ok(0) };
    for part in &manifest.files {
        store.file(&manifest, part)?;
    }
    Ok(manifest.files.len())
}

#[test]
fn an_image_is_taken_as_it_was_signed() {
    let maker = Maker::new();
    maker.pack();
    // What a process that was killed has left.
    let left = maker.images().join(".new-left");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("disk.raw"), "half").unwrap();
    let manifest = maker.add().unwrap();
    assert_eq!(manifest.about, about("img-1"));
    assert_eq!(names(&maker.images()), ["img-1"]);
    let image = maker.images().join("img-1");
    assert_eq!(names(&image), ["disk.raw", "image.json", "image.json.minisig", "kernel"]);
    for name in names(&image) {
        let (made, taken) = (fs::read(maker.made().join(&name)), fs::read(image.join(&name)));
        assert!(made.unwrap() == taken.unwrap(), "{name}");
    }
    assert!(fs::metadata(image.join("disk.raw")).unwrap().blocks() * 512 < 1 << 20, "its hole");
    assert_eq!(fs::metadata(&image).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(use_all(&maker.store(), "img-1").unwrap(), 2);
    // Another version takes its place as a whole, and the same one changes nothing.
    fs::write(maker.made().join("kernel"), "another kernel").unwrap();
    fs::remove_file(maker.made().join("disk.raw")).unwrap();
    maker.pack();
    for _ in 0..2 {
        maker.add().unwrap();
        assert_eq!(names(&maker.images()), ["img-1"]);
        assert_eq!(names(&image), ["image.json", "image.json.minisig", "kernel"]);
        assert_eq!(fs::read(image.join("kernel")).unwrap(), b"another kernel");
    }
}

#[test]
fn what_is_not_what_was_signed_is_refused_and_leaves_nothing() {
    for (file, content, why) in [
        ("kernel", Some("A kernel"), "is damaged: it is not what its maker signed"),
        ("kernel", Some("a kernel, longer"), "is damaged: it is not what its maker signed"),
        ("kernel", None, "can't be read"),
        ("image.json", Some("{}"), "is not signed by a key that the host trusts"),
        ("image.json.minisig", Some("x"), "is not signed by a key that the host trusts"),
        ("image.json.minisig", None, "is not signed"),
    ] {
        let maker = Maker::new();
        maker.pack();
        let path = maker.made().join(file);
        match content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let refused = maker.add().unwrap_err();
        assert_eq!(refused.why(), why, "{file} {content:?}: {refused}");
        let named = path.with_extension("").with_extension("").display().to_string();
        assert!(refused.to_string().contains(&named), "{refused}");
        assert!(names(&maker.images()).is_empty(), "{:?}", names(&maker.images()));
    }
    // Nor does it take the place of what is there.
    let maker = Maker::new();
    maker.pack();
    maker.add().unwrap();
    fs::write(maker.made().join("kernel"), "A kernel").unwrap();
    maker.add().unwrap_err();
    assert_eq!(use_all(&maker.store(), "img-1").unwrap(), 2);
    // A signature by somebody else is none.
    let other = Maker::new();
    pack(&maker.made(), &about("img-1"), &other.key).unwrap();
    assert!(matches!(maker.add(), Err(ImageError::Untrusted { .. })));
    let both = [other.trusted, maker.trusted.clone()];
    add(&maker.made(), &maker.images(), &both).unwrap();
    let refused = maker.store().manifest("img-1").unwrap_err();
    assert!(matches!(refused, ImageError::Untrusted { .. }), "{refused}");
}

#[test]
fn a_folder_that_holds_no_image_is_not_signed() {
    let maker = Maker::new();
    fs::write(maker.made().join("disk.qcow2"), "x").unwrap();
    let refused = pack(&maker.made(), &about("img-1"), &maker.key).unwrap_err().to_string();
    assert!(refused.contains("two disks"), "{refused}");
    let empty = tempfile::tempdir().unwrap();
    pack(empty.path(), &about("img-1"), &maker.key).unwrap_err();
    assert!(names(empty.path()).is_empty());
}

#[test]
fn a_file_is_verified_again_when_it_has_changed() {
    let maker = Maker::new();
    maker.pack();
    maker.add().unwrap();
    let (store, path) = (maker.store(), maker.images().join("img-1/kernel"));
    for _ in 0..2 {
        assert_eq!(use_all(&store, "img-1").unwrap(), 2);
    }
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let damages: [&dyn Fn(); 4] = [
        // Of the same size, and with the time of the last change set back.
        &|| {
            fs::write(&path, "A kernel").unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        },
        &|| fs::write(&path, "short").unwrap(),
        &|| fs::remove_file(&path).unwrap(),
        &|| {
            let _ = fs::remove_file(&path);
            symlink(maker.made().join("kernel"), &path).unwrap();
        },
    ];
    for (number, damage) in damages.iter().enumerate() {
        damage();
        for _ in 0..2 {
            let refused = use_all(&store, "img-1").unwrap_err();
            assert!(matches!(refused, ImageError::Damaged { .. }), "{number}: {refused}");
        }
        maker.add().unwrap();
        assert_eq!(use_all(&store, "img-1").unwrap(), 2, "{number}");
    }
}

#[test]
fn one_image_is_not_taken_for_another() {
    let maker = Maker::new();
    maker.pack();
    maker.add().unwrap();
    fs::rename(maker.images().join("img-1"), maker.images().join("img-2")).unwrap();
    let refused = maker.store().manifest("img-2").unwrap_err();
    assert!(matches!(refused, ImageError::Damaged { .. }), "{refused}");
    for id in ["img-1", "", ".", "..", "../made", "img-'\"&", "img\0"] {
        assert!(maker.store().manifest(id).unwrap().is_none(), "{id:?}");
    }
}

#[test]
fn the_images_that_can_be_used_are_known_without_reading_all_of_them() {
    let maker = Maker::new();
    let versions =
        |told: &mut Vec<String>| maker.store().versions(|error| told.push(error.to_string()));
    let mut told = Vec::new();
    assert!(versions(&mut told).is_empty());
    assert_eq!(told.len(), 1, "the folder is missing: {told:?}");
    for id in ["img-1", "img-2", "img-3"] {
        publish(&maker.made(), &maker.images(), &about(id), &maker.key).unwrap();
    }
    fs::create_dir(maker.images().join(".new-1")).unwrap();
    fs::write(maker.images().join("a-file"), "no image").unwrap();
    fs::write(maker.images().join("img-3/image.json"), "{}").unwrap();
    told.clear();
    let file = |id: &str| fs::read(maker.images().join(id).join("image.json")).unwrap();
    let version = |id: &str| (id.to_owned(), Sha256::digest(file(id)).into());
    assert_eq!(versions(&mut told), ["img-1", "img-2"].map(version).into());
    assert!(told.len() == 1 && told[0].contains("img-3"), "{told:?}");
}

#[test]
fn images_are_published_under_their_ids_and_again_when_they_differ() {
    let maker = Maker::new();
    let inode = |id: &str| fs::metadata(maker.images().join(id)).unwrap().ino();
    let publish = |id: &str| publish(&maker.made(), &maker.images(), &about(id), &maker.key);
    for id in ["img-1", "img-2"] {
        publish(id).unwrap();
        assert_eq!(use_all(&maker.store(), id).unwrap(), 2);
    }
    let before = inode("img-1");
    publish("img-1").unwrap();
    assert_eq!(inode("img-1"), before, "nothing is written when nothing has changed");
    fs::write(maker.images().join("img-1/kernel"), "A kernel").unwrap();
    publish("img-1").unwrap();
    assert_eq!(use_all(&maker.store(), "img-1").unwrap(), 2);
    fs::write(maker.made().join("kernel"), "another kernel").unwrap();
    publish("img-2").unwrap();
    let kernel = fs::read(maker.images().join("img-2/kernel")).unwrap();
    assert_eq!(kernel, b"another kernel");
    assert_eq!(names(&maker.made()), ["disk.raw", "kernel", "notes"], "the source stays as it is");
}

#[test]
fn a_catalogue_is_made_of_manifests_alone() {
    let maker = Maker::new();
    let folder = maker.folder.path().join("catalogue");
    let trusted = std::slice::from_ref(&maker.trusted);
    let read = || catalogue(&folder, trusted);
    let put = |sub: &str, about: &About| {
        pack(&maker.made(), about, &maker.key).unwrap();
        fs::create_dir_all(folder.join(sub)).unwrap();
        for name in ["image.json", "image.json.minisig"] {
            fs::copy(maker.made().join(name), folder.join(sub).join(name)).unwrap();
        }
    };
    assert!(read().unwrap_err().to_string().contains("catalogue"), "there is no such folder");
    fs::create_dir_all(folder.join(".git")).unwrap();
    fs::write(folder.join("maker.pub"), "no image").unwrap();
    let refused = read().unwrap_err();
    assert!(matches!(refused, ImageError::Empty { .. }), "{refused}");

    let described = About {
        min_memory_mib: Some(512),
        description: Some("Debian 13 (trixie)".into()),
        ..named("img-debian-13", "debian-13")
    };
    put("two", &named("img-2", "ubuntu"));
    put("one", &described);
    let all = read().unwrap();
    let known: Vec<_> = all.iter().map(|signed| &signed.manifest.about).collect();
    assert_eq!(known, [&described, &named("img-2", "ubuntu")], "in the order of their names");
    for (signed, sub) in all.iter().zip(["one", "two"]) {
        let bytes = fs::read(folder.join(sub).join("image.json")).unwrap();
        assert_eq!(signed.sha256, <[u8; 32]>::from(Sha256::digest(bytes)));
        // As the key's own file says it, which minisign writes.
        let public = fs::read_to_string(maker.folder.path().join("key.pub")).unwrap();
        assert!(public.lines().next().unwrap().ends_with(&signed.key_id), "{public}");
        assert_eq!((signed.key_id.as_str(), signed.key_id.len()), (maker.trusted.id(), 16));
    }

    for (about, text) in [
        (named("img-2", "other"), "img-2"),
        (named("img-3", "debian-13"), "debian-13"),
        (named("img-3", "img-debian-13"), "img-debian-13"),
        (named("ubuntu", "ubuntu-24.04"), "ubuntu"),
    ] {
        put("three", &about);
        let refused = read().unwrap_err().to_string();
        assert!(refused.contains(&format!("both are the image {text};")), "{refused}");
        assert!(refused.contains("three"), "{refused}");
    }
    put("three", &named("img-3", "three"));
    assert_eq!(read().unwrap().len(), 3);
    let path = folder.join("three/image.json");
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, whole.replace("\"min_disk_gib\": 1", "\"min_disk_gib\": 2")).unwrap();
    let refused = read().unwrap_err();
    assert!(matches!(&refused, ImageError::Untrusted { path: named } if *named == path));
    fs::write(&path, whole).unwrap();
    fs::remove_file(folder.join("three/image.json.minisig")).unwrap();
    assert!(matches!(read().unwrap_err(), ImageError::Unsigned { .. }));
    fs::remove_file(&path).unwrap();
    assert!(matches!(read().unwrap_err(), ImageError::File { .. }), "a folder without an image");
    fs::remove_dir_all(folder.join("three")).unwrap();
    let other = Maker::new();
    let refused = catalogue(&folder, std::slice::from_ref(&other.trusted)).unwrap_err();
    assert!(matches!(refused, ImageError::Untrusted { .. }), "{refused}");
}
