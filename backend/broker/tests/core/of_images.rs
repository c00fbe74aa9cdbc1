//! Volumes that are filled from an image.

use std::collections::BTreeMap;

use fairmazon_broker::core::{HostImage, VolumeUpdate};
use fairmazon_model::{
    ErrorKind,
    catalogue::{Catalogue, ImageVersions},
    id::{HostId, VolumeId},
    instance::{Attachment, ObservedState},
    transfer::Sha256,
    units::{Generation, Gib},
    volume::{VolumeObserved, VolumeSpec},
};

use super::{
    kit::{Hosts, Kit, host_spec, quick, row, spec, volume_spec},
    sets::Mouth,
};

fn of(image: &str) -> VolumeSpec {
    VolumeSpec { image: Some(image.into()), ..volume_spec("tools") }
}

/// A volume of an image, which an instance has, decided on the only host; nothing is made yet.
async fn attached(kit: &Kit) -> (HostId, VolumeId) {
    let host = kit.engine.register_host(&kit.customer, host_spec(0, "DE"), &kit.key()).await;
    let host = host.unwrap().0.row.id;
    let image = kit.engine.catalogue().images[0].name.clone();
    let made = kit.engine.create_volume(&kit.customer, of(&image), &kit.key()).await.unwrap();
    let volume = made.volume.row.id;
    let attachment = Attachment { volume_id: volume, read_only: false };
    let mut web = spec("web");
    web.volumes = BTreeMap::from([("tools".into(), attachment)]);
    kit.engine.create_instance(&kit.customer, web, &kit.key()).await.unwrap();
    (host, volume)
}

#[tokio::test]
async fn its_host_is_told_which() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let (host, volume) = attached(&kit).await;
    let mut mouth = Mouth::open(&kit, host, Generation(0)).await;
    let set = mouth.hears(|set| set.volumes.len() == 2).await;
    let told = set.volumes.iter().find(|told| told.volume == volume).unwrap();
    let image = kit.engine.catalogue().images[0].clone();
    assert_eq!((told.image.as_ref(), &told.copy), (Some(&image.id), &None));

    let row = kit.engine.volume(&kit.customer, volume).unwrap().row.clone();
    let change = |spec| VolumeUpdate { id: volume, spec, expected_revision: 0 };
    let other = change(VolumeSpec { image: None, ..row.spec.clone() });
    let refused = kit.engine.update_volume(&kit.customer, other, &kit.key()).await.unwrap_err();
    assert_eq!(refused.field.as_deref(), Some("source"), "{refused}");
    kit.stop().await;
}

#[tokio::test]
async fn one_that_is_not_there_or_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    let image = kit.engine.catalogue().images[0].clone();
    let small = VolumeSpec { size: Gib(image.min_boot.0 - 1), ..of(&image.name) };
    let both = VolumeSpec { source: Some(VolumeId::from_parts(1, 1)), ..of(&image.name) };
    for (spec, field) in [(of("windows-95"), "source.image"), (small, "size_gib"), (both, "source")]
    {
        let refused = kit.engine.create_volume(&kit.customer, spec, &kit.key()).await.unwrap_err();
        assert_eq!((refused.kind, refused.field.as_deref()), (ErrorKind::Invalid, Some(field)));
    }
}

#[tokio::test]
async fn a_machine_goes_where_its_images_are() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let mut hosts = Hosts::none();
    let catalogue = kit.engine.catalogue();
    let id = |name: &str| catalogue.image(name).unwrap().id.clone();
    let web = spec("web");
    let (boots, tools) = (id(&web.image), id("alpine-3.22"));
    assert_ne!(boots, tools);
    for (number, images) in [vec![], vec![boots.as_str()]].into_iter().enumerate() {
        let host = hosts.add(&kit, host_spec(number, "DE")).await;
        hosts.hosts[number].sim.set_images(images);
        hosts.connect(number, &kit.engine);
        let is_seen = || kit.engine.host(&kit.customer, host).unwrap().last_seen.is_some();
        kit.until("its images are known", is_seen).await;
    }
    let made = kit.engine.create_instance(&kit.customer, web.clone(), &kit.key()).await.unwrap();
    kit.done(made.operation.id).await;
    let decided = |id| row(&kit, id).decision.map(|decision| decision.host);
    assert_eq!(decided(made.instance.row.id), Some(hosts.hosts[1].id));

    // The image of a volume that it brings has to be there as well.
    let volume = kit.engine.create_volume(&kit.customer, of("alpine-3.22"), &kit.key()).await;
    let volume_id = volume.unwrap().volume.row.id;
    let mut other = spec("other");
    let attachment = Attachment { volume_id, read_only: false };
    other.volumes = BTreeMap::from([("tools".into(), attachment)]);
    let made = kit.engine.create_instance(&kit.customer, other, &kit.key()).await.unwrap();
    let instance = made.instance.row.id;
    let why = format!("without the image {tools} and {boots}");
    kit.until("it waits", || row(&kit, instance).waiting_for.contains(&why)).await;

    // An operator adds both to the first host.
    hosts.hosts[0].sim.set_images([boots.as_str(), tools.as_str()]);
    kit.done(made.operation.id).await;
    assert_eq!(decided(instance), Some(hosts.hosts[0].id));
    hosts.check();
    kit.stop().await;
}

#[tokio::test]
async fn a_machine_goes_where_its_image_is_in_the_version_of_the_catalogue() {
    let folder = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::default_catalogue();
    let web = spec("web");
    let wanted = Sha256::of(b"the manifest");
    let image = catalogue.images.iter_mut().find(|image| image.name == web.image).unwrap();
    image.sha256 = Some(wanted);
    let boots = image.id.clone();
    let kit = Kit::selling(folder.path(), quick(), catalogue).await;
    kit.start();
    let mut hosts = Hosts::none();
    let has = |version| ImageVersions::from([(boots.clone(), version)]);
    // The last two have another version, and an agent that tells none.
    let versions = [ImageVersions::new(), has(Some(Sha256::of(b"an older one"))), has(None)];
    for (number, images) in versions.into_iter().enumerate() {
        let host = hosts.add(&kit, host_spec(number, "DE")).await;
        hosts.hosts[number].sim.set_image_versions(images);
        hosts.connect(number, &kit.engine);
        let is_seen = || kit.engine.host(&kit.customer, host).unwrap().last_seen.is_some();
        kit.until("its images are known", is_seen).await;
    }
    let made = kit.engine.create_instance(&kit.customer, web, &kit.key()).await.unwrap();
    let instance = made.instance.row.id;
    let why = format!(
        "without the image {boots}: 1; with another version of the image {boots}: 2); hosts that \
         would do but for one thing: the image (1), the version of the image (2)"
    );
    kit.until("it waits", || row(&kit, instance).waiting_for.contains(&why)).await;

    // The operator of one of them takes the version in.
    hosts.hosts[1].sim.set_image_versions(has(Some(wanted)));
    kit.done(made.operation.id).await;
    let decided = |id| row(&kit, id).decision.map(|decision| decision.host);
    assert_eq!(decided(instance), Some(hosts.hosts[1].id));

    // What runs there stays when its host has another version, and nothing new comes.
    let newer = Some(Sha256::of(b"a newer one"));
    for number in [0, 1] {
        let id = hosts.hosts[number].id;
        hosts.hosts[number].sim.set_image_versions(has(newer));
        let has = HostImage { id: boots.clone(), sha256: newer, is_current: false };
        let is_known =
            || kit.engine.host(&kit.customer, id).unwrap().images == Some(vec![has.clone()]);
        kit.until("its newer version is known", is_known).await;
    }
    let made = kit.engine.create_instance(&kit.customer, spec("next"), &kit.key()).await.unwrap();
    let next = made.instance.row.id;
    let why = format!("with another version of the image {boots}: 3)");
    kit.until("it waits", || row(&kit, next).waiting_for.contains(&why)).await;
    assert_eq!(decided(instance), Some(hosts.hosts[1].id));
    assert_eq!(row(&kit, instance).observed.state, ObservedState::Running);
    // A host that has every image has them as the catalogue wants them.
    hosts.add(&kit, host_spec(3, "DE")).await;
    hosts.connect(3, &kit.engine);
    kit.done(made.operation.id).await;
    assert_eq!(decided(next), Some(hosts.hosts[3].id));
    hosts.check();
    kit.stop().await;
}

#[tokio::test]
async fn other_versions_are_sold_while_the_broker_runs() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let versions = |text: &str| {
        let mut images = Catalogue::default_catalogue().images;
        images.iter_mut().for_each(|image| image.sha256 = Some(Sha256::of(text.as_bytes())));
        images
    };
    let had = |text| versions(text).into_iter().map(|image| (image.id, image.sha256)).collect();
    kit.engine.sell_images(versions("first")).unwrap();
    let mut hosts = Hosts::none();
    let host = hosts.add(&kit, host_spec(0, "DE")).await;
    hosts.hosts[0].sim.set_image_versions(had("second"));
    hosts.connect(0, &kit.engine);
    let made = kit.engine.create_instance(&kit.customer, spec("web"), &kit.key()).await.unwrap();
    let instance = made.instance.row.id;
    let waits = || row(&kit, instance).waiting_for.contains("with another version of the image");
    kit.until("it waits", waits).await;
    let prices = kit.engine.catalogue().version;
    kit.engine.sell_images(versions("second")).unwrap();
    kit.done(made.operation.id).await;
    assert_eq!(row(&kit, instance).decision.map(|decision| decision.host), Some(host));
    assert_eq!(kit.engine.catalogue().version, prices, "it is that of what things cost");

    // What an instance needs, or a volume that is still to be filled, is not taken away.
    let volume = kit.engine.create_volume(&kit.customer, of("alpine-3.22"), &kit.key()).await;
    let volume = volume.unwrap().volume.row.id;
    let without = |name: &str| {
        let mut images = versions("third");
        images.retain(|image| image.name != name);
        images
    };
    for name in [spec("web").image.as_str(), "alpine-3.22"] {
        let refused = kit.engine.sell_images(without(name)).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Precondition);
        assert!(refused.message.ends_with(&format!(": {name} (by 1)")), "{refused}");
        assert_eq!(kit.engine.catalogue().images, versions("second"));
    }
    kit.engine.delete_volume(&kit.customer, volume, &kit.key()).await.unwrap();
    kit.engine.sell_images(without("alpine-3.22")).unwrap();
    assert_eq!(kit.engine.catalogue().image("alpine-3.22"), None);
    assert_eq!(row(&kit, instance).observed.state, ObservedState::Running);
    hosts.check();
    kit.stop().await;
}

#[tokio::test]
async fn nothing_is_made_empty_whose_image_has_gone() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let (host, volume) = attached(&kit).await;
    let mut mouth = Mouth::open(&kit, host, Generation(0)).await;
    mouth.hears(|set| set.volumes.iter().any(|told| told.volume == volume)).await;
    drop(mouth);
    let gone = kit.engine.catalogue().images[0].name.clone();
    kit.stop().await;
    drop(kit);
    let mut catalogue = Catalogue::default_catalogue();
    catalogue.images.retain(|image| image.name != gone);
    let kit = Kit::selling(folder.path(), quick(), catalogue).await;
    kit.start();
    let mut mouth = Mouth::open(&kit, host, Generation(0)).await;
    let set = mouth.hears(|_| true).await;
    assert!(set.volumes.iter().all(|told| told.volume != volume), "{set:?}");
    let row = kit.engine.volume(&kit.customer, volume).unwrap().row.clone();
    assert_eq!(row.observed, VolumeObserved::Unknown);
    kit.stop().await;
}
