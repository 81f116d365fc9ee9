//! The trace that a request or an event belongs to: W3C `traceparent` in and out, a correlation id, and (when
//! `MERIDIAN_OTLP_ENDPOINT` is set) OpenTelemetry export to a collector of the same region.
//!
//! The context travels as a task-local: everything awaited inside [`within`] sees it through [`current`], and the log
//! layer and [`crate::client::ServiceClient`] read it from there. A task spawned inside must be given it: use [`spawn`].

use std::fmt;
use std::future::Future;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::headers::{CORRELATION_ID, TRACEPARENT};

tokio::task_local! {
    static CURRENT: Context;
}

/// What is known about the work in hand.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Context {
    trace_id: u128,
    span_id: u64,
    sampled: bool,
    correlation_id: String,
    caller: Option<String>,
}

/// A `traceparent` as it came in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Parent {
    trace_id: u128,
    span_id: u64,
    sampled: bool,
}

fn random_u128() -> u128 {
    uuid::Uuid::new_v4().as_u128()
}

fn random_span_id() -> u64 {
    // The high half of a v4 UUID has 60 random bits and is never zero (its version nibble is 4).
    (random_u128() >> 64) as u64
}

impl Parent {
    /// `00-<32 hex>-<16 hex>-<2 hex>`; anything else begins a new trace, as the W3C recommendation says.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |part: &str, length| {
            part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        if !(hex(version, 2) && hex(trace, 32) && hex(span, 16) && hex(flags, 2)) || version == "ff" {
            return None;
        }
        if version == "00" && parts.next().is_some() {
            return None;
        }
        let trace_id = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
        let span_id = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        Some(Self {
            trace_id,
            span_id,
            sampled,
        })
    }

    fn remote(self) -> SpanContext {
        let flags = if self.sampled {
            TraceFlags::SAMPLED
        } else {
            TraceFlags::default()
        };
        let (trace, id) = (TraceId::from(self.trace_id), SpanId::from(self.span_id));
        SpanContext::new(trace, id, flags, true, TraceState::default())
    }
}

fn is_correlation_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

impl Context {
    /// A new trace: for work that nobody asked for (a timer, a start).
    #[must_use]
    pub fn fresh() -> Self {
        let trace_id = random_u128();
        Self {
            trace_id,
            span_id: random_span_id(),
            sampled: true,
            correlation_id: format!("{trace_id:032x}"),
            caller: None,
        }
    }

    /// The context of a request that carries these headers, from a caller known by its certificate.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap, caller: Option<&str>) -> Self {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let parent = text(&TRACEPARENT).and_then(Parent::parse);
        let correlation = text(&CORRELATION_ID)
            .filter(|id| is_correlation_id(id))
            .map(str::to_owned);
        Self::below(parent, correlation, caller)
    }

    /// The context of an event that carries this `traceparent`.
    #[must_use]
    pub fn from_traceparent(traceparent: Option<&str>) -> Self {
        Self::below(traceparent.and_then(Parent::parse), None, None)
    }

    fn below(parent: Option<Parent>, correlation_id: Option<String>, caller: Option<&str>) -> Self {
        let fresh = Self::fresh();
        let trace_id = parent.map_or(fresh.trace_id, |parent| parent.trace_id);
        Self {
            trace_id,
            sampled: parent.is_none_or(|parent| parent.sampled),
            correlation_id: correlation_id.unwrap_or_else(|| format!("{trace_id:032x}")),
            caller: caller.map(str::to_owned),
            ..fresh
        }
    }

    /// Makes `span` the span of this context, so that what is exported and what is logged have the same ids.
    #[must_use]
    pub fn adopt(mut self, span: &tracing::Span, headers: Option<&HeaderMap>) -> Self {
        let parent = headers
            .and_then(|headers| headers.get(&TRACEPARENT))
            .and_then(|value| value.to_str().ok());
        self.adopt_parent(span, parent);
        self
    }

    fn adopt_parent(&mut self, span: &tracing::Span, traceparent: Option<&str>) {
        if let Some(parent) = traceparent.and_then(Parent::parse) {
            let remote = parent.remote();
            // Fails only without an exporter, and then there is nothing to tie together.
            let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(remote));
        }
        let exported = span.context();
        let exported = exported.span().span_context().clone();
        if exported.is_valid() {
            self.trace_id = u128::from_be_bytes(exported.trace_id().to_bytes());
            self.span_id = u64::from_be_bytes(exported.span_id().to_bytes());
            self.sampled = exported.is_sampled();
        }
    }

    /// As [`Context::adopt`], for an event.
    #[must_use]
    pub fn adopt_event(mut self, span: &tracing::Span, traceparent: Option<&str>) -> Self {
        self.adopt_parent(span, traceparent);
        self
    }

    /// The W3C header value that continues this trace.
    #[must_use]
    pub fn traceparent(&self) -> String {
        format!(
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id,
            self.span_id,
            u8::from(self.sampled)
        )
    }

    /// 32 hex digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// 16 hex digits.
    #[must_use]
    pub fn span_id(&self) -> String {
        format!("{:016x}", self.span_id)
    }

    /// The id that ties together what one request of a client caused.
    #[must_use]
    pub fn correlation_id(&self) -> &str {
        &self.correlation_id
    }

    /// The service that asked, by its certificate.
    #[must_use]
    pub fn caller(&self) -> Option<&str> {
        self.caller.as_deref()
    }

    /// Adds the headers that carry this context to the next service.
    pub fn inject(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&self.traceparent()) {
            headers.insert(TRACEPARENT, value);
        }
        if let Ok(value) = HeaderValue::from_str(&self.correlation_id) {
            headers.insert(CORRELATION_ID, value);
        }
    }
}

impl fmt::Display for Context {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.traceparent())
    }
}

/// The `traceparent` of a span that is exported; nothing where traces are not.
#[must_use]
pub fn exported(span: &tracing::Span) -> Option<String> {
    let context = span.context();
    let context = context.span().span_context().clone();
    context.is_valid().then(|| {
        format!(
            "00-{}-{}-{:02x}",
            context.trace_id(),
            context.span_id(),
            u8::from(context.is_sampled())
        )
    })
}

/// Ties a span to what led to it and is no part of it: the span that this `traceparent` names. What is none is left out.
pub fn link(span: &tracing::Span, traceparent: &str) {
    if let Some(parent) = Parent::parse(traceparent) {
        span.add_link(parent.remote());
    }
}

/// The context of the current task, if it has one.
#[must_use]
pub fn current() -> Option<Context> {
    CURRENT.try_with(Clone::clone).ok()
}

/// Runs `work` inside `context`.
pub async fn within<F: Future>(context: Context, work: F) -> F::Output {
    CURRENT.scope(context, work).await
}

/// Spawns a task that keeps the current context.
pub fn spawn<F>(work: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(within(current().unwrap_or_else(Context::fresh), work))
}

/// Looks at the current context without cloning it.
pub(crate) fn with_current<T>(look: impl FnOnce(&Context) -> T) -> Option<T> {
    CURRENT.try_with(look).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_continued_with_a_new_span() {
        let mut headers = HeaderMap::new();
        let incoming = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        headers.insert(TRACEPARENT, HeaderValue::from_static(incoming));
        headers.insert(CORRELATION_ID, HeaderValue::from_static("ride-7"));
        let context = Context::from_headers(&headers, Some("gateway"));
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_ne!(context.span_id(), "00f067aa0ba902b7");
        assert_eq!(
            (context.correlation_id(), context.caller()),
            ("ride-7", Some("gateway"))
        );
        let mut next = HeaderMap::new();
        context.inject(&mut next);
        assert_eq!(next[CORRELATION_ID], "ride-7");
    }

    #[test]
    fn what_is_not_a_traceparent_begins_a_new_trace() {
        for text in [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(Parent::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_correlation_id_that_could_carry_text_is_replaced() {
        let mut headers = HeaderMap::new();
        headers.insert(CORRELATION_ID, HeaderValue::from_static("name with spaces@example.org"));
        let context = Context::from_headers(&headers, None);
        assert_eq!(context.correlation_id(), context.trace_id());
    }
}
