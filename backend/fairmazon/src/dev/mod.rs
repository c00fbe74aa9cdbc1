//! What `fairmazon dev` is made of: who there is, where the hosts stand, and their agents.

pub(crate) mod agents;
pub(crate) mod libvirt;
pub(crate) mod people;
pub(crate) mod secrets;
pub(crate) mod sites;
