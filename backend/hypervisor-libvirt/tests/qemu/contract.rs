//! The contract of a hypervisor.

fairmazon_hypervisor::contract_tests!(crate::lab::subject());
