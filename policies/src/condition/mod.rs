//! Conditions on an edge, in Cedar (<https://docs.cedarpolicy.com/policies/syntax-grammar.html>): the expression that a Cedar
//! policy has in its `when { … }`, over the attributes of [`Attribute`]. Every condition that is accepted here is one that
//! Cedar's own strict validator accepts under [`cedar_schema`], and comes to the same; `cargo xtask bench policy` asks both.
//! Why the language has an evaluator of its own: docs/adr/0021.
//!
//! ```
//! use meridian_policy::Condition;
//! assert!(Condition::new("context.purpose == \"analytics\" && context has age && context.age >= 18").check().is_ok());
//! assert!(Condition::new("context.age >= 18").check().is_err(), "the age is not always known: it needs `context has age`");
//! ```

mod check;
mod eval;
mod lex;
mod parse;
mod schema;

use std::borrow::Cow;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use eval::Facts;
pub use schema::{Attribute, cedar_schema};

use check::Expr;

/// The longest condition, in characters.
pub const LONGEST: usize = 1024;

/// Why a condition is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {problem}")]
pub struct ConditionError {
    /// Where, counted from 1.
    pub at: usize,
    /// What is wrong, and what is allowed.
    pub problem: String,
}

impl ConditionError {
    fn new(at: usize, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self { at: at + 1, problem }
    }
}

/// A condition. One that this version cannot read is kept as it is written, and never holds: what a newer hub demands of an
/// edge is not left out by an older region.
#[derive(Debug, Clone)]
pub struct Condition {
    text: String,
    compiled: Result<Arc<Expr>, ConditionError>,
}

impl Condition {
    /// The condition that the text says.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let compiled = compile(&text).map(Arc::new);
        Self { text, compiled }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), &ConditionError> {
        self.compiled.as_ref().map(|_| ())
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// It cannot be read, or has no value here: it does not hold.
    pub fn holds(&self, facts: &Facts<'_>) -> Result<bool, ConditionError> {
        match &self.compiled {
            Ok(expr) => eval::holds(expr, facts).map_err(|problem| ConditionError::new(0, problem)),
            Err(error) => Err(error.clone()),
        }
    }

    /// Whether it reads the hour or the day of the week: one that does not hold now may hold later.
    #[must_use]
    pub fn reads_clock(&self) -> bool {
        self.compiled.as_ref().is_ok_and(|expr| expr.reads_clock())
    }
}

fn compile(text: &str) -> Result<Expr, ConditionError> {
    let length = text.chars().count();
    if length > LONGEST {
        let problem = format!("it has {length} characters; at most {LONGEST} are allowed");
        return Err(ConditionError::new(LONGEST, problem));
    }
    check::condition(&parse::expression(text)?)
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Condition {}

impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl JsonSchema for Condition {
    fn schema_name() -> Cow<'static, str> {
        "Condition".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": LONGEST })
    }
}

#[cfg(test)]
mod tests;
