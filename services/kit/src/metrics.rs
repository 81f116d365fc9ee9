//! The metrics registry of a process, with labels that are types: a label value is an enum, a route template or a
//! status, never text from a request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

/// Upper bounds of request durations in seconds: 1 ms to 10 s.
const DURATIONS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// The labels of an HTTP request.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct HttpLabels {
    /// `GET`, `POST`, …; anything unusual is `OTHER`.
    pub method: &'static str,
    /// The route template, `/api/v1/workouts/{id}/summary`, never the path that was asked for.
    pub route: String,
    /// The status code.
    pub status: u16,
}

/// The labels of an event that was consumed.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct ConsumedLabels {
    /// The consumer group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// `done`, `ignored`, `repeated` or `dead`.
    pub outcome: &'static str,
}

/// The labels of a partition that a group reads.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct LagLabels {
    /// The consumer group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
}

#[derive(Clone, Copy, Debug)]
struct DurationBuckets;

impl prometheus_client::metrics::family::MetricConstructor<Histogram> for DurationBuckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(DURATIONS)
    }
}

/// The process's registry. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    http: Family<HttpLabels, Histogram, DurationBuckets>,
    consumed: Family<ConsumedLabels, Counter>,
    lag: Family<LagLabels, Gauge>,
}

impl Metrics {
    /// A registry with what every process reports: requests, memory, log fields that were dropped.
    #[must_use]
    pub fn new(service: &'static str) -> Self {
        let mut registry = Registry::default();
        let http = Family::new_with_constructor(DurationBuckets);
        registry.register(
            "meridian_http_request_duration_seconds",
            "Duration of requests by route",
            http.clone(),
        );
        let consumed = Family::default();
        registry.register(
            "meridian_consumed_events",
            "Events by group, topic and outcome",
            consumed.clone(),
        );
        let lag = Family::default();
        registry.register(
            "meridian_consumer_lag",
            "Events that a group has not handled yet",
            lag.clone(),
        );
        let build = Info::new(vec![("service", service), ("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("meridian_build", "What is running", build);
        registry.register_collector(Box::new(ProcessCollector));
        Self {
            registry: Arc::new(Mutex::new(registry)),
            http,
            consumed,
            lag,
        }
    }

    /// Registers a metric and hands it back. Counters get their `_total` from the format.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.with(|registry| registry.register(name, help, metric.clone()));
        metric
    }

    /// A counter without labels.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.register(name, help, Counter::default())
    }

    /// A gauge without labels.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(name, help, Gauge::default())
    }

    /// A histogram of durations without labels, in seconds.
    pub fn durations(&self, name: &str, help: &str) -> Histogram {
        self.register(name, help, Histogram::new(DURATIONS))
    }

    /// Anything else that the registry can do.
    pub fn with<T>(&self, action: impl FnOnce(&mut Registry) -> T) -> T {
        // A panic while registering leaves at worst one metric out.
        action(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn consumed(&self) -> Family<ConsumedLabels, Counter> {
        self.consumed.clone()
    }

    pub(crate) fn lag(&self) -> Family<LagLabels, Gauge> {
        self.lag.clone()
    }

    /// Counts one request.
    pub fn observe_http(&self, labels: &HttpLabels, duration: Duration) {
        self.http.get_or_create(labels).observe(duration.as_secs_f64());
    }

    /// The exposition text (OpenMetrics).
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.with(|registry| prometheus_client::encoding::text::encode(&mut text, registry));
        text
    }
}

/// A method as a bounded label.
#[must_use]
pub fn method_label(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        _ => "OTHER",
    }
}

static DROPPED_LOG_FIELDS: AtomicU64 = AtomicU64::new(0);

/// Counts a log field that was not on the allow-list.
pub(crate) fn count_dropped_log_field() {
    DROPPED_LOG_FIELDS.fetch_add(1, Ordering::Relaxed);
}

/// How many log fields were dropped since the process began.
#[must_use]
pub fn dropped_log_fields() -> u64 {
    DROPPED_LOG_FIELDS.load(Ordering::Relaxed)
}

/// Resident memory of this process in bytes, as the kernel counts it.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[derive(Debug)]
struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        if let Some(bytes) = resident_bytes() {
            let gauge = ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
            let help = "Resident memory of the process in bytes";
            gauge.encode(encoder.encode_descriptor(
                "process_resident_memory_bytes",
                help,
                None,
                gauge.metric_type(),
            )?)?;
        }
        let dropped = ConstCounter::new(dropped_log_fields());
        let help = "Log fields that are not on the allow-list and were left out";
        let name = "meridian_log_fields_dropped";
        dropped.encode(encoder.encode_descriptor(name, help, None, dropped.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exposition_names_requests_memory_and_dropped_fields() {
        let metrics = Metrics::new("training");
        let labels = HttpLabels {
            method: "GET",
            route: "/api/v1/workouts/{id}/summary".to_owned(),
            status: 200,
        };
        metrics.observe_http(&labels, Duration::from_millis(3));
        metrics.counter("meridian_example", "An example").inc();
        let text = metrics.encode();
        for part in [
            r#"meridian_http_request_duration_seconds_count{method="GET",route="/api/v1/workouts/{id}/summary",status="200"} 1"#,
            "process_resident_memory_bytes",
            "meridian_log_fields_dropped_total",
            "meridian_example_total 1",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn catalogue_metric_labels() {
        let metrics = Metrics::new("kit");
        let (group, topic) = ("social".to_owned(), "training.events".to_owned());
        let http = HttpLabels {
            method: "GET",
            route: "/api/v1/me".to_owned(),
            status: 200,
        };
        metrics.observe_http(&http, Duration::from_millis(1));
        let consumed = ConsumedLabels {
            group: group.clone(),
            topic: topic.clone(),
            outcome: "done",
        };
        metrics.consumed().get_or_create(&consumed).inc();
        let lag = LagLabels {
            group,
            topic,
            partition: 0,
        };
        metrics.lag().get_or_create(&lag).set(1);
        crate::testing::catalogue::assert_labels("kit", &metrics.encode());
    }
}
