//! Pure rules of accounts and tokens. No I/O; `now` is always a parameter.

pub mod claims;
pub mod email;
pub mod password;
pub mod profile;
pub mod residence;
pub mod signing_keys;
pub mod user;

/// A field of a request that breaks a rule, in words that the athlete can act on. Never repeats the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {rule}")]
pub struct InvalidField {
    /// Name of the JSON field.
    pub field: &'static str,
    /// What is allowed.
    pub rule: String,
}

impl InvalidField {
    /// `field` must follow `rule`.
    pub fn new(field: &'static str, rule: impl Into<String>) -> Self {
        Self {
            field,
            rule: rule.into(),
        }
    }
}
