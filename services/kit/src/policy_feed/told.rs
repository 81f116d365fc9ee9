//! What the region operator and the services of its region tell each other: lines of the policy feed, and what services
//! report of themselves.

use std::collections::BTreeMap;

use jiff::Timestamp;
use meridian_policy::vocabulary::DataClass;
use meridian_policy::{EdgeId, PolicyRevision, RegionPolicy};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One line of the feed.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(untagged)]
pub enum FeedLine {
    /// The policy: first on every connection, and on each change.
    Policy {
        /// It.
        policy: Box<RegionPolicy>,
    },
    /// A fresh renewal of the lease.
    Lease {
        /// What it says.
        lease: Lease,
    },
    /// The lease was lost.
    LeaseLost {
        /// Always true.
        lease_lost: bool,
    },
}

impl FeedLine {
    /// A line as it was sent, perhaps by a newer version.
    ///
    /// # Errors
    /// It is not understood.
    pub fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        if let Some(policy) = RegionPolicy::understood_in(line) {
            return Ok(Self::Policy {
                policy: Box::new(policy),
            });
        }
        let mut told: Value = serde_json::from_slice(line)?;
        match told.get_mut("policy") {
            Some(policy) => {
                let policy = Box::new(RegionPolicy::read_by_edges(policy.take())?);
                Ok(Self::Policy { policy })
            }
            None => Self::deserialize(told),
        }
    }
}

/// A renewal of the lease.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Lease {
    /// The revision that the hub says is current.
    pub revision: PolicyRevision,
    /// How long that may be relied on, from when it was sent.
    pub valid_for_ms: u64,
    /// When it was sent. A line that lay in a buffer while the process or the network stood still is then known to be old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Timestamp>,
}

/// What a role did about an edge that was cut: `POST /v1/acks`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Ack {
    /// The edge.
    pub edge: EdgeId,
    /// Who acknowledges.
    pub role: AckRole,
    /// The revision that was applied.
    pub revision: PolicyRevision,
    /// How many copies were purged.
    pub purged: u64,
    /// Where they were purged from.
    pub sinks: Vec<String>,
}

/// The side of an edge.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AckRole {
    /// No delivery starts any more.
    Exporter,
    /// The copies are gone.
    Importer,
}

/// Copies that wait to leave, by edge: `POST /v1/backlog`. An edge for which none waits is not in it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Backlog {
    /// How many wait.
    pub waiting: BTreeMap<EdgeId, u64>,
}

/// What the verifier found: `POST /v1/verification`. Counts and places, nothing about anybody.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// The policy that it held the region against.
    pub revision: PolicyRevision,
    /// When it looked.
    pub at: Timestamp,
    /// How many tables it looked at.
    pub tables: u64,
    /// How many rows it counted.
    pub rows: u64,
    /// How many records of topics it looked at; a verifier of a release before looks at none.
    #[serde(default)]
    pub records: u64,
    /// How many violations there are.
    pub violations: u64,
    /// The first of them.
    pub found: Vec<Found>,
}

/// A violation that the verifier found.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Found {
    /// What was looked for.
    pub check: String,
    /// Where: a table, a topic, a role, a setting.
    pub place: String,
    /// Of whom or by what: a tenant, an edge, a role. Opaque.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// The classes of what is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<DataClass>,
    /// How many rows or things.
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_of_a_newer_version_is_read_and_an_edge_that_it_says_more_of_is_held() {
        let parsed = |line: Value| FeedLine::parse(line.to_string().as_bytes());
        let held = |line: Value| match parsed(line).expect("a line") {
            FeedLine::Policy { policy } => (policy.exports.len(), policy.held.len()),
            line => panic!("{line:?}"),
        };
        let told = json!({
            "region": "eu", "jurisdiction": "eu", "revision": 3, "public_url": "https://eu.example",
            "issuer": "https://eu.example", "countries_served": ["DE"], "homes": [], "directory": [], "peers": [],
            "exports": [], "imports": [], "retention": {},
        });
        let with = |edge: Value| {
            let mut told = told.clone();
            told["exports"] = json!([edge]);
            json!({ "policy": told })
        };
        let edge = json!({
            "id": "stride-eu.workout-summary.us", "tenant": "stride-eu", "organization": "stride", "from": "eu", "to": "us",
            "exporter": "stride-gmbh", "importer": "stride-inc", "importer_tenant": "stride-us",
            "class": "workout-summary", "purposes": ["cross-border-sharing"], "fields": ["sport_type"],
            "mechanism": "SCC", "instrument": "the clauses", "effective_from": "2025-01-01T00:00:00Z",
            "expires": "2027-01-01T00:00:00Z", "ends_with": "mechanism-expired", "pseudonymise": true, "onward": false,
            "needs_consent": true, "framework": "GDPR", "rule": "SCC in force", "epoch": 1,
        });
        let mut more = edge.clone();
        more["adults_only"] = true.into();
        assert_eq!(held(with(edge)), (1, 0));
        assert_eq!(held(with(more)), (0, 1));
        assert_eq!(held(json!({"policy": told, "since": 5})), (0, 0));
        assert_eq!(
            parsed(json!({"lease_lost": true})).expect("a line"),
            FeedLine::LeaseLost { lease_lost: true }
        );
        for none in [
            json!([{"policy": told}]),
            json!({"policy": null}),
            json!({"policy": {}}),
            json!({}),
        ] {
            assert!(parsed(none.clone()).is_err(), "{none}");
        }
        let two = format!("{0} {0}", json!({ "policy": told }));
        assert!(FeedLine::parse(two.as_bytes()).is_err(), "two in one line");
    }

    #[test]
    fn the_lines_read_as_the_wire_writes_them() {
        let lease = Lease {
            revision: PolicyRevision(7),
            valid_for_ms: 20_000,
            sent_at: None,
        };
        let lines = [
            (
                r#"{"lease":{"revision":7,"valid_for_ms":20000}}"#,
                FeedLine::Lease { lease },
            ),
            (r#"{"lease_lost":true}"#, FeedLine::LeaseLost { lease_lost: true }),
        ];
        for (text, line) in lines {
            assert_eq!(serde_json::from_str::<FeedLine>(text).expect("a line"), line);
            assert_eq!(serde_json::to_string(&line).expect("JSON"), text);
        }
    }
}
