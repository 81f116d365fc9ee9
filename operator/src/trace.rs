//! Spans of passes, for OpenTelemetry: the pass over one object, and in it what was observed and planned, each write, and the
//! status. They say a controller, an opaque UID, a generation, an outcome and kinds of objects, and nothing else.
//!
//! From hub to member a trace goes on as a link: what the hub writes carries the span of that write
//! ([`TRACE_ANNOTATION`]), and the region's passes over it name that span. It is put on with
//! a write that is made anyway, so it asks for none. Each region's stack is written in a pass of its own, so no id is
//! known in two regions.

use serde_json::Value;
use tracing::Span;
use tracing::field::Empty;

use crate::manifest::TRACE_ANNOTATION;

/// The span of one pass of a controller.
pub(crate) fn pass(controller: &'static str) -> Span {
    tracing::info_span!(
        "pass",
        otel.name = controller,
        task = controller,
        uid = Empty,
        generation = Empty,
        outcome = Empty
    )
}

/// Says in the span of the pass in hand what object it is over, and what led to it.
pub(crate) fn about(object: &Value) {
    let (span, metadata) = (Span::current(), &object["metadata"]);
    if let Some(uid) = metadata["uid"].as_str() {
        span.record("uid", uid);
    }
    if let Some(generation) = metadata["generation"].as_i64() {
        span.record("generation", generation);
    }
    if let Some(traceparent) = metadata["annotations"][TRACE_ANNOTATION].as_str() {
        meridian_kit::trace::link(&span, traceparent);
    }
}

/// One step of a pass.
pub(crate) fn step(name: &'static str) -> Span {
    tracing::info_span!("step", otel.name = name)
}

/// A step that is a write of this kind of object.
pub(crate) fn write(name: &'static str, kind: &'static str) -> Span {
    tracing::info_span!("step", otel.name = name, kind)
}
