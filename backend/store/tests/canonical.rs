//! The audit log's text and chain, for any entry.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fairmazon_model::{
    id::{AccountId, TokenId},
    units::UnixMs,
};
use fairmazon_store::{Actor, AuditEntry, AuditHead, AuditRecord, ChainChecker, PartChecker};
use proptest::prelude::*;
use serde_json::Value;

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

prop_compose! {
    fn any_entry()(
        at: i64,
        credential in any::<Option<u64>>(),
        account in any::<Option<u64>>(),
        verb: String,
        target: String,
        before in prop::option::of(any_value()),
        after in prop::option::of(any_value()),
    ) -> AuditEntry {
        AuditEntry {
            at: UnixMs(at),
            actor: Actor {
                credential: credential.map(|n| TokenId::from_parts(0, n.into())),
                account: account.map(|n| AccountId::from_parts(0, n.into())),
            },
            verb,
            target,
            // A null says as much as nothing and reads back as nothing.
            before: before.filter(|value| !value.is_null()),
            after: after.filter(|value| !value.is_null()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_text_is_json_of_the_entry_and_stays_the_same(entry in any_entry()) {
        let text = entry.canonical().unwrap();
        let read: AuditEntry = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&read, &entry);
        prop_assert_eq!(read.canonical().unwrap(), text);
    }

    #[test]
    fn an_export_can_be_checked_and_any_change_is_noticed(
        entries in prop::collection::vec(any_entry(), 1..6),
        victim: prop::sample::Index,
    ) {
        let mut head = AuditHead::default();
        let mut lines = Vec::new();
        for entry in entries {
            let next = head.next(&entry.canonical().unwrap());
            let record =
                AuditRecord { sequence: next.sequence, entry, previous: head.hash, hash: next.hash };
            lines.push(serde_json::to_string(&record).unwrap());
            head = next;
        }
        let mut records: Vec<AuditRecord> =
            lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut checker = ChainChecker::default();
        for record in &records {
            checker.check(record).unwrap();
        }
        prop_assert_eq!(checker.head(), head);
        let victim = victim.index(records.len());
        records[victim].entry.verb.push('!');
        let mut checker = ChainChecker::default();
        let broken = records.iter().find_map(|record| checker.check(record).err()).unwrap();
        prop_assert_eq!(broken.sequence as usize, victim + 1);
    }

    #[test]
    fn a_part_can_be_checked_and_what_is_changed_in_it_is_noticed(
        entries in prop::collection::vec((any_entry(), any::<bool>()), 1..12),
        victim: prop::sample::Index,
    ) {
        let mut head = AuditHead::default();
        let mut records = Vec::new();
        for (entry, is_seen) in entries {
            let next = head.next(&entry.canonical().unwrap());
            if is_seen {
                let (sequence, previous, hash) = (next.sequence, head.hash, next.hash);
                records.push(AuditRecord { sequence, entry, previous, hash });
            }
            head = next;
        }
        prop_assume!(!records.is_empty());
        let mut checker = PartChecker::default();
        for record in &records {
            checker.check(record).unwrap();
        }
        let last = records.last().unwrap();
        prop_assert_eq!(checker.head(), AuditHead { sequence: last.sequence, hash: last.hash });
        prop_assert_eq!(checker.missing(), last.sequence - records.len() as u64);

        let victim = victim.index(records.len());
        records[victim].entry.verb.push('!');
        let first_broken = |records: &[AuditRecord]| {
            let mut checker = PartChecker::default();
            records.iter().find_map(|record| checker.check(record).err()).map(|it| it.sequence)
        };
        prop_assert_eq!(first_broken(&records), Some(records[victim].sequence));
        // Hashed anew it is noticed where its neighbour is there.
        let record = &mut records[victim];
        let before = AuditHead { sequence: record.sequence - 1, hash: record.previous };
        record.hash = before.next(&record.entry.canonical().unwrap()).hash;
        let follower = record.sequence + 1;
        let is_there = records.get(victim + 1).is_some_and(|next| next.sequence == follower);
        prop_assert_eq!(first_broken(&records), is_there.then_some(follower));
    }
}
