//! Looks at every refusal that the broker sends to a test: each says what to do.

use std::task::{Context, Poll};

use bytes::Bytes;
use fairmazon_model::ErrorKind;
use fairmazon_proto::v1::ErrorDetail;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Frame;
use tonic::{
    Status,
    body::Body,
    codegen::Service,
    transport::{Channel, Error},
};

/// A connection whose answers are looked at.
#[derive(Clone)]
pub(crate) struct Advised(pub(crate) Channel);

impl Service<Request<Body>> for Advised {
    type Response = Response<Body>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Response<Body>, Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            check(answer.headers());
            Ok(answer.map(|body| Body::new(body.map_frame(look))))
        })
    }
}

/// A stream says at its end how it went.
fn look(frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_ref() {
        check(trailers);
    }
    frame
}

fn check(headers: &HeaderMap) {
    let Some(status) = Status::from_header_map(headers) else { return };
    // What has no details was made by the library, as for a connection that breaks.
    let Some(detail) = ErrorDetail::from_status_details(status.details()) else { return };
    // A fault of the platform is nothing that its user can mend.
    let is_told = !detail.advice.is_empty()
        || detail.kind == ErrorKind::Internal.as_str()
        || (detail.kind == ErrorKind::Invalid.as_str() && says_what_has_to_be(&detail.message));
    assert!(is_told, "{}: `{}: {}` says not what to do", detail.kind, detail.field, detail.message);
}

/// Whether what is said of a wrong value is what the value has to be.
fn says_what_has_to_be(message: &str) -> bool {
    let rules = ["at most ", "at least ", "must ", " has to ", "name ", "give ", "make "];
    rules.iter().any(|rule| message.contains(rule)) || has_bounds(message)
}

/// Whether it has two numbers or times with `to` between them.
fn has_bounds(message: &str) -> bool {
    let is_bound = |word: &str| word.starts_with(|first: char| first.is_ascii_digit());
    let words: Vec<_> = message.split_whitespace().collect();
    words.windows(3).any(|three| is_bound(three[0]) && three[1] == "to" && is_bound(three[2]))
}

#[test]
fn a_wrong_value_is_told_with_what_it_has_to_be() {
    for message in ["at most 64 labels, these are 65", "30 to 3600 seconds", "it must be `DE`"] {
        assert!(says_what_has_to_be(message), "{message}");
    }
    for message in ["it is missing", "the catalogue has no `x`", "what is sent to it is wrong"] {
        assert!(!says_what_has_to_be(message), "{message}");
    }
}
