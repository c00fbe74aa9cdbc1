//! Lists page by page: the one walk that every list of this provider takes.

use std::future::Future;

use super::ClientError;

/// One page of a list.
pub struct Page<R> {
    /// The rows.
    pub rows: Vec<R>,
    /// The token of the next page; empty at the end.
    pub next: String,
}

/// A walk over a list from its first page.
pub struct Pages<A> {
    ask: A,
    /// Of the page to ask for; nothing after the last one.
    token: Option<String>,
}

impl<A> Pages<A> {
    /// A walk over the pages that `ask` yields for their tokens, the first one's being empty.
    pub const fn new(ask: A) -> Self {
        Self { ask, token: Some(String::new()) }
    }

    /// The rows of the next page; nothing after the last one.
    ///
    /// # Errors
    /// What `ask` failed with. The walk is over then.
    pub async fn next<R, F>(&mut self) -> Result<Option<Vec<R>>, ClientError>
    where
        A: Fn(String) -> F,
        F: Future<Output = Result<Page<R>, ClientError>>,
    {
        let Some(token) = self.token.take() else { return Ok(None) };
        let Page { rows, next } = (self.ask)(token).await?;
        self.token = (!next.is_empty()).then_some(next);
        Ok(Some(rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_page_is_asked_for_once_and_in_order() {
        let asked = std::sync::Mutex::new(Vec::new());
        let mut pages = Pages::new(|token: String| {
            asked.lock().unwrap().push(token.clone());
            let next = match token.as_str() {
                "" => "b",
                "b" => "c",
                _ => "",
            };
            async move { Ok(Page { rows: vec![token], next: next.to_owned() }) }
        });
        let mut rows = Vec::new();
        while let Some(some) = pages.next().await.unwrap() {
            rows.extend(some);
        }
        assert_eq!(rows, ["", "b", "c"]);
        assert!(pages.next().await.unwrap().is_none());
        assert_eq!(*asked.lock().unwrap(), ["", "b", "c"]);
    }
}
