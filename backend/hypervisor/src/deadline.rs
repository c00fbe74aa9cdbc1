//! Calls that may take so long and no longer.

use std::time::Duration;

use crate::{HypervisorError, Result};

/// Does the work in this time at most.
///
/// # Errors
/// `Timeout` when it takes longer, and those of the work.
pub async fn within<T>(
    deadline: Duration,
    attempted: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let late = |_| HypervisorError::late(attempted, deadline);
    tokio::time::timeout(deadline, work).await.map_err(late)?
}
