//! Windows that a host tells: each is judged, those that are accepted become durable together
//! with what is said of those that are not.

use std::collections::{HashMap, HashSet};

use fairmazon_keys::HostSigner;
use fairmazon_model::{
    access::CredentialKind,
    id::HostId,
    units::{Epoch, UnixMs},
    usage::{
        Allotment, RefusedWindow, SignedWindow, Subject, UsageRecord, UsageWindow, WindowBatch,
        WindowKind,
    },
};
use fairmazon_store::{
    Actor, AuditEntry, Commit, MeteringWrites, SignerRecord, StoreError, WindowContext, WindowEnd,
    WindowKey,
};
use serde_json::json;

use super::{
    allotments,
    judge::{Terms, Verdict, judge},
};
use crate::core::Engine;

/// Signatures that are checked where they come in; more are checked beside.
const CHECKED_HERE: usize = 64;
/// Refused windows of one batch that the audit log has in full.
const REFUSED_AUDITED: usize = 20;
/// Windows that the store removes at a time because they are old.
const FORGET_MAX: u32 = 2_000;
/// How often it does in a minute.
const FORGET_ROUNDS: u32 = 50;

impl Engine {
    /// Takes windows that a host tells; answers those that are refused, all others are durable.
    /// None where some are neither: the host is to tell the batch again. Repeating it changes
    /// nothing.
    ///
    /// # Errors
    /// When the store can't read or write: nothing is decided then.
    pub(crate) async fn take_windows(
        &self,
        host: HostId,
        batch: WindowBatch,
    ) -> Result<Option<Vec<RefusedWindow>>, StoreError> {
        let WindowBatch { certificate, windows, .. } = batch;
        let signer = match self.signer(host, &certificate) {
            Ok(signer) => signer,
            Err(reason) => {
                let refused = windows.into_iter().map(|signed| (signed, reason.clone()));
                let refused: Vec<_> = refused.collect();
                let audit = self.refusals(host, &refused);
                self.store().commit(Commit { audit, ..Commit::default() }).await?;
                return Ok(Some(answer(refused)));
            }
        };
        let checked = check_signatures(host, signer.clone(), windows).await?;
        // What was accepted must not change between being read and being added to.
        let _one_at_a_time = self.inner.metering.lock().await;
        let keys = checked.iter().map(|(signed, _)| key(&signed.window)).collect();
        let slack_ms = self.config().usage_overlap_ms;
        let contexts = self.store().window_contexts(host, keys, slack_ms).await?;
        let mut judged = Judged::new(self.terms());
        for ((signed, is_signed), context) in checked.into_iter().zip(contexts) {
            let context = self.with_current(host, &signed.window, context);
            judged.judge(host, &signer, signed, is_signed, context, slack_ms);
        }
        let Judged { accepted, refused, early, .. } = judged;
        if !early.is_empty() {
            tracing::warn!(
                %host, subjects = early.len(),
                "a host tells what it has metered of a time that is still to come: its clock or \
                 this one is wrong; it is taken when it is that time"
            );
        }
        // What is refused is said, and noted, once: with the answer.
        let is_answered = early.is_empty();
        let audit = if is_answered { self.refusals(host, &refused) } else { Vec::new() };
        let answer = is_answered.then(|| answer(refused));
        if accepted.is_empty() && audit.is_empty() {
            return Ok(answer);
        }
        let signers = vec![SignerRecord {
            sha256: signer.sha256().to_owned(),
            host,
            certificate: signer.der().to_vec(),
        }];
        let metering = MeteringWrites { windows: accepted, signers, ..MeteringWrites::default() };
        self.store().commit(Commit { audit, metering, ..Commit::default() }).await?;
        Ok(answer)
    }

    /// Forgets windows that are old enough.
    ///
    /// # Errors
    /// When the store can't remove them.
    pub(crate) async fn forget_usage(&self, now: UnixMs) -> Result<(), StoreError> {
        let before = UnixMs(now.0.saturating_sub(self.config().usage_keep_ms));
        for _ in 0..FORGET_ROUNDS {
            if self.store().expire_usage(before, FORGET_MAX).await? < FORGET_MAX.into() {
                break;
            }
        }
        Ok(())
    }

    /// Who has signed: a certificate that this platform has made for the host and that is in use.
    fn signer(&self, host: HostId, certificate: &str) -> Result<HostSigner, String> {
        let signer = HostSigner::read(certificate).map_err(|error| error.to_string())?;
        let state = self.state();
        let credential = state.world.credential_by_hash(signer.sha256());
        let is_own = credential.is_some_and(|row| {
            row.kind == CredentialKind::Certificate
                && row.host == Some(host)
                && row.revoked_at.is_none()
        });
        if is_own {
            Ok(signer)
        } else {
            Err("the certificate is not one that the platform has made for this host".into())
        }
    }

    /// What is allotted by the rows, where nothing is noted: it was so before metering was. What
    /// moves to the host may run there before its rows say so.
    fn with_current(
        &self,
        host: HostId,
        window: &UsageWindow,
        mut context: WindowContext,
    ) -> WindowContext {
        if context.allotment.as_ref().is_some_and(|allotment| allotment.until.is_none()) {
            return context;
        }
        let (state, at) = (self.state(), UnixMs(0));
        let is_of_it = |it: &Allotment| (it.host, it.epoch) == (host, window.epoch);
        let (world, subject) = (&state.world, window.subject);
        let coming = allotments::coming(world, &self.catalogue(), subject, at).filter(is_of_it);
        if coming.is_some() {
            context.allotment = coming;
        } else if context.allotment.is_none() {
            let now = allotments::current(world, &self.catalogue(), subject, at);
            context.allotment = now.filter(is_of_it);
        }
        context
    }

    fn terms(&self) -> Terms {
        let config = self.config();
        let lapse = config.lease_term + config.lease_margin;
        Terms {
            now: self.now(),
            skew_ms: config.usage_skew_ms,
            lapse_ms: i64::try_from(lapse.as_millis()).unwrap_or(i64::MAX),
            keep_ms: config.usage_keep_ms,
        }
    }

    /// What the audit log says of refused windows; nothing when there are none.
    fn refusals(&self, host: HostId, refused: &[(SignedWindow, String)]) -> Vec<AuditEntry> {
        if refused.is_empty() {
            return Vec::new();
        }
        let mut told = Vec::new();
        for (SignedWindow { window, .. }, reason) in refused.iter().take(REFUSED_AUDITED) {
            tracing::warn!(
                %host, subject = %window.subject, epoch = window.epoch.0,
                sequence = window.sequence, reason, "a window is refused"
            );
            told.push(json!({ "window": window, "reason": reason }));
        }
        vec![AuditEntry {
            at: self.now(),
            actor: Actor::default(),
            verb: "usage.refuse".into(),
            target: host.to_string(),
            before: None,
            after: Some(json!({ "refused": refused.len(), "windows": told })),
        }]
    }
}

/// What came of a batch so far.
struct Judged {
    terms: Terms,
    accepted: Vec<UsageRecord>,
    /// Each with why.
    refused: Vec<(SignedWindow, String)>,
    /// Of which there are windows that it is too early for: what follows those has to wait for them.
    early: HashSet<(Subject, Epoch)>,
    /// Where each series has got to in this batch.
    last: HashMap<(Subject, Epoch), WindowEnd>,
}

impl Judged {
    fn new(terms: Terms) -> Self {
        let (accepted, refused) = (Vec::new(), Vec::new());
        Self { terms, accepted, refused, early: HashSet::new(), last: HashMap::new() }
    }

    fn judge(
        &mut self,
        host: HostId,
        signer: &HostSigner,
        signed: SignedWindow,
        is_signed: bool,
        mut context: WindowContext,
        slack_ms: i64,
    ) {
        let window = &signed.window;
        let place = (window.subject, window.epoch);
        if self.early.contains(&place) {
            return;
        }
        context.last = self.last.get(&place).copied().or(context.last);
        context.elsewhere |= self.accepted.iter().any(|other| meets(other, window, slack_ms));
        let verdict = if is_signed {
            judge(window, &context, self.terms)
        } else {
            Err("its signature does not match".into())
        };
        match (verdict, context.allotment) {
            (Ok(Verdict::Known), _) => {}
            (Ok(Verdict::NotYet), _) => _ = self.early.insert(place),
            (Ok(Verdict::Accepted), Some(allotment)) => {
                let UsageWindow { begun, sequence, until, .. } = *window;
                self.last.insert(place, WindowEnd { begun, sequence, until });
                self.accepted.push(UsageRecord {
                    host,
                    account: allotment.account,
                    signed,
                    signer: signer.sha256().to_owned(),
                    accepted_at: self.terms.now,
                });
            }
            // None is accepted without an allotment.
            (Ok(Verdict::Accepted), None) => {}
            (Err(reason), _) => self.refused.push((signed, reason)),
        }
    }
}

/// Whether a window of the same batch says that it was in use at the same time.
fn meets(other: &UsageRecord, window: &UsageWindow, slack_ms: i64) -> bool {
    let other = &other.signed.window;
    other.subject == window.subject
        && other.epoch != window.epoch
        && other.kind == WindowKind::Used
        && other.from.0 < window.until.0.saturating_sub(slack_ms)
        && other.until.0 > window.from.0.saturating_add(slack_ms)
}

/// Tells of each window whether the host has signed it.
async fn check_signatures(
    host: HostId,
    signer: HostSigner,
    windows: Vec<SignedWindow>,
) -> Result<Vec<(SignedWindow, bool)>, StoreError> {
    let check = move |signed: SignedWindow| {
        let bytes = signed.window.signed_bytes(host);
        let is_signed = signer.verify(&bytes, &signed.signature.0).is_ok();
        (signed, is_signed)
    };
    if windows.len() <= CHECKED_HERE {
        return Ok(windows.into_iter().map(check).collect());
    }
    let work = move || windows.into_iter().map(check).collect();
    // It can only be cut off by the end of the runtime.
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Closed)
}

fn key(window: &UsageWindow) -> WindowKey {
    let UsageWindow { subject, epoch, begun, sequence, from, until, .. } = *window;
    WindowKey { subject, epoch, begun, sequence, from, until }
}

/// What the host is answered about windows that are refused.
fn answer(refused: Vec<(SignedWindow, String)>) -> Vec<RefusedWindow> {
    let refused = refused.into_iter().map(|(SignedWindow { window, .. }, reason)| RefusedWindow {
        subject: window.subject,
        epoch: window.epoch,
        begun: window.begun,
        sequence: window.sequence,
        reason,
    });
    refused.collect()
}
