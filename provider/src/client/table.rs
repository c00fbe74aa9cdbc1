//! Rows read in bulk: the first read of a noun lists all of them once, page by page, and every
//! other read of this process shares it. So a plan makes one call for each page of what the
//! account has, of 1,000 rows or 2 MiB, however many of them it asks for and however often.

use std::{collections::HashMap, future::Future, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::{ClientError, Page, Pages};

/// What the broker keeps of one thing.
pub trait Row: Clone + Send + Sync + 'static {
    /// Its id.
    fn id(&self) -> &str;
    /// Whether the broker waits to hear that its id is kept.
    fn is_unconfirmed(&self) -> bool;
}

/// All rows of a noun as they were when first asked for, with own changes since.
pub(super) struct Table<R> {
    rows: OnceCell<Mutex<HashMap<String, Arc<R>>>>,
}

impl<R> Default for Table<R> {
    fn default() -> Self {
        Self { rows: OnceCell::new() }
    }
}

impl<R: Row> Table<R> {
    /// The row of this id, from the list that `page` yields; nothing when it is not in it, as
    /// it may be newer than the list.
    pub(super) async fn get<F>(
        &self,
        id: &str,
        page: impl Fn(String) -> F + Send,
    ) -> Result<Option<Arc<R>>, ClientError>
    where
        F: Future<Output = Result<Page<R>, ClientError>> + Send,
    {
        let rows = self.rows.get_or_try_init(|| load(page)).await?;
        Ok(rows.lock().get(id).cloned())
    }

    /// Puts a row as the broker just answered it. Nothing to do before the list was read.
    pub(super) fn put(&self, row: &R) {
        if let Some(rows) = self.rows.get() {
            rows.lock().insert(row.id().to_owned(), Arc::new(row.clone()));
        }
    }

    /// Forgets a row, so that the next read asks for it alone.
    pub(super) fn forget(&self, id: &str) {
        if let Some(rows) = self.rows.get() {
            rows.lock().remove(id);
        }
    }
}

async fn load<R: Row, F>(
    page: impl Fn(String) -> F + Send,
) -> Result<Mutex<HashMap<String, Arc<R>>>, ClientError>
where
    F: Future<Output = Result<Page<R>, ClientError>> + Send,
{
    let mut rows = HashMap::new();
    let mut pages = Pages::new(page);
    while let Some(some) = pages.next().await? {
        rows.extend(some.into_iter().map(|row: R| (row.id().to_owned(), Arc::new(row))));
    }
    Ok(Mutex::new(rows))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[derive(Clone)]
    struct Thing(String);

    impl Row for Thing {
        fn id(&self) -> &str {
            &self.0
        }
        fn is_unconfirmed(&self) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn many_reads_share_one_list() {
        let (table, pages) = (Table::<Thing>::default(), AtomicU32::new(0));
        let page = |token: String| {
            pages.fetch_add(1, Ordering::SeqCst);
            async move {
                tokio::task::yield_now().await;
                let next = if token.is_empty() { "2" } else { "" };
                Ok(Page { rows: vec![Thing(format!("t{token}"))], next: next.to_owned() })
            }
        };
        let reads = (0..50).map(|_| table.get("t2", page));
        for read in futures::future::join_all(reads).await {
            assert!(read.unwrap().is_some());
        }
        assert_eq!(pages.load(Ordering::SeqCst), 2);
        assert!(table.get("t9", page).await.unwrap().is_none());
        table.put(&Thing("t9".to_owned()));
        assert!(table.get("t9", page).await.unwrap().is_some());
        table.forget("t9");
        assert!(table.get("t9", page).await.unwrap().is_none());
        assert_eq!(pages.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_list_that_failed_is_tried_again() {
        let table = Table::<Thing>::default();
        let fails = |_| async { Err(ClientError::Nonsense("x".to_owned())) };
        assert!(table.get("t", fails).await.is_err());
        let works =
            |_| async { Ok(Page { rows: vec![Thing("t".to_owned())], next: String::new() }) };
        assert!(table.get("t", works).await.unwrap().is_some());
    }
}
