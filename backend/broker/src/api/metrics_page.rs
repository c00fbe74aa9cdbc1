//! The page that Prometheus reads: plain HTTP on an address of its own, off unless asked for.
//! It has nothing secret, but says how much is going on, so it belongs on loopback.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a client may take to send its request.
const REQUEST_TIME: Duration = Duration::from_secs(5);

/// How long to wait after a connection could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Writes the page.
pub(crate) type Page = Arc<dyn Fn() -> String + Send + Sync>;

/// Serves the page until `stop`.
pub(crate) async fn serve(listener: TcpListener, page: Page, stop: CancellationToken) {
    let tracker = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of files: another connection must end first.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (page, stop) = (page.clone(), stop.clone());
        tracker.spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&request, &page);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIME)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = stop.cancelled() => {}
                // A client that goes away is no concern of ours.
                _ = connection => {}
            }
        });
    }
    tracker.close();
    tracker.wait().await;
}

fn answer(request: &Request<Incoming>, page: &Page) -> Response<Full<Bytes>> {
    let is_page = request.uri().path() == "/metrics" && request.method() == Method::GET;
    let mut response = Response::new(Full::new(Bytes::from(if is_page {
        page()
    } else {
        "metrics are at /metrics\n".to_owned()
    })));
    if is_page {
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    } else {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    response
}
