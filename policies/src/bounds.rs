//! Schema fragments with bounds: every text, list and map that comes from outside has a largest size.

use schemars::{Schema, SchemaGenerator, json_schema};

/// A point in time, RFC 3339.
pub fn timestamp(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time", "maxLength": 40 })
}

/// A point in time that may be left out.
pub fn optional_timestamp(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "null"], "format": "date-time", "maxLength": 40 })
}

/// The name of a field of an event, snake case.
pub fn field_names(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 64,
        "items": { "type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[a-z][a-z0-9_]*$" }
    })
}
