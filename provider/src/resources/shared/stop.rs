//! A stop that loses nothing: a call that makes something gets a moment to answer, so that the
//! id is kept.

use std::{future::Future, pin::pin, time::Duration};

use tfplugin::{Context, Diagnostics};

/// How long a call that makes something may still take once the user wants it all to stop.
const GRACE: Duration = Duration::from_secs(2);

/// Waits for `work`, and for a moment more when the user wants it to stop. Without an answer
/// then, the idempotency key finds what came of it in the next run.
///
/// # Errors
/// When the user wants it to stop and the moment is over.
pub async fn graceful<D, T: Send>(
    cx: &Context<D>,
    work: impl Future<Output = T> + Send,
) -> Result<T, Diagnostics>
where
    D: Send + Sync,
{
    let mut work = pin!(work);
    tokio::select! {
        done = &mut work => return Ok(done),
        () = cx.cancellation().cancelled() => {}
    }
    match tokio::time::timeout(GRACE, work).await {
        Ok(done) => Ok(done),
        Err(_) => cx.unless_cancelled(std::future::pending()).await,
    }
}
