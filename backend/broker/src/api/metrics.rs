//! What is counted of the API, and how it is written for Prometheus.
//!
//! Counters live here; what can be read from the core at any time is read when it is asked for.

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// One method and how its calls ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    method: &'static str,
    code: &'static str,
}

/// One method.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

/// One reading of the core.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reading {
    what: &'static str,
}

/// The metrics of one broker.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Ended, Counter>,
    seconds: Family<Method, Histogram>,
    handshakes: Family<Reading, Counter>,
    connections: Gauge,
    readings: Family<Reading, Gauge>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("fairmazon");
        let requests = Family::default();
        let seconds = Family::new_with_constructor(histogram as fn() -> Histogram);
        let handshakes = Family::default();
        let connections = Gauge::default();
        let readings = Family::default();
        registry.register("requests", "Calls by method and code", requests.clone());
        registry.register(
            "request_seconds",
            "Time until a call was answered, or its stream opened",
            seconds.clone(),
        );
        registry.register("tls_handshakes", "TLS handshakes by outcome", handshakes.clone());
        registry.register("connections", "Open connections", connections.clone());
        registry.register("state", "What the broker has, by kind and state", readings.clone());
        Self { registry, requests, seconds, handshakes, connections, readings }
    }

    /// Counts a call.
    pub(crate) fn call(&self, method: &'static str, code: tonic::Code, seconds: f64) {
        self.requests.get_or_create(&Ended { method, code: name(code) }).inc();
        self.seconds.get_or_create(&Method { method }).observe(seconds);
    }

    /// Counts a TLS handshake.
    pub(crate) fn handshake(&self, outcome: &'static str) {
        self.handshakes.get_or_create(&Reading { what: outcome }).inc();
    }

    /// Counts a connection until the answer is dropped.
    pub(crate) fn connection(&self) -> Connection {
        self.connections.inc();
        Connection(self.connections.clone())
    }

    /// All of it in the OpenMetrics text format, with these readings of the core.
    pub(crate) fn text(&self, readings: impl IntoIterator<Item = (&'static str, u64)>) -> String {
        for (what, value) in readings {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            self.readings.get_or_create(&Reading { what }).set(value);
        }
        let mut text = String::new();
        // Writing into a string can't fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// A connection that counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Connection(Gauge);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// From 0.25 ms to 2 s.
fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_25, 2.0, 14))
}

const fn name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_readings_are_written() {
        let metrics = Metrics::new();
        metrics.call("/a.B/C", tonic::Code::NotFound, 0.001);
        let connection = metrics.connection();
        let text = metrics.text([("hosts_connected", 3)]);
        for part in [
            r#"fairmazon_requests_total{method="/a.B/C",code="not_found"} 1"#,
            r#"fairmazon_state{what="hosts_connected"} 3"#,
            "fairmazon_connections 1",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        drop(connection);
        assert!(metrics.text([]).contains("fairmazon_connections 0"));
    }
}
