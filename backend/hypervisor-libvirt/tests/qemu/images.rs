//! Images that are not what was signed are not used, and the customer learns that much and no more.

use std::{fs, sync::Arc};

use fairmazon_hypervisor::{
    Hypervisor, HypervisorError, Marks, Result,
    contract::{instance, spec, volume, wish},
};
use fairmazon_model::machine::HostVolume;

use crate::lab::{IMAGE, Lab, give_keys, says};

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
    assert_eq!(host.inventory().await.unwrap().images, Some([IMAGE.to_owned()].into()));
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
