//! `AuditService`: the export page by page, and the check of the chain.
//!
//! Readers of the platform get every entry. Others get the entries of their own account's
//! actors, so that they see what was done in their name.

use std::collections::VecDeque;

use fairmazon_model::{DomainError, ErrorKind};
use fairmazon_proto::v1::{
    AuditEntry, ExportAuditRequest, VerifyAuditRequest, VerifyAuditResponse,
    audit_service_server::AuditService,
};
use fairmazon_store::{AuditRecord, StoreError};
use futures::{Stream, stream};
use tonic::{Request, Response, Status, async_trait};

use super::Api;
use crate::{
    api::context::{Answers, Context},
    core::{Caller, Engine},
};

/// Entries that are read from the store at a time.
const PAGE: u32 = 500;

#[async_trait]
impl AuditService for Api {
    type ExportAuditStream = Answers<AuditEntry>;

    async fn export_audit(
        &self,
        request: Request<ExportAuditRequest>,
    ) -> Result<Response<Self::ExportAuditStream>, Status> {
        let (context, message) = Context::of(request)?;
        let after = message.from_sequence.saturating_sub(1);
        context.stream(export(self.engine.clone(), context.caller, after))
    }

    async fn verify_audit(
        &self,
        request: Request<VerifyAuditRequest>,
    ) -> Result<Response<VerifyAuditResponse>, Status> {
        let (context, _) = Context::of(request)?;
        let work = async {
            let verdict = self.engine.store().verify_audit().await.map_err(unreadable)?;
            Ok(VerifyAuditResponse {
                entries: verdict.whole.sequence,
                first_broken_sequence: verdict.broken.map_or(0, |broken| broken.sequence),
                head: verdict.whole.hash.0.to_vec(),
            })
        };
        context.answer(work).await
    }
}

/// All entries after `after` that the caller may see, up to the one that is last when they
/// have been read.
fn export(
    engine: Engine,
    caller: Caller,
    after: u64,
) -> impl Stream<Item = Result<AuditEntry, DomainError>> + Send {
    let start = (VecDeque::<AuditRecord>::new(), after, false);
    stream::try_unfold(start, move |(mut read, mut after, mut is_last)| {
        let engine = engine.clone();
        async move {
            loop {
                while let Some(record) = read.pop_front() {
                    if sees(&caller, &record) {
                        return Ok(Some((entry(&record)?, (read, after, is_last))));
                    }
                }
                if is_last {
                    return Ok(None);
                }
                let page = engine.store().audit(after, PAGE).await.map_err(unreadable)?;
                is_last = page.len() < PAGE as usize;
                after = page.last().map_or(after, |record| record.sequence);
                read = page.into();
            }
        }
    })
}

fn sees(caller: &Caller, record: &AuditRecord) -> bool {
    caller.sees_all() || record.entry.actor.account.is_some_and(|account| caller.sees(account))
}

fn entry(record: &AuditRecord) -> Result<AuditEntry, DomainError> {
    let json = |value: &Option<serde_json::Value>| match value {
        Some(value) => serde_json::to_string(value).map_err(|error| {
            DomainError::internal(format!("audit entry {}: {error}", record.sequence))
        }),
        None => Ok(String::new()),
    };
    let entry = &record.entry;
    let actor = entry.actor.credential.map_or_else(|| "broker".to_owned(), |id| id.to_string());
    Ok(AuditEntry {
        sequence: record.sequence,
        at_ms: entry.at.0,
        actor,
        account_id: entry.actor.account.map(|id| id.to_string()).unwrap_or_default(),
        verb: entry.verb.clone(),
        target_id: entry.target.clone(),
        before: json(&entry.before)?,
        after: json(&entry.after)?,
        hash: record.hash.0.to_vec(),
        previous: record.previous.0.to_vec(),
    })
}

fn unreadable(error: StoreError) -> DomainError {
    DomainError { kind: ErrorKind::Unavailable, ..DomainError::from(error) }
}
