//! Who may call what: one row for each method of each service.
//!
//! A method without a row can't be called by anybody, and a test fails when one is missing.
//! Whose things a caller then sees and changes is the scope of its credential, which the core
//! applies ([`crate::core::Caller`]).

use std::collections::HashMap;

use fairmazon_model::access::{CredentialKind, Role};

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anybody, without a credential.
    Public,
    /// Credentials with one of these roles.
    Roles(&'static [Role]),
    /// Hosts, by the certificate that they have joined for. The token that they join with may be
    /// in more hands than one, and opens nothing.
    JoinedHosts,
}

/// When a call is answered, or its stream of answers opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    /// Within the time that calls have.
    Soon,
    /// When the caller has sent all, however long that takes: the call itself ends one that stands
    /// still.
    AtItsEnd,
}

/// The row of one method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Its full path (`/package.Service/Method`).
    pub(crate) method: &'static str,
    /// Who may call it.
    pub(crate) access: Access,
    /// When it is answered.
    pub(crate) answered: Answered,
}

impl Rule {
    /// Whether this role may call it; none stands for no credential.
    pub(crate) fn allows(&self, role: Option<Role>) -> bool {
        match self.access {
            Access::Public => true,
            Access::Roles(roles) => role.is_some_and(|role| roles.contains(&role)),
            Access::JoinedHosts => role == Some(Role::Host),
        }
    }

    /// Whether a credential of this kind will do, of a role that may call it.
    pub(crate) fn takes(&self, shown: CredentialKind) -> bool {
        self.access != Access::JoinedHosts || shown == CredentialKind::Certificate
    }
}

/// The rules by method.
#[derive(Debug)]
pub(crate) struct Rules(HashMap<&'static str, Rule>);

impl Rules {
    /// All of them.
    pub(crate) fn new() -> Self {
        Self(RULES.iter().map(|rule| (rule.method, *rule)).collect())
    }

    /// The rule of a method; none means that nobody may call it.
    pub(crate) fn of(&self, path: &str) -> Option<Rule> {
        self.0.get(path).copied()
    }
}

const CUSTOMER: Access = Access::Roles(&[Role::Customer]);
const CUSTOMER_AND_READERS: Access =
    Access::Roles(&[Role::Customer, Role::PlatformOperator, Role::Auditor]);
const HOST: Access = Access::Roles(&[Role::Host]);
const HOST_OPERATOR: Access = Access::Roles(&[Role::HostOperator]);
const HOST_OPERATOR_AND_READERS: Access =
    Access::Roles(&[Role::HostOperator, Role::PlatformOperator, Role::Auditor]);
const PEOPLE: Access =
    Access::Roles(&[Role::Customer, Role::HostOperator, Role::PlatformOperator, Role::Auditor]);
const PEOPLE_WHO_CHANGE: Access =
    Access::Roles(&[Role::Customer, Role::HostOperator, Role::PlatformOperator]);
const PLATFORM: Access = Access::Roles(&[Role::PlatformOperator]);
const READERS: Access = Access::Roles(&[Role::PlatformOperator, Role::Auditor]);

const fn rule(method: &'static str, access: Access) -> Rule {
    Rule { method, access, answered: Answered::Soon }
}

const fn long(method: &'static str, access: Access) -> Rule {
    Rule { method, access, answered: Answered::AtItsEnd }
}

/// The rows, by service and in the order of the `.proto` files.
const RULES: &[Rule] = &[
    rule("/fairmazon.v1.AccountsService/GetAccount", PEOPLE),
    rule("/fairmazon.v1.AccountsService/CreateAccount", PLATFORM),
    rule("/fairmazon.v1.AccountsService/ListAccounts", READERS),
    rule("/fairmazon.v1.TokensService/CreateToken", PEOPLE_WHO_CHANGE),
    rule("/fairmazon.v1.TokensService/RegisterCertificate", PEOPLE_WHO_CHANGE),
    rule("/fairmazon.v1.TokensService/ListTokens", PEOPLE),
    rule("/fairmazon.v1.TokensService/RevokeToken", PEOPLE_WHO_CHANGE),
    rule("/fairmazon.v1.AuditService/ExportAudit", PEOPLE),
    rule("/fairmazon.v1.AuditService/VerifyAudit", READERS),
    rule("/fairmazon.v1.CatalogueService/GetCatalogue", PEOPLE),
    rule("/fairmazon.v1.HostsService/RegisterHost", HOST_OPERATOR),
    rule("/fairmazon.v1.HostsService/GetHost", HOST_OPERATOR_AND_READERS),
    rule("/fairmazon.v1.HostsService/ListHosts", HOST_OPERATOR_AND_READERS),
    rule("/fairmazon.v1.HostsService/UpdateHost", HOST_OPERATOR),
    rule("/fairmazon.v1.HostsService/RotateHostToken", HOST_OPERATOR),
    rule("/fairmazon.v1.HostsService/JoinHost", HOST),
    rule("/fairmazon.v1.HostsService/DrainHost", HOST_OPERATOR),
    rule("/fairmazon.v1.HostsService/CancelDrain", HOST_OPERATOR),
    rule("/fairmazon.v1.HostsService/GetDrain", HOST_OPERATOR_AND_READERS),
    rule("/fairmazon.v1.HostsService/WatchDrain", HOST_OPERATOR_AND_READERS),
    rule("/fairmazon.v1.HostsService/RemoveHost", HOST_OPERATOR),
    rule("/fairmazon.v1.InstancesService/CreateInstance", CUSTOMER),
    rule("/fairmazon.v1.InstancesService/GetInstance", CUSTOMER_AND_READERS),
    rule("/fairmazon.v1.InstancesService/ListInstances", CUSTOMER_AND_READERS),
    rule("/fairmazon.v1.InstancesService/WatchInstance", CUSTOMER_AND_READERS),
    rule("/fairmazon.v1.InstancesService/GetConsole", CUSTOMER),
    rule("/fairmazon.v1.InstancesService/UpdateInstance", CUSTOMER),
    rule("/fairmazon.v1.InstancesService/DeleteInstance", CUSTOMER),
    rule("/fairmazon.v1.InstancesService/RebootInstance", CUSTOMER),
    rule("/fairmazon.v1.InstancesService/MigrateInstance", CUSTOMER),
    rule("/fairmazon.v1.OperationsService/GetOperation", CUSTOMER_AND_READERS),
    rule("/fairmazon.v1.OperationsService/ListOperations", CUSTOMER_AND_READERS),
    rule("/fairmazon.v1.OperationsService/WaitOperation", CUSTOMER_AND_READERS),
    rule("/fairmazon.v1.OperationsService/ConfirmCreated", CUSTOMER),
    rule("/fairmazon.v1.PlacementGroupsService/CreatePlacementGroup", CUSTOMER),
    rule("/fairmazon.v1.PlacementGroupsService/GetPlacementGroup", CUSTOMER_AND_READERS),
    rule("/fairmazon.v1.PlacementGroupsService/ListPlacementGroups", CUSTOMER_AND_READERS),
    rule("/fairmazon.v1.PlacementGroupsService/UpdatePlacementGroup", CUSTOMER),
    rule("/fairmazon.v1.PlacementGroupsService/DeletePlacementGroup", CUSTOMER),
    rule("/fairmazon.v1.SitesService/ListSites", PEOPLE),
    rule("/fairmazon.v1.UsageService/ListUsage", CUSTOMER_AND_READERS),
    rule("/fairmazon.v1.VolumesService/CreateVolume", CUSTOMER),
    rule("/fairmazon.v1.VolumesService/GetVolume", CUSTOMER_AND_READERS),
    rule("/fairmazon.v1.VolumesService/ListVolumes", CUSTOMER_AND_READERS),
    rule("/fairmazon.v1.VolumesService/UpdateVolume", CUSTOMER),
    rule("/fairmazon.v1.VolumesService/DeleteVolume", CUSTOMER),
    rule("/fairmazon.v1.VolumesService/ListKeyRequests", CUSTOMER),
    rule("/fairmazon.v1.VolumesService/GiveKeys", CUSTOMER),
    rule("/fairmazon.v1.VolumesService/GetWrappedKey", CUSTOMER),
    rule("/fairmazon.v1.VolumesService/ExportVolume", CUSTOMER),
    rule("/fairmazon.v1.VolumesService/ImportVolume", CUSTOMER),
    rule("/fairmazon.host.v1.HostStreamService/OpenStream", Access::JoinedHosts),
    long("/fairmazon.host.v1.HostStreamService/SendVolume", Access::JoinedHosts),
    rule("/fairmazon.host.v1.HostStreamService/ReceiveVolume", Access::JoinedHosts),
    rule("/grpc.health.v1.Health/Check", Access::Public),
    rule("/grpc.health.v1.Health/Watch", Access::Public),
    rule("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Access::Public),
];

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use prost::Message as _;
    use prost_types::{FileDescriptorSet, MethodDescriptorProto};

    use super::*;

    /// The methods that a descriptor set has, by their paths.
    fn described(descriptors: &[u8]) -> BTreeMap<String, MethodDescriptorProto> {
        let set = FileDescriptorSet::decode(descriptors).unwrap();
        let mut paths = BTreeMap::new();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let (package, service) = (file.package(), service.name());
                    let path = format!("/{package}.{service}/{}", method.name());
                    paths.insert(path, method.clone());
                }
            }
        }
        paths
    }

    /// Their paths alone.
    fn methods(descriptors: &[u8]) -> BTreeSet<String> {
        described(descriptors).into_keys().collect()
    }

    #[test]
    fn every_method_has_a_rule_and_every_rule_a_method() {
        let mut served = methods(fairmazon_proto::FILE_DESCRIPTOR_SET);
        assert!(served.len() > 30, "the descriptors are there");
        served.extend(methods(tonic_health::pb::FILE_DESCRIPTOR_SET));
        served.extend(methods(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET));
        let ruled: BTreeSet<_> = RULES.iter().map(|rule| rule.method.to_owned()).collect();
        assert_eq!(ruled.len(), RULES.len(), "no method has two rules");
        assert_eq!(served, ruled);
    }

    #[test]
    fn only_what_is_sent_as_a_stream_and_answered_once_may_take_its_time() {
        let described = described(fairmazon_proto::FILE_DESCRIPTOR_SET);
        for rule in RULES.iter().filter(|rule| rule.access != Access::Public) {
            let method = &described[rule.method];
            let is_long = method.client_streaming() && !method.server_streaming();
            assert_eq!(rule.answered == Answered::AtItsEnd, is_long, "{}", rule.method);
        }
    }

    #[test]
    fn nothing_of_the_platform_is_public() {
        for rule in RULES.iter().filter(|rule| rule.access == Access::Public) {
            assert!(rule.method.starts_with("/grpc."), "{}", rule.method);
        }
    }

    #[test]
    fn auditors_change_nothing_and_hosts_only_join_and_stream() {
        for rule in RULES {
            let (_, name) = rule.method.rsplit_once('/').unwrap();
            let reads = ["Get", "List", "Wait", "Watch", "Export", "Verify"];
            let is_read = reads.iter().any(|verb| name.starts_with(verb));
            if rule.access != Access::Public {
                assert!(is_read || !rule.allows(Some(Role::Auditor)), "{}", rule.method);
                let hosts = ["OpenStream", "SendVolume", "ReceiveVolume", "JoinHost"];
                let is_hosts = hosts.contains(&name);
                assert_eq!(rule.allows(Some(Role::Host)), is_hosts, "{}", rule.method);
                assert!(!rule.allows(None), "{}", rule.method);
                let token_will_do = !is_hosts || name == "JoinHost";
                assert_eq!(rule.takes(CredentialKind::Token), token_will_do, "{}", rule.method);
                assert!(rule.takes(CredentialKind::Certificate), "{}", rule.method);
            }
        }
    }
}
