//! Every role against every method, and none: the table is written down here a second time on
//! purpose, so that a change of the rules is read twice.

use std::time::Duration;

use fairmazon_model::access::Role;
use fairmazon_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{RegisterHostRequest, hosts_service_client::HostsServiceClient},
};
use futures::stream;
use http::uri::PathAndQuery;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::time::timeout;
use tonic::{Code, Request, client::Grpc};
use tonic_prost::ProstCodec;

use crate::{
    harness::{Broker, Client, host_spec},
    joining::joined,
};

/// Method and who may call it: c(ustomer), h(ost operator), t(oken of a host), m(achine: a
/// host that has joined, by its certificate), p(latform operator), a(uditor).
const ALLOWED: &str = "
AccountsService/GetAccount chpa
AccountsService/CreateAccount p
AccountsService/ListAccounts pa
TokensService/CreateToken chp
TokensService/RegisterCertificate chp
TokensService/ListTokens chpa
TokensService/RevokeToken chp
AuditService/ExportAudit chpa
AuditService/VerifyAudit pa
CatalogueService/GetCatalogue chpa
HostsService/RegisterHost h
HostsService/GetHost hpa
HostsService/ListHosts hpa
HostsService/UpdateHost h
HostsService/RotateHostToken h
HostsService/JoinHost tm
HostsService/DrainHost h
HostsService/CancelDrain h
HostsService/GetDrain hpa
HostsService/WatchDrain hpa
HostsService/RemoveHost h
InstancesService/CreateInstance c
InstancesService/GetInstance cpa
InstancesService/ListInstances cpa
InstancesService/WatchInstance cpa
InstancesService/GetConsole c
InstancesService/UpdateInstance c
InstancesService/DeleteInstance c
InstancesService/RebootInstance c
InstancesService/MigrateInstance c
OperationsService/GetOperation cpa
OperationsService/ListOperations cpa
OperationsService/WaitOperation cpa
OperationsService/ConfirmCreated c
PlacementGroupsService/CreatePlacementGroup c
PlacementGroupsService/GetPlacementGroup cpa
PlacementGroupsService/ListPlacementGroups cpa
PlacementGroupsService/UpdatePlacementGroup c
PlacementGroupsService/DeletePlacementGroup c
SitesService/ListSites chpa
UsageService/ListUsage cpa
VolumesService/CreateVolume c
VolumesService/GetVolume cpa
VolumesService/ListVolumes cpa
VolumesService/UpdateVolume c
VolumesService/DeleteVolume c
VolumesService/ListKeyRequests c
VolumesService/GiveKeys c
VolumesService/GetWrappedKey c
VolumesService/ExportVolume c
VolumesService/ImportVolume c
HostStreamService/OpenStream m
HostStreamService/SendVolume m
HostStreamService/ReceiveVolume m
";

const TOKENS: [(char, Role); 5] = [
    ('c', Role::Customer),
    ('h', Role::HostOperator),
    ('t', Role::Host),
    ('p', Role::PlatformOperator),
    ('a', Role::Auditor),
];

/// The paths of all methods.
pub(crate) fn methods() -> Vec<String> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut paths = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                paths.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    paths
}

/// Calls a method of any kind with an empty message and answers how it ended.
async fn call(client: &Client, path: &str) -> Code {
    let mut grpc = Grpc::new(client.clone());
    grpc.ready().await.unwrap();
    let path = PathAndQuery::try_from(path).unwrap();
    let request = Request::new(stream::iter([()]));
    let answered = timeout(
        Duration::from_secs(20),
        grpc.streaming(request, path, ProstCodec::<(), ()>::default()),
    );
    match answered.await.expect("every method answers") {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

/// Registers another host; its token.
async fn register(broker: &Broker, name: &str) -> String {
    let mut hosts = HostsServiceClient::new(broker.as_role(Role::HostOperator).await);
    let spec = Some((&host_spec(name)).into());
    let request = RegisterHostRequest { spec, idempotency_key: name.into() };
    hosts.register_host(request).await.unwrap().into_inner().token
}

#[tokio::test]
async fn every_role_against_every_method() {
    let mut broker = Broker::start().await;
    // The token of a host that has joined ends: the one in the table is another host's.
    let mut clients = vec![('m', joined(&broker).await)];
    broker.tokens.insert(Role::Host, register(&broker, "second").await);
    for (letter, role) in TOKENS {
        clients.push((letter, broker.as_role(role).await));
    }
    let nobody = broker.with_token(None).await;
    let methods = methods();
    assert_eq!(methods.len(), ALLOWED.trim().lines().count());
    for path in methods {
        let name = path.rsplit('.').next().unwrap();
        let line = ALLOWED.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let allowed = line.unwrap_or_else(|| panic!("{name} is in no line"));
        assert_eq!(
            call(&nobody, &path).await,
            Code::Unauthenticated,
            "{path} without a credential"
        );
        for (letter, client) in &clients {
            let code = call(client, &path).await;
            let expected = allowed.contains(*letter);
            assert_eq!(code != Code::PermissionDenied, expected, "{path} as {letter}: {code:?}");
            assert_ne!(code, Code::Unauthenticated, "{path} as {letter}");
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn what_is_not_a_method_is_refused() {
    let broker = Broker::start().await;
    let client = broker.as_role(Role::PlatformOperator).await;
    for path in ["/fairmazon.v1.InstancesService/Explode", "/x/y", "/"] {
        assert_eq!(call(&client, path).await, Code::NotFound, "{path}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn health_and_reflection_need_no_credential() {
    let broker = Broker::start().await;
    let client = broker.with_token(None).await;
    assert_eq!(call(&client, "/grpc.health.v1.Health/Check").await, Code::Ok);
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    assert_eq!(call(&client, reflection).await, Code::Ok);
    broker.stop().await;
}
