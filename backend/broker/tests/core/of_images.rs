//! Volumes that are filled from an image.

use std::collections::BTreeMap;

use fairmazon_broker::core::VolumeUpdate;
use fairmazon_model::{
    ErrorKind,
    catalogue::Catalogue,
    id::{HostId, VolumeId},
    instance::Attachment,
    units::{Generation, Gib},
    volume::{VolumeObserved, VolumeSpec},
};

use super::{
    kit::{Kit, host_spec, quick, spec, volume_spec},
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
