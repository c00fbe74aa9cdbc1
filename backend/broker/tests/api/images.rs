//! Images: what customers learn of them, and what operators learn of those of their hosts.

use fairmazon_model::{access::Role, catalogue::Catalogue, transfer::Sha256};
use fairmazon_proto::{
    host::v1::{ImageSet, Observed, Renew, from_host, to_host},
    v1::{
        GetCatalogueRequest, GetHostRequest, HostImage, HostImages,
        catalogue_service_client::CatalogueServiceClient, hosts_service_client::HostsServiceClient,
    },
};

use crate::{
    harness::{Broker, catalogue},
    host_stream::{hello, open_as, says},
    joining::joined,
};

#[tokio::test]
async fn the_catalogue_says_which_version_of_an_image_it_has_and_who_signed_it() {
    let broker = Broker::start().await;
    let mut client = CatalogueServiceClient::new(broker.as_role(Role::Customer).await);
    let shown = client.get_catalogue(GetCatalogueRequest {}).await.unwrap().into_inner();
    let [known, unknown, ..] = shown.images.as_slice() else { panic!("{shown:?}") };
    assert_eq!(known.sha256, Sha256::of(b"the manifest").to_string());
    assert_eq!(known.signed_by, "E7620F1842B4E81F");
    assert_eq!((unknown.sha256.as_str(), unknown.signed_by.as_str()), ("", ""));
    assert_eq!(Catalogue::from(shown), catalogue());
    broker.stop().await;
}

#[tokio::test]
async fn operators_see_which_images_their_hosts_have() {
    let broker = Broker::start().await;
    let mut hosts = HostsServiceClient::new(broker.as_role(Role::HostOperator).await);
    let mut shown = async || {
        let request = GetHostRequest { id: broker.host.to_string() };
        hosts.get_host(request).await.unwrap().into_inner().images
    };
    assert_eq!(shown().await, None, "it has said nothing yet");
    let first = hello(broker.host.to_string());
    let mut stream = open_as(&joined(&broker).await, first).await.unwrap();

    let images = catalogue().images;
    let version = |text: &[u8]| Sha256::of(text);
    let (wanted, other) = (version(b"the manifest"), version(b"another"));
    let bytes = |version: Sha256| version.0.to_vec();
    let had = |index: usize, version: Option<Sha256>, current| HostImage {
        id: images[index].id.clone(),
        sha256: version.map(|version| version.to_string()).unwrap_or_default(),
        current,
    };
    // The second has no version in the catalogue, and the third is not in it.
    let ids = vec![images[1].id.clone(), images[0].id.clone(), "img-own".to_owned()];
    for (sequence, manifest_sha256, expected) in [
        (
            1,
            vec![bytes(other), bytes(wanted), bytes(other)],
            vec![had(0, Some(wanted), true), had(1, Some(other), true)],
        ),
        (
            2,
            vec![bytes(other), bytes(other), bytes(other)],
            vec![had(0, Some(other), false), had(1, Some(other), true)],
        ),
        // As an agent tells them that knows ids alone.
        (3, Vec::new(), vec![had(0, None, false), had(1, None, true)]),
    ] {
        let images = Some(ImageSet { ids: ids.clone(), manifest_sha256 });
        let observed = Observed { sequence, images, ..Observed::default() };
        stream.sender.send(says(from_host::Message::Observed(observed))).await.unwrap();
        // What was said before it has been heard when this is answered.
        stream.sender.send(says(from_host::Message::Renew(Renew { sequence }))).await.unwrap();
        while !matches!(stream.next().await, to_host::Message::Renewed(_)) {}
        assert_eq!(shown().await, Some(HostImages { images: expected }), "{sequence}");
    }
    broker.stop().await;
}
