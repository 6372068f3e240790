//! The answer to one request.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
};
use prometheus_client::encoding::text;
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use crate::Subject;

/// How long the metrics may take to be gathered.
const SCRAPE_DEADLINE: Duration = Duration::from_secs(5);

const PLAIN: &str = "text/plain; charset=utf-8";
/// The text format of Prometheus as it was standardised.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Answer = Response<Full<Bytes>>;

pub(crate) async fn answer<B>(request: &Request<B>, subject: Arc<dyn Subject>, scrapes: Arc<Semaphore>) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD alone work here");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match request.uri().path() {
        // Whoever reads this knows it by having got it.
        "/livez" => plain(StatusCode::OK, "live"),
        "/readyz" => match subject.ready() {
            Ok(()) => plain(StatusCode::OK, "ready"),
            Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, &reason),
        },
        "/metrics" => match timeout(SCRAPE_DEADLINE, metrics(subject, scrapes)).await {
            Ok(Some(page)) => response(StatusCode::OK, OPEN_METRICS, page),
            Ok(None) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written down"),
            Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE, "the metrics could not be gathered in time"),
        },
        _ => plain(StatusCode::NOT_FOUND, "there are /metrics, /livez and /readyz"),
    }
}

/// The page of all metrics. One at a time, also beyond the deadline: readers who ask again and again while a disk hangs
/// must not gather threads.
async fn metrics(subject: Arc<dyn Subject>, scrapes: Arc<Semaphore>) -> Option<String> {
    let permit = scrapes.acquire_owned().await.expect("the semaphore is never closed");
    let gather = move || {
        let _permit = permit;
        let mut page = String::new();
        let written = match subject.registry() {
            Some(registry) => text::encode(&mut page, registry),
            None => text::encode_eof(&mut page),
        };
        written.is_ok().then_some(page)
    };
    spawn_blocking(gather).await.ok().flatten()
}

fn plain(status: StatusCode, line: &str) -> Answer {
    response(status, PLAIN, format!("{line}\n"))
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
