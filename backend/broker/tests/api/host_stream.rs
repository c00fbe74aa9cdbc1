//! A host's stream through the gate: who may open it, and what ends it.

use fairmazon_model::access::Role;
use fairmazon_proto::{
    host::v1::{
        Desired, FromHost, Hello, Renew, from_host,
        host_stream_service_client::HostStreamServiceClient, to_host,
    },
    v1::{
        CreateInstanceRequest, ListHostsRequest, RemoveHostRequest,
        hosts_service_client::HostsServiceClient, instances_service_client::InstancesServiceClient,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use crate::{
    harness::{Broker, Client, detail, instance_spec},
    joining::{joined, stream},
};

/// A stream of a host.
pub(crate) struct Stream {
    pub(crate) sender: mpsc::Sender<FromHost>,
    pub(crate) answers: Streaming<fairmazon_proto::host::v1::ToHost>,
}

pub(crate) fn says(message: from_host::Message) -> FromHost {
    FromHost { message: Some(message) }
}

pub(crate) fn hello(host_id: String) -> FromHost {
    says(from_host::Message::Hello(Hello {
        host_id,
        agent_version: "1".into(),
        hypervisor: "simulated".into(),
        session: "one".into(),
        generation: 0,
        migration_address: String::new(),
        accelerator: String::new(),
        reads_consoles: false,
        conformity: None,
    }))
}

/// Opens a stream with the client's credential.
pub(crate) async fn open_as(client: &Client, first: FromHost) -> Result<Stream, Status> {
    let (sender, receiver) = mpsc::channel(4);
    sender.send(first).await.unwrap();
    let mut client = HostStreamServiceClient::new(client.clone());
    let answers = client.open_stream(ReceiverStream::new(receiver)).await?.into_inner();
    Ok(Stream { sender, answers })
}

impl Stream {
    /// What the broker says next.
    pub(crate) async fn next(&mut self) -> to_host::Message {
        self.answers.message().await.unwrap().unwrap().message.unwrap()
    }

    /// The first set from now on that has these machines and no others.
    async fn set_with(&mut self, ids: &[&str]) -> Desired {
        loop {
            if let to_host::Message::Desired(set) = self.next().await
                && set.machines.len() == ids.len()
                && set.machines.iter().all(|machine| ids.contains(&machine.instance_id.as_str()))
            {
                return set;
            }
        }
    }

    /// Why it ended; what came before is skipped.
    pub(crate) async fn end(mut self) -> Status {
        loop {
            match self.answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the end has a reason"),
                Err(status) => return status,
            }
        }
    }
}

async fn connected(broker: &Broker) -> bool {
    let mut hosts = HostsServiceClient::new(broker.as_role(Role::HostOperator).await);
    let listed = hosts.list_hosts(ListHostsRequest::default()).await.unwrap().into_inner();
    listed.hosts.iter().any(|host| host.connected)
}

#[tokio::test]
async fn a_host_is_welcomed_and_granted_a_lease() {
    let broker = Broker::start().await;
    assert!(!connected(&broker).await);
    let mut stream = stream(&broker, &joined(&broker).await).await.unwrap();
    assert!(matches!(stream.next().await, to_host::Message::Desired(_)));
    stream.sender.send(says(from_host::Message::Renew(Renew { sequence: 7 }))).await.unwrap();
    let to_host::Message::Renewed(renewed) = stream.next().await else { panic!("no lease") };
    assert_eq!(renewed.sequence, 7);
    assert!(connected(&broker).await);
    broker.stop().await;
    assert_eq!(stream.end().await.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_host_speaks_for_itself_alone() {
    let broker = Broker::start().await;
    let host = joined(&broker).await;
    let open = async |first| open_as(&host, first).await.unwrap();
    let stream = open(hello("hst-01jd0000000000000000000000".into())).await;
    assert_eq!(stream.end().await.code(), Code::PermissionDenied);
    let stream = open(says(from_host::Message::Renew(Renew { sequence: 1 }))).await;
    assert_eq!(stream.end().await.code(), Code::InvalidArgument);
    let stream = open(FromHost { message: None }).await;
    let status = stream.end().await;
    assert_eq!((status.code(), detail(&status).field.as_str()), (Code::InvalidArgument, "message"));
    broker.stop().await;
}

#[tokio::test]
async fn a_stream_ends_with_its_host() {
    let broker = Broker::start().await;
    let stream = stream(&broker, &joined(&broker).await).await.unwrap();
    let mut hosts = HostsServiceClient::new(broker.as_role(Role::HostOperator).await);
    let id = broker.host.to_string();
    let request = RemoveHostRequest { id, idempotency_key: "remove".into(), lost: false };
    hosts.remove_host(request).await.unwrap();
    let code = stream.end().await.code();
    assert!(matches!(code, Code::NotFound | Code::Unauthenticated), "{code:?}");
    broker.stop().await;
}

#[tokio::test]
async fn a_later_stream_of_a_host_takes_over_with_all_that_it_is_to_do() {
    let broker = Broker::start().await;
    let stop = CancellationToken::new();
    let reconciler = broker.engine.start(stop.clone());
    let mut instances = InstancesServiceClient::new(broker.as_role(Role::Customer).await);
    let mut make = async |name: &str| {
        let spec = Some(instance_spec(name));
        let request = CreateInstanceRequest { spec, idempotency_key: name.into() };
        let made = instances.create_instance(request).await.unwrap().into_inner();
        made.instance.unwrap().id
    };
    let host = joined(&broker).await;
    let mut first = stream(&broker, &host).await.unwrap();
    let one = make("one").await;
    let before = first.set_with(&[&one]).await;

    let mut second = stream(&broker, &host).await.unwrap();
    let to_host::Message::Desired(begin) = second.next().await else { panic!("no set") };
    assert_eq!(begin.machines, before.machines, "it begins with what the first was told");
    assert!(begin.generation >= before.generation);

    // The first is told why without asking, and its end is not the host's.
    let status = first.end().await;
    assert_eq!(status.code(), Code::Aborted);
    assert!(detail(&status).message.contains("later stream"), "{status}");
    assert!(connected(&broker).await);
    assert_eq!(broker.engine.hosts_connected(), 1);

    second.sender.send(says(from_host::Message::Renew(Renew { sequence: 2 }))).await.unwrap();
    let renewed = loop {
        if let to_host::Message::Renewed(renewed) = second.next().await {
            break renewed;
        }
    };
    assert_eq!(renewed.sequence, 2, "the lease goes on");
    let two = make("two").await;
    let after = second.set_with(&[&one, &two]).await;
    assert!(after.generation > begin.generation);
    stop.cancel();
    reconciler.await.unwrap();
    broker.stop().await;
}
