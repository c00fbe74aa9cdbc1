//! go-plugin's broker. Its clients open the stream as soon as they are connected and keep it; a
//! provider opens no further connections, so nothing ever comes back on it.

use tfplugin::proto::{
    plugin::{
        ConnInfo, Empty, conn_info::Knock, grpc_broker_client::GrpcBrokerClient,
        grpc_controller_client::GrpcControllerClient,
    },
    tfplugin6::{get_metadata, provider_client::ProviderClient},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::client::{Outcome, Plugin};

/// Opens the stream, as a client does.
async fn open(channel: &Channel) -> Outcome<(mpsc::Sender<ConnInfo>, Streaming<ConnInfo>)> {
    let (says, said) = mpsc::channel(4);
    let mut broker = GrpcBrokerClient::new(channel.clone());
    let answers = broker.start_stream(ReceiverStream::new(said)).await?.into_inner();
    Ok((says, answers))
}

async fn is_well(channel: &Channel) -> Outcome {
    let mut provider = ProviderClient::new(channel.clone());
    let answer = provider.get_metadata(get_metadata::Request {}).await?.into_inner();
    assert_eq!(answer.resources.len(), 1);
    Ok(())
}

#[tokio::test]
async fn the_broker_takes_what_is_said_and_offers_nothing() -> Outcome {
    let folder = tempfile::tempdir()?;
    let (_plugin, channel) = Plugin::connected(folder.path()).await?;
    // It is open before a word is said: a client says none.
    let (says, mut answers) = open(&channel).await?;
    let knock = Knock { knock: true, ..Knock::default() };
    let address = folder.path().join("other").to_string_lossy().into_owned();
    let offer = ConnInfo { service_id: 1, network: "unix".to_owned(), address, knock: None };
    says.send(offer.clone()).await?;
    says.send(ConnInfo { service_id: 2, knock: Some(knock), ..ConnInfo::default() }).await?;
    is_well(&channel).await?;
    // Its end comes after whatever it had to say.
    drop(says);
    assert_eq!(answers.message().await?, None);
    // A client that goes away in the middle does no harm, and a second one is as welcome.
    let (says, answers) = open(&channel).await?;
    says.send(offer).await?;
    drop(answers);
    let (says, mut answers) = open(&channel).await?;
    drop(says);
    assert_eq!(answers.message().await?, None);
    is_well(&channel).await
}

#[tokio::test]
async fn an_open_broker_does_not_hold_up_the_end() -> Outcome {
    let folder = tempfile::tempdir()?;
    let (plugin, channel) = Plugin::connected(folder.path()).await?;
    let (_says, mut answers) = open(&channel).await?;
    GrpcControllerClient::new(channel).shutdown(Empty {}).await?;
    // A clean end: a broken stream would be an error in the client's log.
    assert_eq!(answers.message().await?, None);
    let (status, ..) = plugin.ended().await?;
    assert_eq!(status, Some(0));
    Ok(())
}
