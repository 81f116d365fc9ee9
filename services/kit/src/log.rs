//! Logs as JSON lines on standard output: `timestamp, level, service, caller_service, trace_id, correlation_id,
//! span_id, message` and fields from an allow-list.
//!
//! A field whose name is not in [`ALLOWED`] is left out and counted (`meridian_log_fields_dropped_total`), so a new
//! field is a decision made here, not a leak found later. Bodies, tokens, names, addresses, coordinates, heart rates and
//! subject ids have no field to be logged in; messages are fixed sentences. What Kafka's client says is a `reason`, with names of
//! brokers and topics in it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::OnceLock;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::metrics::count_dropped_log_field;

/// The names that the layer itself gives: what a line begins with, and its sentence.
pub const OF_EVERY_LINE: &[&str] = &[
    "timestamp",
    "level",
    "service",
    "caller_service",
    "trace_id",
    "correlation_id",
    "span_id",
    "message",
];

/// What a span may say to the exporter of traces beside [`ALLOWED`].
pub const OF_SPANS: &[&str] = &["generation", "otel.kind", "otel.name", "outcome", "uid"];

/// The names that a log field may have. Values are numbers, booleans, opaque ids, names from the policy (tenant,
/// region, class, edge, rule) and errors of our own enums, whose sentences never quote data.
pub const ALLOWED: &[&str] = &[
    "attempt",
    "count",
    "delay_ms",
    "duration_ms",
    "edge",
    "epoch",
    "error",
    "event_id",
    "event_type",
    "group",
    "kind",
    "member",
    "method",
    "peer",
    "permit_id",
    "pool",
    "reason",
    "region",
    "replicas",
    "resource",
    "revision",
    "role",
    "route",
    "rule",
    "state",
    "status",
    "task",
    "tenant",
    "topic",
];

/// Longest message or text value; what is longer is cut.
const TEXT_LIMIT: usize = 1024;

struct JsonLines {
    service: &'static str,
}

struct Fields<'a> {
    line: &'a mut Map<String, Value>,
}

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: Value) {
        let name = field.name();
        if name == "message" || ALLOWED.contains(&name) {
            self.line.insert(name.to_owned(), value);
        } else if !name.starts_with("log.") {
            count_dropped_log_field();
        }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > TEXT_LIMIT {
        let end = (0..=TEXT_LIMIT)
            .rev()
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, cut(value.to_owned()).into());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let mut text = String::new();
        let _ = write!(text, "{value:?}");
        self.put(field, cut(text).into());
    }
}

impl JsonLines {
    fn line(&self, event: &Event<'_>) -> Map<String, Value> {
        let mut line = Map::new();
        let now = jiff::Timestamp::now();
        line.insert("timestamp".to_owned(), format!("{now:.6}").into());
        line.insert(
            "level".to_owned(),
            event.metadata().level().as_str().to_ascii_lowercase().into(),
        );
        line.insert("service".to_owned(), self.service.into());
        crate::trace::with_current(|context| {
            if let Some(caller) = context.caller() {
                line.insert("caller_service".to_owned(), caller.into());
            }
            line.insert("trace_id".to_owned(), context.trace_id().into());
            line.insert("correlation_id".to_owned(), context.correlation_id().into());
            line.insert("span_id".to_owned(), context.span_id().into());
        });
        event.record(&mut Fields { line: &mut line });
        line
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for JsonLines {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let Ok(mut line) = serde_json::to_vec(&self.line(event)) else {
            return;
        };
        line.push(b'\n');
        // Nobody is left to tell when standard output is gone.
        let _ = std::io::stdout().lock().write_all(&line);
    }
}

static INSTALLED: OnceLock<()> = OnceLock::new();

/// Installs the log layer, and the export of traces when `otlp` names a collector. Later calls change nothing.
///
/// The level comes from `RUST_LOG`; without it our own code logs from `info`, libraries from `warn`.
///
/// # Errors
/// When the collector's address cannot be used.
pub fn install(service: &'static str, region: &str, otlp: Option<&str>) -> Result<(), OtlpError> {
    let exporter = otlp
        .map(|endpoint| otlp_provider(service, region, endpoint))
        .transpose()?;
    if INSTALLED.set(()).is_err() {
        return Ok(());
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,meridian=info"));
    let export = exporter.map(|provider| {
        use opentelemetry::trace::TracerProvider as _;
        let tracer = provider.tracer("meridian");
        opentelemetry::global::set_tracer_provider(provider);
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_target(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(tracing_subscriber::filter::filter_fn(is_exported))
    });
    // A subscriber that tests installed before us stays.
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(export)
        .with(JsonLines { service })
        .try_init();
    Ok(())
}

/// Only our own spans, and only those all of whose fields are allowed, leave the process as traces.
fn is_exported(metadata: &Metadata<'_>) -> bool {
    metadata.is_span()
        && metadata.target().starts_with("meridian")
        && metadata
            .fields()
            .iter()
            .all(|field| OF_SPANS.contains(&field.name()) || ALLOWED.contains(&field.name()))
}

/// Traces cannot be exported.
#[derive(Debug, thiserror::Error)]
#[error("traces cannot be exported: {0}; give the collector's base URL, like http://collector:4318")]
pub struct OtlpError(String);

fn otlp_provider(
    service: &'static str,
    region: &str,
    endpoint: &str,
) -> Result<opentelemetry_sdk::trace::SdkTracerProvider, OtlpError> {
    use opentelemetry_otlp::WithExportConfig as _;
    use opentelemetry_sdk::trace::span_processor_with_async_runtime::BatchSpanProcessor;
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .with_timeout(std::time::Duration::from_secs(5))
        .build()
        .map_err(|error| OtlpError(error.to_string()))?;
    // The hub is of no region.
    let of_region = (!region.is_empty()).then(|| opentelemetry::KeyValue::new("meridian.region", region.to_owned()));
    let resource = opentelemetry_sdk::Resource::builder_empty()
        .with_service_name(service)
        .with_attributes(of_region)
        .build();
    // On the Tokio runtime: the thread-based processor would need a blocking HTTP client and one more thread.
    let processor = BatchSpanProcessor::builder(exporter, opentelemetry_sdk::runtime::Tokio).build();
    Ok(opentelemetry_sdk::trace::SdkTracerProvider::builder()
        .with_resource(resource)
        .with_span_processor(processor)
        .build())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    struct Capture {
        lines: Arc<Mutex<Vec<Map<String, Value>>>>,
        inner: JsonLines,
    }

    impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Capture {
        fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
            self.lines.lock().expect("not poisoned").push(self.inner.line(event));
        }
    }

    fn captured(action: impl FnOnce()) -> Vec<Map<String, Value>> {
        let lines = Arc::default();
        let layer = Capture {
            lines: Arc::clone(&lines),
            inner: JsonLines { service: "training" },
        };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), action);
        let lines = lines.lock().expect("not poisoned");
        lines.clone()
    }

    #[test]
    fn a_field_that_is_not_allowed_is_dropped_and_counted() {
        let before = crate::metrics::dropped_log_fields();
        let lines = captured(|| tracing::info!(email = "a@b.c", status = 200_u64, "an account was made"));
        assert_eq!(lines[0]["status"], 200);
        assert_eq!(lines[0]["message"], "an account was made");
        assert!(!lines[0].contains_key("email"), "{lines:?}");
        assert!(crate::metrics::dropped_log_fields() > before);
    }

    #[test]
    fn a_span_with_a_field_that_is_not_allowed_is_not_exported() {
        let exported = |span: tracing::Span| span.metadata().is_some_and(is_exported);
        tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            assert!(exported(tracing::info_span!(
                "request",
                otel.kind = "server",
                route = "/"
            )));
            assert!(!exported(tracing::info_span!("request", route = "/", email = "a@b.c")));
            assert!(!exported(tracing::info_span!("request", otel.status_message = "a@b.c")));
        });
    }

    #[tokio::test]
    async fn catalogue_what_every_line_says() {
        let context = crate::trace::Context::from_headers(&http::HeaderMap::new(), Some("gateway"));
        let lines = crate::trace::within(context, async { captured(|| tracing::warn!("slow")) }).await;
        let said: std::collections::BTreeSet<&str> = lines[0].keys().map(String::as_str).collect();
        assert_eq!(said, OF_EVERY_LINE.iter().copied().collect());
    }

    #[tokio::test]
    async fn a_line_names_its_trace_and_its_caller() {
        let context = crate::trace::Context::from_headers(&http::HeaderMap::new(), Some("gateway"));
        let expected = context.clone();
        let lines = crate::trace::within(context, async { captured(|| tracing::warn!("slow")) }).await;
        assert_eq!(lines[0]["trace_id"], expected.trace_id());
        assert_eq!(lines[0]["correlation_id"], expected.correlation_id());
        assert_eq!(lines[0]["caller_service"], "gateway");
        assert_eq!(
            (&lines[0]["level"], &lines[0]["service"]),
            (&"warn".into(), &"training".into())
        );
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let text = cut("ü".repeat(TEXT_LIMIT));
        assert!(text.len() <= TEXT_LIMIT + '…'.len_utf8() && text.ends_with('…'));
    }
}
