//! One compiled edge: what may cross a border, and on what grounds.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::bounds;
use crate::condition::{Condition, Facts};
use crate::names::{DocumentDigest, Epoch, InvalidName, OrganizationName, Parsed, PartyName, RegionName, TenantId};
use crate::refusal::Objection;
use crate::rule::{Denial, Rule};
use crate::vocabulary::{Art9Condition, DataClass, LegalFramework, Mechanism, Purpose};

/// Names an edge: `<tenant>.<class>.<to-region>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EdgeId(Arc<str>);

impl EdgeId {
    /// The name of the edge that carries `class` of `tenant` to `to`.
    #[must_use]
    pub fn new(tenant: &TenantId, class: DataClass, to: &RegionName) -> Self {
        Self(format!("{tenant}.{class}.{to}").into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the tenant whose data it carries.
    #[must_use]
    pub fn tenant(&self) -> &str {
        self.0.split('.').next().unwrap_or_default()
    }

    /// The name of the region that it leads to.
    #[must_use]
    pub fn to(&self) -> &str {
        self.0.split('.').next_back().unwrap_or_default()
    }
}

impl FromStr for EdgeId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName::new("edge id", text, "<tenant>.<class>.<to-region>");
        let mut parts = text.split('.');
        let (Some(tenant), Some(class), Some(to), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid());
        };
        TenantId::new(tenant).map_err(|_| invalid())?;
        DataClass::from_str(class).map_err(|_| invalid())?;
        RegionName::new(to).map_err(|_| invalid())?;
        // Nothing that is so spelled is spelled otherwise.
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for EdgeId {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<EdgeId> for String {
    fn from(id: EdgeId) -> Self {
        id.as_str().to_owned()
    }
}

impl fmt::Display for EdgeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for EdgeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for EdgeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parsed::new("edge id"))
    }
}

impl JsonSchema for EdgeId {
    fn schema_name() -> Cow<'static, str> {
        "EdgeId".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 128, "pattern": "^[a-z0-9-]+\\.[a-z-]+\\.[a-z0-9-]+$" })
    }
}

/// An edge that the policy allows, with everything that exporter and importer need to obey it. Its existence is not yet a
/// permission: ask [`CompiledEdge::lawful_at`] at the moment of each delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CompiledEdge {
    /// Its name.
    pub id: EdgeId,
    /// Whose data it is.
    pub tenant: TenantId,
    /// The controller.
    pub organization: OrganizationName,
    /// The exporting region, home of the tenant.
    pub from: RegionName,
    /// The importing region.
    pub to: RegionName,
    /// The legal entity that exports.
    pub exporter: PartyName,
    /// The legal entity that imports.
    pub importer: PartyName,
    /// The tenant of the same organization that receives it there.
    pub importer_tenant: TenantId,
    /// What goes.
    pub class: DataClass,
    /// What for.
    #[schemars(length(max = 6))]
    pub purposes: BTreeSet<Purpose>,
    /// The fields that go, and no other.
    #[schemars(schema_with = "bounds::field_names")]
    pub fields: BTreeSet<String>,
    /// What makes it lawful.
    pub mechanism: Mechanism,
    /// By name.
    #[schemars(length(max = 120))]
    pub instrument: String,
    /// Lawful from.
    #[schemars(schema_with = "bounds::timestamp")]
    pub effective_from: Timestamp,
    /// Lawful until: the earliest end of mechanism, edge, assessment and certification.
    #[schemars(schema_with = "bounds::timestamp")]
    pub expires: Timestamp,
    /// The rule that refuses from then on.
    pub ends_with: Rule,
    /// The assessment relied on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assessment: Option<DocumentDigest>,
    /// The condition for a special category.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub art9_condition: Option<Art9Condition>,
    /// Replace the subject's identifier by a pairwise one.
    pub pseudonymise: bool,
    /// May the importer pass it on.
    pub onward: bool,
    /// Must the subject's consent be confirmed at each delivery.
    pub needs_consent: bool,
    /// What must hold besides at each delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<Condition>,
    /// The exporter's body of law.
    pub framework: LegalFramework,
    /// What allows it, in a sentence.
    #[schemars(length(max = 512))]
    pub rule: String,
    /// Of the tenant's home.
    pub epoch: Epoch,
}

impl CompiledEdge {
    /// Reads an edge as it is told, perhaps by a newer version.
    ///
    /// # Errors
    /// What of it this version does not know, in words.
    pub fn read(told: &Value) -> Result<Self, String> {
        let edge = Self::deserialize(told).map_err(|error| error.to_string())?;
        let read = serde_json::to_value(&edge).unwrap_or_default();
        let mut fields = told.as_object().into_iter().flatten();
        match fields.find(|(field, value)| !value.is_null() && read.get(field).is_none()) {
            None => Ok(edge),
            Some((field, _)) => Err(format!("it says {field}, which this version does not know")),
        }
    }

    /// Whether the edge may carry anything at `now`.
    ///
    /// # Errors
    /// The refusal, when the edge has not begun or has ended.
    pub fn lawful_at(&self, now: Timestamp) -> Result<(), Denial> {
        self.objection_at(now)
            .map_or(Ok(()), |objection| Err(objection.said_by(self)))
    }

    /// What it has against any use at `now`.
    pub(crate) fn objection_at(&self, now: Timestamp) -> Option<Objection> {
        if now < self.effective_from {
            Some(Objection::NotYet)
        } else if now >= self.expires {
            Some(Objection::Ended)
        } else {
            None
        }
    }

    /// Whether the edge's own condition holds.
    ///
    /// # Errors
    /// The refusal, when it does not, or cannot be read here.
    pub fn condition_holds(&self, facts: &Facts<'_>) -> Result<(), Denial> {
        let Some(condition) = &self.condition else {
            return Ok(());
        };
        match condition.holds(facts) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.deny(
                Rule::ConditionNotMet,
                format!("the tenant's condition is not met: {}", condition.as_str()),
            )),
            Err(error) => Err(self.deny(
                Rule::ConditionInvalid,
                format!("the tenant's condition has no value here ({error}), so that it is not met"),
            )),
        }
    }

    /// Whether its condition, when it does not hold now, may hold at another hour.
    #[must_use]
    pub fn may_hold_later(&self) -> bool {
        self.condition.as_ref().is_some_and(Condition::reads_clock)
    }

    pub(crate) fn deny(&self, rule: Rule, because: impl fmt::Display) -> Denial {
        // Most refusals fit: a sentence that grows is copied again and again.
        let mut reason = String::with_capacity(192);
        // Writing into a String cannot fail.
        let _ = write!(
            reason,
            "{} of {} may not go from {} to {}: {because}",
            self.class, self.tenant, self.from, self.to
        );
        Denial::new(rule, self.framework, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_id_reads_back() {
        let id: EdgeId = "stride-eu.workout-summary.us".parse().unwrap();
        assert_eq!(id.as_str(), "stride-eu.workout-summary.us");
        for bad in [
            "",
            "a.b",
            "stride-eu.moods.us",
            "stride-eu.health.us.x",
            "Stride.health.us",
        ] {
            assert!(bad.parse::<EdgeId>().is_err(), "{bad}");
        }
    }
}
