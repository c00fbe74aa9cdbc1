//! Whether a window is to be believed: purely, from the window and what is known.

use fairmazon_model::{
    units::UnixMs,
    usage::{Allotment, UsageWindow},
};
use fairmazon_store::{WindowContext, WindowEnd};

/// How far in the future a window may lie to be waited for, in ms. A broker whose clock was slow has
/// lost nothing when it is set right; one host whose clock is fast waits no longer than this.
const AHEAD_MOST_MS: i64 = 3_600_000;

/// What the platform allows for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    /// When it is judged.
    pub(crate) now: UnixMs,
    /// How far a host's clock may be off.
    pub(crate) skew_ms: i64,
    /// How long a host may go on with what is decided elsewhere by now: the rest of its lease.
    pub(crate) lapse_ms: i64,
    /// How long windows are kept: older ones are not known any more.
    pub(crate) keep_ms: i64,
}

impl Terms {
    /// How long after its end an allotment may still be used.
    const fn grace_ms(self) -> i64 {
        self.skew_ms.saturating_add(self.lapse_ms)
    }
}

/// A window that is not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is to be kept.
    Accepted,
    /// It was accepted before.
    Known,
    /// It lies in the near future: one of the two clocks is wrong, and nobody knows which. It is to
    /// be told again.
    NotYet,
}

/// Judges a window whose signature is the host's.
///
/// # Errors
/// Why it is refused, for the host's operator.
pub(crate) fn judge(
    window: &UsageWindow,
    context: &WindowContext,
    terms: Terms,
) -> Result<Verdict, String> {
    window.check().map_err(|error| error.to_string())?;
    if let Some(known) = &context.known {
        return if known.signed.window == *window {
            Ok(Verdict::Known)
        } else {
            Err("another window with this place in the series was accepted".into())
        };
    }
    let Some(allotment) = &context.allotment else {
        return Err("it was not decided to be on this host under this epoch".into());
    };
    if is_early(window, terms)? {
        return Ok(Verdict::NotYet);
    }
    in_time(window, allotment, terms)?;
    if window.class != allotment.class {
        return Err(format!("its storage class is `{}`", allotment.class));
    }
    within(window, allotment, terms)?;
    if let Some(last) = context.last {
        follows(window, last)?;
    }
    if context.elsewhere {
        return Err("it was in use elsewhere or under another epoch at the same time".into());
    }
    Ok(Verdict::Accepted)
}

/// Whether it is of a time that is still to come, and is worth waiting for.
fn is_early(window: &UsageWindow, terms: Terms) -> Result<bool, String> {
    let ahead_ms = window.until.0.saturating_sub(terms.now.0);
    if ahead_ms > AHEAD_MOST_MS {
        return Err("it lies in the future: the host's clock is wrong".into());
    }
    Ok(ahead_ms > terms.skew_ms)
}

fn in_time(window: &UsageWindow, allotment: &Allotment, terms: Terms) -> Result<(), String> {
    let Terms { now, skew_ms, keep_ms, .. } = terms;
    if window.until.0 < now.0.saturating_sub(keep_ms) {
        return Err("it is older than what is kept".into());
    }
    if window.from.0 < allotment.from.0.saturating_sub(skew_ms) {
        return Err("it begins before it was decided to be on this host".into());
    }
    let over = |until: UnixMs| window.from.0 >= until.0.saturating_add(terms.grace_ms());
    if allotment.until.is_some_and(over) {
        return Err("it begins when nothing was allotted on this host any more".into());
    }
    Ok(())
}

/// Whether it counts no more than was allotted while it was.
fn within(window: &UsageWindow, allotment: &Allotment, terms: Terms) -> Result<(), String> {
    if allotment.covers(window, terms.grace_ms()) {
        return Ok(());
    }
    let without_end = Allotment { until: None, ..allotment.clone() };
    Err(if without_end.covers(window, 0) {
        // An honest host says it too, of a volume that was given up while the host was away.
        "it counts time for which nothing was allotted on this host any more".into()
    } else {
        "it counts more than was allotted for this time".into()
    })
}

/// Whether it comes after the last that was accepted: at once, unless one between was refused.
fn follows(window: &UsageWindow, last: WindowEnd) -> Result<(), String> {
    if window.begun != last.begun {
        return if window.begun >= last.until {
            Ok(())
        } else {
            Err("its series overlaps an earlier one".into())
        };
    }
    if window.sequence <= last.sequence {
        return Err("a later window of its series was accepted".into());
    }
    if window.from < last.until {
        return Err("it overlaps the window before it".into());
    }
    if window.sequence == last.sequence + 1 && window.from != last.until {
        return Err("it does not begin where the window before it has ended".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use fairmazon_model::{
        id::{AccountId, HostId, InstanceId},
        key::Blob,
        units::{Epoch, Gib, Mib, Vcpus},
        usage::{Amounts, SignedWindow, Subject, UsageRecord, WindowKind},
    };

    use super::*;

    const MINUTE: i64 = 60_000;
    const NOW: i64 = 1_790_000_000_000;
    const TERMS: Terms =
        Terms { now: UnixMs(NOW), skew_ms: MINUTE, lapse_ms: MINUTE, keep_ms: 600 * MINUTE };

    fn window() -> UsageWindow {
        UsageWindow {
            subject: Subject::Instance(InstanceId::from_parts(1, 1)),
            epoch: Epoch(1),
            begun: UnixMs(NOW - 100 * MINUTE),
            sequence: 3,
            from: UnixMs(NOW - 60 * MINUTE),
            until: UnixMs(NOW - 50 * MINUTE),
            kind: WindowKind::Used,
            class: String::new(),
            amounts: Amounts { vcpu_ms: 300_000, ..Amounts::default() },
        }
    }

    fn context() -> WindowContext {
        let allotment = Allotment {
            subject: window().subject,
            epoch: Epoch(1),
            host: HostId::from_parts(1, 1),
            account: AccountId::from_parts(1, 1),
            vcpus: Vcpus(1),
            memory: Mib(512),
            size: Gib(0),
            class: String::new(),
            from: UnixMs(NOW - 100 * MINUTE),
            until: None,
        };
        let last = WindowEnd { begun: window().begun, sequence: 2, until: window().from };
        WindowContext { allotment: Some(allotment), last: Some(last), ..WindowContext::default() }
    }

    fn judged(
        change: impl FnOnce(&mut UsageWindow, &mut WindowContext),
    ) -> Result<Verdict, String> {
        let (mut window, mut context) = (window(), context());
        change(&mut window, &mut context);
        judge(&window, &context, TERMS)
    }

    fn refused(change: impl FnOnce(&mut UsageWindow, &mut WindowContext)) -> Option<String> {
        judged(change).err()
    }

    fn is_refused(why: &str, change: impl FnOnce(&mut UsageWindow, &mut WindowContext)) {
        let said = refused(change);
        assert!(said.as_ref().is_some_and(|said| said.contains(why)), "{said:?} is not {why}");
    }

    #[test]
    fn a_window_that_follows_is_accepted() {
        assert_eq!(judge(&window(), &context(), TERMS), Ok(Verdict::Accepted));
        assert_eq!(refused(|_, context| context.last = None), None);
        // One between was refused.
        assert_eq!(refused(|window, _| window.sequence = 5), None);
        let later = |window: &mut UsageWindow, _: &mut WindowContext| {
            (window.sequence, window.from) = (5, UnixMs(window.from.0 + 1));
        };
        assert_eq!(refused(later), None);
        // The host has lost what it knew of the series.
        let anew = |window: &mut UsageWindow, _: &mut WindowContext| {
            (window.begun, window.sequence) = (window.from, 1);
        };
        assert_eq!(refused(anew), None);
    }

    #[test]
    fn a_repetition_is_known_and_another_one_in_its_place_is_refused() {
        let accepted = |window: UsageWindow| UsageRecord {
            host: HostId::from_parts(1, 1),
            account: AccountId::from_parts(1, 1),
            signed: SignedWindow { window, signature: Blob(Vec::new()) },
            signer: String::new(),
            accepted_at: UnixMs(0),
        };
        let known = WindowContext { known: Some(accepted(window())), ..WindowContext::default() };
        assert_eq!(judge(&window(), &known, TERMS), Ok(Verdict::Known));
        is_refused("another window", |window, context| {
            context.known = Some(accepted(window.clone()));
            window.amounts.vcpu_ms -= 1;
        });
    }

    #[test]
    fn what_overlaps_or_leaves_a_gap_is_refused() {
        is_refused("does not begin where", |window, _| window.from = UnixMs(window.from.0 + 1));
        is_refused("overlaps the window before", |window, _| {
            window.from = UnixMs(window.from.0 - 1);
        });
        is_refused("a later window", |window, _| window.sequence = 2);
        is_refused("overlaps an earlier one", |window, _| {
            window.begun = UnixMs(window.begun.0 + 1);
        });
        is_refused("elsewhere", |_, context| context.elsewhere = true);
    }

    #[test]
    fn what_was_not_allotted_is_refused() {
        is_refused("not decided", |_, context| context.allotment = None);
        is_refused("more than was allotted", |window, _| window.amounts.vcpu_ms = 600_001);
        is_refused("class", |_, context| {
            context.allotment.as_mut().unwrap().class = "fast".into();
        });
        is_refused("an hour long", |window, _| window.until = UnixMs(window.from.0 + 61 * MINUTE));
        is_refused("begins before", |window, context| {
            context.last = None;
            window.from = UnixMs(NOW - 102 * MINUTE);
            window.begun = window.from;
            window.until = UnixMs(NOW - 90 * MINUTE);
            window.sequence = 1;
        });
    }

    #[test]
    fn what_is_over_is_charged_for_no_longer_than_a_host_may_not_know_it() {
        let ended = |minutes: i64, vcpu_ms: u64| {
            refused(|window, context| {
                window.amounts.vcpu_ms = vcpu_ms;
                context.allotment.as_mut().unwrap().until = Some(UnixMs(NOW - minutes * MINUTE));
            })
        };
        // A minute of skew and one of the lease.
        assert_eq!(ended(52, 600_000), None);
        assert!(ended(53, 600_000).unwrap().contains("counts time for which nothing"));
        assert!(ended(53, 600_001).unwrap().contains("more than was allotted"));
        assert_eq!(ended(53, 540_000), None);
        assert_eq!(ended(61, 60_000), None);
        assert!(ended(61, 60_001).unwrap().contains("counts time for which nothing"));
        assert!(ended(62, 0).unwrap().contains("begins when nothing"));
    }

    #[test]
    fn what_lies_in_the_future_is_early_and_too_far_ahead_or_back_it_is_refused() {
        let moved = |by: i64| {
            judged(|window, context| {
                for time in [&mut window.begun, &mut window.from, &mut window.until] {
                    time.0 += by;
                }
                context.last = None;
                context.allotment.as_mut().unwrap().from = UnixMs(0);
            })
        };
        assert_eq!(moved(51 * MINUTE), Ok(Verdict::Accepted));
        assert_eq!(moved(51 * MINUTE + 1), Ok(Verdict::NotYet));
        assert_eq!(moved(110 * MINUTE), Ok(Verdict::NotYet));
        assert!(moved(110 * MINUTE + 1).unwrap_err().contains("future"));
        assert_eq!(moved(-550 * MINUTE), Ok(Verdict::Accepted));
        assert!(moved(-550 * MINUTE - 1).unwrap_err().contains("older"));
    }
}
