//! The images that `fairmazon broker` sells: read from signed manifests, at its start and when a
//! signal asks for it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fairmazon_model::transfer::Sha256;
use fairmazon_proto::v1::{
    GetCatalogueRequest, Image, catalogue_service_client::CatalogueServiceClient,
    instances_service_client::InstancesServiceClient,
};
use tempfile::TempDir;

use crate::{
    dev::request,
    process::{Environment, Running, ask, client, own_broker, run},
};

/// Who makes images, and has them in `images`, a folder each.
struct Maker {
    folder: TempDir,
}

impl Maker {
    fn new() -> Self {
        let maker = Self { folder: tempfile::tempdir().unwrap() };
        ask(&["image", "key", "--to", &maker.text("maker.key")], &Environment::new());
        maker
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Packs an image with this disk, and leaves its manifest alone where the broker looks.
    fn packs(&self, name: &str, disk: &str) {
        self.packs_as(name, name, disk);
    }

    /// The same in the folder of another name.
    fn packs_as(&self, folder: &str, name: &str, disk: &str) {
        let id = format!("img-{folder}");
        let folder = self.path("images").join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("disk.raw"), disk).unwrap();
        let (at, key) = (folder.display().to_string(), self.text("maker.key"));
        let pack = ["image", "pack", &at, "--key", &key, "--id", &id, "--name", name];
        let about = ["--min-disk-gib", "2", "--min-memory-mib", "128", "--description", "A guest"];
        ask(&[&pack[..], &about].concat(), &Environment::new());
        fs::remove_file(folder.join("disk.raw")).unwrap();
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.path("images").join(name).join("image.json")
    }

    fn version(&self, name: &str) -> String {
        Sha256::of(&fs::read(self.manifest(name)).unwrap()).to_string()
    }

    fn log(&self) -> PathBuf {
        self.path("log")
    }

    fn logged(&self) -> String {
        fs::read_to_string(self.log()).unwrap()
    }

    /// The variables of a broker that sells these images.
    fn sells(&self) -> Environment {
        Environment::from([
            ("FAIRMAZON_IMAGES_DIR".into(), self.text("images")),
            ("FAIRMAZON_IMAGE_KEY".into(), self.text("maker.key.pub")),
        ])
    }

    /// Starts a broker with these variables; the ones of its platform's operator.
    fn starts(&self, environment: &Environment) -> (Running, Environment) {
        let data = self.path("data");
        let mut broker = Running::start(&own_broker(&data), environment, &self.log());
        let endpoint = broker.told("listening on ");
        let token = fs::read_to_string(data.join("platform-token")).unwrap();
        let authority = data.join("tls/ca.pem").display().to_string();
        let operator = Environment::from([
            ("FAIRMAZON_ENDPOINT".into(), endpoint),
            ("FAIRMAZON_TOKEN".into(), token.trim().into()),
            ("FAIRMAZON_CA_CERTIFICATE".into(), authority),
        ]);
        (broker, operator)
    }

    /// That a broker with these variables does not start, and why.
    fn does_not_start(&self, environment: &Environment) -> String {
        let output = run(&own_broker(&self.path("data")), environment);
        assert!(!output.status.success() && output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    }
}

async fn images(environment: &Environment) -> Vec<Image> {
    let mut catalogue = CatalogueServiceClient::new(client(environment).await);
    catalogue.get_catalogue(GetCatalogueRequest {}).await.unwrap().into_inner().images
}

/// Waits until the version of its only image is this one.
async fn has_version(environment: &Environment, version: &str) {
    while images(environment).await[0].sha256 != version {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_sells_the_images_that_were_signed_and_reads_them_again() {
    let maker = Maker::new();
    maker.packs("alpine-3.22", "a disk");
    let (broker, operator) = maker.starts(&maker.sells());
    let public = fs::read_to_string(maker.path("maker.key.pub")).unwrap();
    let [image] = &images(&operator).await[..] else { panic!("not one image") };
    let expected = Image {
        id: "img-alpine-3.22".into(),
        name: "alpine-3.22".into(),
        description: "A guest".into(),
        architecture: "x86_64".into(),
        min_boot_gib: 2,
        min_memory_mib: 128,
        sha256: maker.version("alpine-3.22"),
        signed_by: public.lines().next().unwrap().rsplit(' ').next().unwrap().into(),
    };
    assert_eq!(*image, expected);
    assert!(!maker.logged().contains("--images-dir"), "{}", maker.logged());

    // Another version of it, once a signal says so.
    maker.packs("alpine-3.22", "another disk");
    assert_eq!(images(&operator).await[0], expected);
    broker.reload();
    let newer = maker.version("alpine-3.22");
    assert_ne!(newer, expected.sha256);
    has_version(&operator, &newer).await;

    // One that is not what was signed changes nothing.
    let path = maker.manifest("alpine-3.22");
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, whole.replace("img-alpine", "img-Alpine")).unwrap();
    broker.reload();
    let refused = "the images of the catalogue stay what they were";
    while !maker.logged().contains(refused) {}
    assert_eq!(images(&operator).await[0].sha256, newer);

    // Nor does one that takes away what an instance needs, neither now nor at the next start.
    fs::write(&path, whole).unwrap();
    let opened = ask(&["account", "create", "--name", "customer"], &operator);
    let token = opened.lines().find_map(|line| line.strip_prefix("token: ")).unwrap();
    let mut customer = operator.clone();
    customer.insert("FAIRMAZON_TOKEN".into(), token.into());
    let mut instances = InstancesServiceClient::new(client(&customer).await);
    instances.create_instance(request("web")).await.unwrap();
    fs::rename(maker.path("images/alpine-3.22"), maker.path("aside")).unwrap();
    maker.packs("debian-13", "a disk");
    broker.reload();
    let needed = "alpine-3.22 (by 1)";
    while !maker.logged().contains(needed) {}
    assert_eq!(images(&operator).await[0].sha256, newer);
    assert!(broker.end().success());
    let said = maker.does_not_start(&maker.sells());
    assert!(said.contains(needed) && said.contains("describe them again"), "{said}");
    fs::rename(maker.path("aside"), maker.path("images/alpine-3.22")).unwrap();
    let (broker, operator) = maker.starts(&maker.sells());
    assert_eq!(images(&operator).await.len(), 2);
    assert!(broker.end().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_manifests_the_images_are_names_and_that_is_logged() {
    let maker = Maker::new();
    let (broker, operator) = maker.starts(&Environment::new());
    let images = images(&operator).await;
    assert!(images.len() > 1 && images.iter().all(|image| image.sha256.is_empty()), "{images:?}");
    assert!(maker.logged().contains("known by their names only"), "{}", maker.logged());
    assert!(broker.end().success());
}

#[test]
fn what_is_not_signed_or_not_to_be_told_apart_is_not_sold() {
    let maker = Maker::new();
    maker.packs("one", "a disk");
    let path = maker.manifest("one");
    let signature = path.with_extension("json.minisig");
    let signed = [&path, &signature].map(|path| fs::read(path).unwrap());
    let other = Maker::new();
    let cases: [(&str, &dyn Fn(), &str); 5] = [
        ("tampered", &|| fs::write(&path, "{}").unwrap(), "or was changed after that"),
        ("unsigned", &|| fs::remove_file(&signature).unwrap(), "is not signed"),
        ("twice", &|| copy(&maker, "two"), "both are the image img-one"),
        (
            "a name that is none",
            &|| maker.packs_as("two", "two\u{7}", "a disk"),
            "unable to sell the image img-two",
        ),
        ("none", &|| fs::remove_dir_all(maker.path("images/one")).unwrap(), "has no folder with"),
    ];
    for (what, damage, why) in cases {
        damage();
        for format in ["text", "json"] {
            let mut environment = maker.sells();
            environment.insert("FAIRMAZON_LOG_FORMAT".into(), format.into());
            let said = maker.does_not_start(&environment);
            assert!(said.contains(why), "{what}: {said}");
            let images = maker.text("images");
            assert!(said.contains(&images) || what == "a name that is none", "{what}: {said}");
            if format == "json" {
                let line: serde_json::Value = serde_json::from_str(said.trim()).unwrap();
                assert_eq!(line["level"], "ERROR", "{said}");
            }
        }
        let _ = fs::remove_dir_all(maker.path("images"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        for (path, bytes) in [&path, &signature].into_iter().zip(&signed) {
            fs::write(path, bytes).unwrap();
        }
    }
    let mut environment = maker.sells();
    environment.insert("FAIRMAZON_IMAGE_KEY".into(), other.text("maker.key.pub"));
    assert!(maker.does_not_start(&environment).contains("is not signed by a key that is trusted"));
    environment.insert("FAIRMAZON_IMAGE_KEY".into(), maker.text("nowhere"));
    assert!(maker.does_not_start(&environment).contains("nowhere"));
    environment.remove("FAIRMAZON_IMAGE_KEY");
    assert!(maker.does_not_start(&environment).contains("--image-key"));
}

/// Puts the same manifest into another folder.
fn copy(maker: &Maker, to: &str) {
    let (from, to) = (maker.path("images/one"), maker.path("images").join(to));
    fs::create_dir_all(&to).unwrap();
    for name in ["image.json", "image.json.minisig"] {
        fs::copy(from.join(name), Path::new(&to).join(name)).unwrap();
    }
}
