//! Hosts and the host standard: what they prove becomes part of their rows, and hosts that do not
//! conform are emptied until they do again.
//!
//! A host that is seen not to conform gets nothing new at once. Machines are moved away only when
//! that has lasted for the grace, so that one failed look empties no host, and only when the host
//! has said so on the stream that is open: what it said long ago may have been put right since.

use std::sync::Arc;

use fairmazon_model::{
    conformity::{Conformity, Proof},
    host::{DrainCause, Draining, Host},
    id::HostId,
    units::UnixMs,
};
use fairmazon_store::StoreError;

use crate::core::{CoreConfig, Engine, audit, draft::Draft, state::State};

/// What follows for a host from what it proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Follows {
    /// It is emptied.
    Drain,
    /// It is emptied no more.
    EndDrain,
    /// Nothing but what it has said.
    Nothing,
}

/// The row as it shall be; none when it is so. `said` is what its agent has said on the stream
/// that is open, if anything.
fn next_host(
    host: &Host,
    said: Option<&Proof>,
    now: UnixMs,
    config: &CoreConfig,
) -> Option<(Host, Follows)> {
    let known = host.conformity.as_ref();
    let news = said.filter(|said| known.is_none_or(|known| known.proof != **said));
    let conformity = match news {
        Some(proof) => Some(Conformity::after(known, proof.clone(), now)),
        None => known.cloned(),
    };
    let known = conformity.as_ref()?;
    let for_long = known.lacks_for(0, config.conformity_grace_ms, now);
    let is_free = host.draining.is_none_or(|had| had.leaves_it_to_the_platform(now));
    let cause = host.draining.map(|draining| draining.cause);
    let follows = match cause {
        _ if is_free && for_long && said.is_some() => Follows::Drain,
        Some(DrainCause::Standard) if !known.fails() => Follows::EndDrain,
        _ => Follows::Nothing,
    };
    if news.is_none() && follows == Follows::Nothing {
        return None;
    }
    let deadline = UnixMs(now.0.saturating_add(config.conformity_drain_ms));
    let draining = match follows {
        Follows::Drain => Some(Draining {
            since: host.draining.map_or(now, |had| had.since),
            deadline,
            cause: DrainCause::Standard,
            taken_over: host.draining.map(|had| had.deadline),
        }),
        // Its operator has not said that it may take new machines again.
        Follows::EndDrain => host.draining.and_then(|had| {
            let (deadline, cause) = (had.taken_over?, DrainCause::Operator);
            Some(Draining { deadline, cause, taken_over: None, ..had })
        }),
        Follows::Nothing => host.draining,
    };
    Some((Host { conformity, draining, ..host.clone() }, follows))
}

impl Engine {
    /// Commits what follows from what hosts have said of the standard, and from the time since.
    /// What a command under way holds is left for later.
    pub(super) async fn follow_standard(&self) -> Result<(), StoreError> {
        let (draft, hosts) = {
            let mut state = self.state();
            let hosts = std::mem::take(&mut state.dirty.hosts);
            if hosts.is_empty() {
                return Ok(());
            }
            let (mut draft, mut taken) = (Draft::default(), Vec::new());
            for host in hosts {
                let Some((old, new, follows)) = self.next_of(&state, host) else { continue };
                if !state.holds.may_change(host) {
                    state.dirty.hosts.insert(host);
                    continue;
                }
                tell(&old, &new, follows);
                for verb in verbs(&old, &new, follows) {
                    draft.audit(audit::own_entry(self.now(), verb, &host, Some(&*old), Some(&new)));
                }
                draft.update(new);
                taken.push(host);
            }
            if draft.is_empty() {
                return Ok(());
            }
            // Each row was asked for before it was changed, under the same lock.
            let held = state.holds.acquire(&draft).is_ok();
            debug_assert!(held, "only rows that nobody holds are changed");
            if !held {
                return Ok(());
            }
            (draft, taken)
        };
        let result = self.finish(draft).await;
        if result.is_err() {
            self.state().dirty.hosts.extend(hosts);
        }
        match result {
            Err(StoreError::Conflict { key, .. }) => self.refresh(key).await,
            result => result,
        }
    }

    fn next_of(&self, state: &State, host: HostId) -> Option<(Arc<Host>, Host, Follows)> {
        let old = state.world.hosts.get(host)?;
        let said = state.hosts.get(host).and_then(|now| now.said.as_ref());
        let (new, follows) = next_host(old, said, self.now(), self.config())?;
        Some((old.clone(), new, follows))
    }
}

/// What the audit log says of the change.
fn verbs(old: &Host, new: &Host, follows: Follows) -> impl Iterator<Item = &'static str> {
    let proof = (old.conformity != new.conformity).then_some("broker.conformity");
    let drain = match follows {
        Follows::Drain => Some("broker.drain"),
        Follows::EndDrain => Some("broker.end_drain"),
        Follows::Nothing => None,
    };
    proof.into_iter().chain(drain)
}

fn tell(old: &Host, new: &Host, follows: Follows) {
    let host = new.id;
    let level = |row: &Host| match row.conformity.as_ref().map(|known| &known.proof) {
        Some(Proof::Proven { level, .. }) => *level,
        None | Some(Proof::Unproven { .. }) => None,
    };
    match (old.failing(), new.failing()) {
        (None, Some(why)) => {
            tracing::warn!(%host, name = new.spec.name, why, "a host gets no new machines");
        }
        (Some(_), None) => {
            tracing::info!(%host, name = new.spec.name, "a host conforms to the host standard again");
        }
        _ if level(old) != level(new) => {
            let (before, now) = (level(old), level(new));
            tracing::info!(%host, ?before, ?now, "a host proves another level of the host standard");
        }
        _ => {}
    }
    match follows {
        Follows::Drain => {
            let why = new.failing().unwrap_or_default();
            tracing::warn!(%host, name = new.spec.name, why, "a host is emptied");
        }
        Follows::EndDrain => tracing::info!(%host, "a host is emptied no more"),
        Follows::Nothing => {}
    }
}

#[cfg(test)]
mod tests {
    use fairmazon_model::{
        geo::Coordinates,
        host::{Capacity, HostSpec},
        id::AccountId,
        site::Site,
        units::Revision,
    };

    use super::*;

    const GRACE: i64 = 100;

    fn host(conformity: Option<Conformity>, draining: Option<DrainCause>) -> Host {
        let coordinates = Coordinates { latitude: 0.0, longitude: 0.0 };
        let (name, town) = ("s".to_owned(), "t".to_owned());
        let (country, region) = ("DE".to_owned(), "r".to_owned());
        Host {
            id: HostId::from_parts(1, 1),
            account: AccountId::from_parts(1, 1),
            spec: HostSpec {
                name: "h".into(),
                site: Site { name, town, country, region, coordinates },
                capacity: Capacity::default(),
                cpu_overcommit_percent: 100,
                memory_overcommit_percent: 100,
                conformity: 1,
                features: Default::default(),
                price_percent: 100,
                schedulable: true,
            },
            sealing: None,
            lost_at: None,
            draining: draining.map(|cause| Draining {
                since: UnixMs(0),
                deadline: UnixMs(1),
                cause,
                taken_over: None,
            }),
            conformity,
            created_at: UnixMs(0),
            revision: Revision(1),
        }
    }

    fn proof(level: Option<u8>) -> Proof {
        Proof::Proven { level, failed: Vec::new() }
    }

    fn known(level: Option<u8>, at: i64) -> Option<Conformity> {
        Some(Conformity::after(None, proof(level), UnixMs(at)))
    }

    fn config() -> CoreConfig {
        CoreConfig { conformity_grace_ms: GRACE, conformity_drain_ms: 50, ..CoreConfig::default() }
    }

    fn next(host: &Host, said: Option<&Proof>, now: i64) -> Option<(Host, Follows)> {
        next_host(host, said, UnixMs(now), &config())
    }

    #[test]
    fn what_is_said_twice_changes_nothing() {
        let (row, follows) = next(&host(None, None), Some(&proof(Some(2))), 10).unwrap();
        assert_eq!((row.conformity.clone(), follows), (known(Some(2), 10), Follows::Nothing));
        assert_eq!(next(&row, Some(&proof(Some(2))), 99_999), None);
        assert_eq!(next(&row, None, 99_999), None);
        assert_eq!(next(&host(None, None), None, 99_999), None);
    }

    #[test]
    fn a_host_is_emptied_after_the_grace_and_only_when_it_says_so_now() {
        let (row, follows) = next(&host(None, None), Some(&proof(None)), 10).unwrap();
        assert_eq!((row.draining, follows), (None, Follows::Nothing), "one look empties no host");
        assert_eq!(next(&row, Some(&proof(None)), 10 + GRACE - 1), None);
        assert_eq!(next(&row, None, 10 + GRACE), None, "it may have been put right since");
        let (row, follows) = next(&row, Some(&proof(None)), 10 + GRACE).unwrap();
        let draining = row.draining.unwrap();
        assert_eq!((follows, draining.cause), (Follows::Drain, DrainCause::Standard));
        assert_eq!(draining.deadline, UnixMs(10 + GRACE + 50));
        assert_eq!(next(&row, Some(&proof(None)), 99_999), None, "once is enough");
    }

    #[test]
    fn a_good_proof_ends_what_the_platform_began_and_nothing_else() {
        for (cause, left) in
            [(DrainCause::Standard, None), (DrainCause::Operator, Some(DrainCause::Operator))]
        {
            let mut row = host(known(None, 0), Some(cause));
            let until = Draining { deadline: UnixMs(99_999), ..row.draining.unwrap() };
            row.draining = Some(until);
            assert_eq!(next(&row, Some(&proof(None)), 99_998), None, "it is drained already");
            let (row, _) = next(&row, Some(&proof(Some(0))), 99_998).unwrap();
            assert_eq!(row.draining.map(|draining| draining.cause), left);
            assert!(!row.conformity.unwrap().fails());
        }
    }

    #[test]
    fn what_an_operator_began_and_is_over_is_taken_over_and_given_back() {
        let row = host(known(None, 0), Some(DrainCause::Operator));
        let had = row.draining.unwrap();
        let (row, follows) = next(&row, Some(&proof(None)), 99_999).unwrap();
        let draining = row.draining.unwrap();
        assert_eq!((follows, draining.cause), (Follows::Drain, DrainCause::Standard));
        assert_eq!((draining.since, draining.deadline), (had.since, UnixMs(99_999 + 50)));
        assert_eq!(next(&row, Some(&proof(None)), 999_999), None, "once is enough");
        let (row, follows) = next(&row, Some(&proof(Some(0))), 999_999).unwrap();
        assert_eq!((follows, row.draining), (Follows::EndDrain, Some(had)));
    }

    #[test]
    fn what_lacks_a_higher_level_is_not_emptied() {
        let row = host(known(Some(0), 0), None);
        assert_eq!(next(&row, Some(&proof(Some(0))), 99_999), None);
        let why = Proof::Unproven { why: "simulated".into() };
        let (row, follows) = next(&row, Some(&why), 99_999).unwrap();
        assert_eq!((row.draining, follows), (None, Follows::Nothing));
    }
}
