//! Every change of the API: it has an idempotency key, is done once with it, and stands in the
//! audit log with who, what, before and after. A method that is in no table fails.

mod tour;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use fairmazon_broker::core::hash_secret;
use fairmazon_model::{access::Role, id::TokenId};
use fairmazon_proto::{FILE_DESCRIPTOR_SET, v1};
use http::uri::PathAndQuery;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::{Code, Request, Status, client::Grpc};
use tonic_prost::ProstCodec;

use crate::harness::{Broker, Client, detail};

/// The methods without an idempotency key, and why they need none.
const WITHOUT_KEY: [(&str, &str); 27] = [
    ("AccountsService/GetAccount", READ),
    ("AccountsService/ListAccounts", READ),
    ("TokensService/ListTokens", READ),
    ("AuditService/ExportAudit", READ),
    ("AuditService/VerifyAudit", READ),
    ("CatalogueService/GetCatalogue", READ),
    ("HostsService/GetHost", READ),
    ("HostsService/ListHosts", READ),
    ("HostsService/GetDrain", READ),
    ("HostsService/WatchDrain", READ),
    ("InstancesService/GetInstance", READ),
    ("InstancesService/ListInstances", READ),
    ("InstancesService/WatchInstance", READ),
    ("InstancesService/GetConsole", READ),
    ("OperationsService/GetOperation", READ),
    ("OperationsService/ListOperations", READ),
    ("OperationsService/WaitOperation", READ),
    ("PlacementGroupsService/GetPlacementGroup", READ),
    ("PlacementGroupsService/ListPlacementGroups", READ),
    ("SitesService/ListSites", READ),
    ("UsageService/ListUsage", READ),
    ("VolumesService/GetVolume", READ),
    ("VolumesService/ListVolumes", READ),
    ("VolumesService/ListKeyRequests", READ),
    ("VolumesService/GetWrappedKey", READ),
    ("VolumesService/ExportVolume", READ),
    ("HostStreamService/OpenStream", "a host says all that it sees, under a generation"),
];
const READ: &str = "it changes nothing";
/// As [`WITHOUT_KEY`].
const TRANSFERS: [(&str, &str); 2] = [
    ("HostStreamService/SendVolume", "the id of a transfer counts once"),
    ("HostStreamService/ReceiveVolume", "the id of a transfer counts once"),
];

/// The verb of an entry in the audit log, and whether there is something before and after.
type Entry = (&'static str, bool, bool);

const fn made(verb: &'static str) -> Entry {
    (verb, false, true)
}

const fn changed(verb: &'static str) -> Entry {
    (verb, true, true)
}

const fn gone(verb: &'static str) -> Entry {
    (verb, true, false)
}

/// Each change with the entries that it leaves, in their order.
const CHANGES: [(&str, &[Entry]); 25] = [
    ("AccountsService/CreateAccount", &[made("account.create"), made("token.create")]),
    ("TokensService/CreateToken", &[made("token.create")]),
    ("TokensService/RegisterCertificate", &[made("token.create")]),
    ("TokensService/RevokeToken", &[changed("token.revoke")]),
    ("HostsService/RegisterHost", &[made("host.register"), made("token.create")]),
    ("HostsService/UpdateHost", &[changed("host.update")]),
    ("HostsService/RotateHostToken", &[changed("token.revoke"), made("token.create")]),
    ("HostsService/JoinHost", &[changed("token.bind"), changed("host.join"), made("token.create")]),
    ("HostsService/DrainHost", &[changed("host.drain")]),
    ("HostsService/CancelDrain", &[changed("host.cancel_drain")]),
    ("HostsService/RemoveHost", &[gone("host.remove"), gone("token.remove")]),
    ("InstancesService/CreateInstance", &[made("instance.create")]),
    ("InstancesService/UpdateInstance", &[changed("instance.update")]),
    ("InstancesService/RebootInstance", &[changed("instance.reboot")]),
    ("InstancesService/MigrateInstance", &[changed("instance.migrate")]),
    ("InstancesService/DeleteInstance", &[changed("instance.delete")]),
    ("OperationsService/ConfirmCreated", &[changed("instance.confirm")]),
    ("PlacementGroupsService/CreatePlacementGroup", &[made("group.create")]),
    ("PlacementGroupsService/UpdatePlacementGroup", &[changed("group.update")]),
    ("PlacementGroupsService/DeletePlacementGroup", &[gone("group.delete")]),
    ("VolumesService/CreateVolume", &[made("volume.create")]),
    ("VolumesService/UpdateVolume", &[changed("volume.update")]),
    // One that has no host yet is gone at once.
    ("VolumesService/DeleteVolume", &[gone("volume.delete")]),
    ("VolumesService/GiveKeys", &[changed("volume.give_key")]),
    // What was asked for stands in the entry of the volume's creation; the row stays as it is.
    ("VolumesService/ImportVolume", &[("volume.import", false, false)]),
];

/// The key of all requests: it counts for each method by itself.
const KEY: &str = "idempotent-key-of-a-change";

/// Each method with whether its request has an idempotency key.
fn methods() -> BTreeMap<String, bool> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut keyed = BTreeSet::new();
    for file in &set.file {
        for message in &file.message_type {
            if message.field.iter().any(|field| field.name() == "idempotency_key") {
                keyed.insert(format!(".{}.{}", file.package(), message.name()));
            }
        }
    }
    let services = set.file.iter().flat_map(|file| &file.service);
    let methods = services.flat_map(|service| {
        let of = |name: &str| format!("{}/{name}", service.name());
        service.method.iter().map(move |method| (of(method.name()), method.input_type()))
    });
    methods.map(|(name, input)| (name, keyed.contains(input))).collect()
}

#[test]
fn every_change_has_an_idempotency_key() {
    let exceptions: BTreeMap<_, _> = WITHOUT_KEY.into_iter().chain(TRANSFERS).collect();
    let methods = methods();
    for (method, has_key) in &methods {
        let reason = exceptions.get(method.as_str());
        assert_ne!(*has_key, reason.is_some(), "{method}: key {has_key}, exception {reason:?}");
    }
    for method in exceptions.keys() {
        assert!(methods.contains_key(*method), "{method} is no method");
    }
}

/// A request of a change.
trait Change: Message + Clone + Default + 'static {
    fn with_key(self) -> Self;
}

macro_rules! changes {
    ($($request:ident)+) => {
        $(impl Change for v1::$request {
            fn with_key(self) -> Self {
                Self { idempotency_key: KEY.into(), ..self }
            }
        })+
    };
}

changes! {
    CreateAccountRequest CreateTokenRequest RegisterCertificateRequest RevokeTokenRequest
    RegisterHostRequest UpdateHostRequest RotateHostTokenRequest JoinHostRequest DrainHostRequest
    CancelDrainRequest RemoveHostRequest CreateInstanceRequest UpdateInstanceRequest
    RebootInstanceRequest MigrateInstanceRequest DeleteInstanceRequest ConfirmCreatedRequest
    CreatePlacementGroupRequest UpdatePlacementGroupRequest DeletePlacementGroupRequest
    CreateVolumeRequest UpdateVolumeRequest DeleteVolumeRequest GiveKeysRequest
}

/// The part of an answer that stays the same, whatever becomes of the thing meanwhile.
trait Answer: Message + Default + Debug + 'static {
    fn kept(&self) -> String {
        format!("{self:?}")
    }
}

impl Answer for v1::CreateAccountResponse {}
impl Answer for v1::CreateTokenResponse {}
impl Answer for v1::Token {}
impl Answer for v1::RegisterHostResponse {}
impl Answer for v1::RotateHostTokenResponse {}
impl Answer for v1::Host {}
impl Answer for v1::JoinHostResponse {}
impl Answer for v1::RemoveHostResponse {}
impl Answer for v1::ConfirmCreatedResponse {}
impl Answer for v1::PlacementGroup {}
impl Answer for v1::DeletePlacementGroupResponse {}
impl Answer for v1::GiveKeysResponse {}

impl Answer for v1::Operation {
    fn kept(&self) -> String {
        self.id.clone()
    }
}

impl Answer for v1::InstanceResponse {
    fn kept(&self) -> String {
        format!("{} {}", self.instance.as_ref().unwrap().id, self.operation.as_ref().unwrap().id)
    }
}

impl Answer for v1::VolumeResponse {
    fn kept(&self) -> String {
        format!("{} {}", self.volume.as_ref().unwrap().id, self.operation.as_ref().unwrap().id)
    }
}

/// What a repetition is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeated {
    /// As the first time.
    Same,
    /// That it was done: the answer held a secret, or is not kept.
    ToldOnce,
}

/// Goes through all changes.
struct Tour {
    broker: Broker,
    clients: BTreeMap<Role, Client>,
    /// The last entry of the audit log that was looked at.
    seen: u64,
    done: BTreeSet<&'static str>,
    /// What must not be in the audit log.
    secrets: Vec<String>,
}

impl Tour {
    async fn begin() -> Self {
        let broker = Broker::start().await;
        let mut clients = BTreeMap::new();
        for role in broker.tokens.keys() {
            clients.insert(*role, broker.as_role(*role).await);
        }
        let secrets = broker.tokens.values().cloned().chain([KEY.to_owned()]).collect();
        let seen = broker.audited(0).await.1;
        Self { broker, clients, seen, done: BTreeSet::new(), secrets }
    }

    fn client(&self, role: Role) -> Client {
        self.clients[&role].clone()
    }

    fn credential(&self, role: Role) -> TokenId {
        let hash = hash_secret(self.broker.tokens[&role].as_bytes());
        self.broker.engine.credential_by_hash(&hash).unwrap().id
    }

    async fn call<Q: Message + 'static, A: Message + Default + 'static>(
        &self,
        role: Role,
        method: &str,
        request: Q,
    ) -> Result<A, Status> {
        let mut grpc = Grpc::new(self.client(role));
        grpc.ready().await.unwrap();
        let path = PathAndQuery::try_from(format!("/fairmazon.v1.{method}")).unwrap();
        let codec = ProstCodec::<Q, A>::default();
        Ok(grpc.unary(Request::new(request), path, codec).await?.into_inner())
    }

    /// Something that a change needs and is not looked at.
    async fn given<Q: Message + 'static, A: Answer>(
        &self,
        role: Role,
        method: &str,
        request: Q,
    ) -> A {
        self.call(role, method, request).await.unwrap()
    }

    /// Makes a change, repeats it, and asks for `other` with its key.
    async fn step<Q: Change, A: Answer>(
        &mut self,
        role: Role,
        method: &'static str,
        (request, other): (Q, Q),
        repeated: Repeated,
    ) -> A {
        let (request, other) = (request.with_key(), other.with_key());
        self.skip().await;
        let answer: A = self.call(role, method, request.clone()).await.unwrap();
        self.left(role, method).await;
        let again = self.call::<_, A>(role, method, request).await;
        match (repeated, again) {
            (Repeated::Same, Ok(again)) => assert_eq!(again.kept(), answer.kept(), "{method}"),
            (Repeated::ToldOnce, Err(status)) => {
                assert_eq!(status.code(), Code::AlreadyExists, "{method}: {status}");
            }
            (_, again) => panic!("{method} once more: {again:?}"),
        }
        refused(method, &self.call::<_, A>(role, method, other).await.unwrap_err());
        assert_eq!(self.entries(role).await, [], "{method} once more");
        answer
    }

    /// Passes over what is in the audit log by now.
    async fn skip(&mut self) {
        self.seen = self.broker.audited(self.seen).await.1;
    }

    /// That a change has left its entries.
    async fn left(&mut self, role: Role, method: &'static str) {
        let entries = self.entries(role).await;
        let (_, expected) = CHANGES.iter().find(|(named, _)| *named == method).unwrap();
        assert_eq!(&entries, expected, "{method}");
        self.done.insert(method);
    }

    /// The new entries of what this role has done. Each says of one row how it was and became.
    async fn entries(&mut self, role: Role) -> Vec<Entry> {
        let records = self.broker.audit_records(self.seen).await;
        self.seen = records.last().map_or(self.seen, |record| record.sequence);
        let credential = self.credential(role);
        let account = self.broker.engine.credential(credential).unwrap().account;
        let mut entries = Vec::new();
        for record in records {
            let entry = record.entry;
            if entry.actor.credential != Some(credential) {
                continue;
            }
            assert_eq!(entry.actor.account, Some(account), "{entry:?}");
            for row in [&entry.before, &entry.after].into_iter().flatten() {
                assert_eq!(row["id"], entry.target.as_str(), "{entry:?}");
            }
            let (before, after) = (entry.before.is_some(), entry.after.is_some());
            assert!(!before || entry.before != entry.after, "nothing has changed: {entry:?}");
            let known = CHANGES.iter().flat_map(|(_, entries)| *entries);
            let verb = known.map(|known| known.0).find(|verb| *verb == entry.verb);
            let verb = verb.unwrap_or_else(|| panic!("{} is in no line", entry.verb));
            // A change of many rows has an entry for each.
            if entries.last() != Some(&(verb, before, after)) {
                entries.push((verb, before, after));
            }
        }
        entries
    }

    /// That all changes were made, and that the log has none of the secrets.
    async fn end(self) {
        let changes = methods().into_iter().filter(|(_, has_key)| *has_key);
        for (method, _) in changes {
            assert!(self.done.contains(method.as_str()), "{method} was not called");
        }
        for (method, _) in CHANGES {
            assert!(self.done.contains(method), "{method} was not called");
        }
        let log = self.broker.audit_text().await;
        for secret in &self.secrets {
            assert!(!log.contains(secret), "the audit log has the secret {secret}");
        }
        self.broker.stop().await;
    }
}

/// That a key was refused as it belongs to another request.
fn refused(method: &str, status: &Status) {
    assert_eq!(status.code(), Code::Aborted, "{method}: {status}");
    assert_eq!(detail(status).field, "idempotency_key", "{method}: {status}");
}
