//! Metering without a disk.

use std::collections::BTreeMap;

use fairmazon_model::{
    id::HostId,
    units::{Epoch, UnixMs},
    usage::{Allotment, Subject, UsageRecord, WindowKind},
};

use crate::{
    AllotmentChange, MeteringWrites, SignerRecord, UsageQuery, UsageSum, WindowContext, WindowEnd,
    WindowKey,
};

/// Subject, host, epoch, beginning of the series, place in it.
type Place = (Subject, HostId, Epoch, UnixMs, u64);

#[derive(Debug, Default, Clone)]
pub(super) struct Metering {
    allotments: BTreeMap<(Subject, Epoch, HostId), Allotment>,
    windows: BTreeMap<Place, UsageRecord>,
    signers: BTreeMap<String, SignerRecord>,
}

impl Metering {
    pub(super) fn write(&mut self, writes: MeteringWrites) {
        for change in writes.allotments {
            self.allot(change);
        }
        for signer in writes.signers {
            self.signers.entry(signer.sha256.clone()).or_insert(signer);
        }
        for record in writes.windows {
            let window = &record.signed.window;
            let place = (window.subject, record.host, window.epoch, window.begun, window.sequence);
            self.windows.entry(place).or_insert(record);
        }
    }

    fn allot(&mut self, AllotmentChange { subject, at, now }: AllotmentChange) {
        let stays = now.as_ref().map(|now| (now.epoch, now.host));
        for ((whose, epoch, host), allotment) in &mut self.allotments {
            if *whose == subject && allotment.until.is_none() && Some((*epoch, *host)) != stays {
                allotment.until = Some(at.max(allotment.from));
            }
        }
        let Some(now) = now else { return };
        let place = (subject, now.epoch, now.host);
        let known = self.allotments.entry(place).or_insert_with(|| now.clone());
        known.vcpus = known.vcpus.max(now.vcpus);
        known.memory = known.memory.max(now.memory);
        known.size = known.size.max(now.size);
        known.until = None;
    }

    pub(super) fn context(&self, host: HostId, key: &WindowKey, slack_ms: i64) -> WindowContext {
        let place = (key.subject, host, key.epoch, key.begun, key.sequence);
        let first = (key.subject, host, key.epoch, UnixMs(i64::MIN), 0);
        let end = (key.subject, host, key.epoch, UnixMs(i64::MAX), u64::MAX);
        let last = self.windows.range(first..=end).next_back().map(|(_, record)| {
            let window = &record.signed.window;
            WindowEnd { begun: window.begun, sequence: window.sequence, until: window.until }
        });
        let meets = |record: &UsageRecord| {
            let window = &record.signed.window;
            window.subject == key.subject
                && (record.host, window.epoch) != (host, key.epoch)
                && window.kind == WindowKind::Used
                && window.from.0 < key.until.0.saturating_sub(slack_ms)
                && window.until.0 > key.from.0.saturating_add(slack_ms)
        };
        WindowContext {
            known: self.windows.get(&place).cloned(),
            last,
            allotment: self.allotments.get(&(key.subject, key.epoch, host)).cloned(),
            elsewhere: self.windows.values().any(meets),
        }
    }

    pub(super) fn usage(&self, query: &UsageQuery) -> Vec<UsageSum> {
        let mut sums: BTreeMap<String, UsageSum> = BTreeMap::new();
        let after = query.after.map(|subject| subject.to_string()).unwrap_or_default();
        for record in self.windows.values() {
            let window = &record.signed.window;
            let subject = window.subject.to_string();
            let wanted = query.account.is_none_or(|account| account == record.account)
                && query.subject.is_none_or(|only| only == window.subject)
                && (query.from..query.until).contains(&window.from)
                && subject > after;
            if !wanted {
                continue;
            }
            let sum = sums.entry(subject).or_insert_with(|| UsageSum {
                subject: window.subject,
                account: record.account,
                class: window.class.clone(),
                from: window.from,
                until: window.until,
                windows: 0,
                used_ms: 0,
                unseen_ms: 0,
                amounts: fairmazon_model::usage::Amounts::default(),
            });
            sum.from = sum.from.min(window.from);
            sum.until = sum.until.max(window.until);
            sum.windows += 1;
            match window.kind {
                WindowKind::Used => sum.used_ms += window.length_ms().unsigned_abs(),
                WindowKind::Unseen => sum.unseen_ms += window.length_ms().unsigned_abs(),
                WindowKind::Off => {}
            }
            sum.amounts = sum.amounts.plus(window.amounts);
        }
        sums.into_values().take(query.limit as usize).collect()
    }

    pub(super) fn expire(&mut self, before: UnixMs, limit: u32) -> u64 {
        self.allotments.retain(|_, allotment| allotment.until.is_none_or(|until| until >= before));
        let mut old: Vec<_> = self
            .windows
            .iter()
            .filter(|(_, record)| record.signed.window.until < before)
            .map(|(place, record)| (record.signed.window.until, *place))
            .collect();
        old.sort_unstable();
        old.truncate(limit as usize);
        old.iter().for_each(|(_, place)| _ = self.windows.remove(place));
        old.len() as u64
    }
}
