//! Sums of what was used, for those who may see them.

use fairmazon_model::{DomainError, units::UnixMs, usage::Subject};
use fairmazon_store::{UsageQuery, UsageSum};

use crate::core::{Caller, Engine, Page, PageRequest, instances::scope};

/// Which sums are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRequest {
    /// Of windows that begin then or later,
    pub from: UnixMs,
    /// and before this.
    pub until: UnixMs,
    /// Of one subject only.
    pub subject: Option<Subject>,
    /// Which part.
    pub page: PageRequest<Subject>,
}

impl Engine {
    /// What was used, by subject. What is gone by now is there, too.
    ///
    /// # Errors
    /// `Invalid` when the time ends before it begins; when the store can't read.
    pub async fn usage(
        &self,
        caller: &Caller,
        request: UsageRequest,
    ) -> Result<Page<UsageSum, Subject>, DomainError> {
        let UsageRequest { from, until, subject, page } = request;
        if until < from {
            return Err(DomainError::invalid(
                "until_ms",
                "it is before `from_ms`, and has to be after it",
            ));
        }
        let size = page.size();
        let limit = u32::try_from(size).unwrap_or(u32::MAX).saturating_add(1);
        let account = scope(caller);
        let after = page.after;
        if account.is_none() && !caller.sees_all() {
            return Err(DomainError::internal("a caller without an account asks for its usage"));
        }
        let query = UsageQuery { account, subject, from, until, after, limit };
        // Before it is read: what the page shows is of this revision at least.
        let revision = self.state().world.revision;
        let found = self.store().usage(query).await?;
        Ok(Page::of(found, size, |sum| sum.subject, revision))
    }
}
