//! Why a hypothesis cannot be answered.

use jiff::Timestamp;

use super::hypothesis::{MAX_BYTES, MAX_HYPOTHESES};

/// Why a hypothesis cannot be read or does not fit the policy. Each names the field and what is allowed there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WhatIfError {
    /// The text is too long to be read.
    #[error("what-if: the text has {bytes} bytes; at most {MAX_BYTES} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The text is not of the form.
    #[error("what-if: {field}: {problem}")]
    Malformed {
        /// Where.
        field: String,
        /// What is wrong, and what is allowed.
        problem: String,
    },
    /// Nothing is supposed, or too much.
    #[error("what-if: hypotheses: {count} are given; 1 to {MAX_HYPOTHESES} are allowed")]
    Count {
        /// How many.
        count: usize,
    },
    /// Time cannot pass to two moments.
    #[error("what-if: hypotheses: asOf is given twice; one moment is allowed")]
    TwoMoments,
    /// Time does not pass backwards.
    #[error("what-if: {field}: {moment} is not after {now}; a moment in the future is allowed")]
    NotInTheFuture {
        /// Where.
        field: String,
        /// What was given.
        moment: Timestamp,
        /// What it has to be after.
        now: Timestamp,
    },
    /// The policy has no such thing.
    #[error("what-if: {field}: there is no {what} '{name}' in the policy; there is: {known}")]
    Unknown {
        /// Where.
        field: String,
        /// What it should have been.
        what: &'static str,
        /// What was given.
        name: String,
        /// What there is.
        known: String,
    },
}

impl WhatIfError {
    /// There is no `what` of that name, only `known` ones; the first 20 are named.
    pub(super) fn unknown(
        field: String,
        what: &'static str,
        name: &str,
        known: impl IntoIterator<Item = String>,
    ) -> Self {
        let mut known: Vec<String> = known.into_iter().collect();
        known.sort();
        known.dedup();
        let more = known.len().saturating_sub(20);
        known.truncate(20);
        let mut known = if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        };
        if more > 0 {
            known.push_str(&format!(" and {more} more"));
        }
        Self::Unknown {
            field,
            what,
            name: name.to_owned(),
            known,
        }
    }
}
