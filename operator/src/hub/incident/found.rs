//! What a region's verifier has found → the incidents that there must be. Pure.
//!
//! What belongs to the same tenants and was first found in the same moment is one incident, and its name says so: the same
//! finding has the same name, whoever plans it, and one that went and came back has another.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use meridian_crds::{IncidentEvidence, IncidentFinding, IncidentKind, PrivacyIncidentSpec};
use meridian_policy::{DataClass, EdgeId, JurisdictionName, PolicyRevision, RegionName, TenantId};
use serde_json::{Value, json};

use crate::manifest::{MANAGED_BY, MANAGED_BY_LABEL, Manifest, NotAManifest, PRIVACY_INCIDENT};

/// Characters of a place that are kept, as the definition bounds them.
const PLACE: usize = 256;

/// Checks that find personal data; the others find what would let them out.
const DATA: [&str; 4] = ["foreign-rows", "future-epoch", "copies-without-edge", "expired-copies"];

/// What was first found in one moment, of the same tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Incident {
    /// Its name.
    pub(crate) name: String,
    /// When it was first found.
    pub(crate) since: Timestamp,
    /// Whose data; nobody's where that is not known.
    pub(crate) tenants: BTreeSet<TenantId>,
    kind: IncidentKind,
    found: Vec<IncidentFinding>,
}

/// The incidents that a RegionStack's `status.verified` speaks of.
pub(crate) fn incidents(region: &RegionName, verified: &Value) -> Vec<Incident> {
    let mut groups: BTreeMap<(Vec<TenantId>, Timestamp), Vec<&Value>> = BTreeMap::new();
    for found in verified["found"].as_array().into_iter().flatten() {
        // A finding without a readable time is as old as the look that found it.
        let since = [&found["since"], &verified["at"]].into_iter().find_map(moment);
        let Some(since) = since else { continue };
        groups.entry((tenants(found), since)).or_default().push(found);
    }
    groups
        .into_iter()
        .map(|((tenants, since), found)| Incident {
            name: name(region, &tenants, since),
            since,
            kind: kind(&found),
            found: places(&found),
            tenants: tenants.into_iter().collect(),
        })
        .collect()
}

/// How much of an incident is still found. None: the verifier has said nothing.
pub(crate) fn still_found(name: &str, region: &RegionName, verified: &Value) -> Option<u64> {
    verified.is_object().then_some(())?;
    Some(count(name, &incidents(region, verified)))
}

/// How much of an incident there is among these.
pub(crate) fn count(name: &str, incidents: &[Incident]) -> u64 {
    let same = incidents.iter().filter(|incident| incident.name == name);
    same.flat_map(|incident| &incident.found).map(|one| one.count).sum()
}

fn moment(text: &Value) -> Option<Timestamp> {
    let at: Timestamp = text.as_str()?.parse().ok()?;
    // The API server keeps whole seconds of a time, and names have no room for more.
    Timestamp::from_second(at.as_second()).ok()
}

/// By the forms in which the verifier names whose something is; anything else is nobody's name, and is left where it is.
fn tenants(found: &Value) -> Vec<TenantId> {
    let of = found["of"].as_str().unwrap_or_default();
    let of_edge = |edge: &str| edge.parse::<EdgeId>().ok().and_then(|edge| edge.tenant().parse().ok());
    let named: BTreeSet<TenantId> = match found["check"].as_str().unwrap_or_default() {
        "foreign-rows" | "future-epoch" => of.parse().ok().into_iter().collect(),
        "expired-copies" => of_edge(of).into_iter().collect(),
        "copies-without-edge" => {
            let (edge, receiver) = of.split_once(" for ").unwrap_or((of, ""));
            of_edge(edge).into_iter().chain(receiver.parse().ok()).collect()
        }
        _ => BTreeSet::new(),
    };
    named.into_iter().collect()
}

fn name(region: &RegionName, tenants: &[TenantId], since: Timestamp) -> String {
    let parts = std::iter::once(region.to_string()).chain(tenants.iter().map(ToString::to_string));
    let when = since.strftime("%Y%m%dt%H%M%Sz").to_string();
    parts.chain([when]).collect::<Vec<_>>().join(".")
}

fn kind(found: &[&Value]) -> IncidentKind {
    let is_data = |found: &&&Value| DATA.iter().any(|check| found["check"] == *check);
    match found.iter().find(is_data) {
        Some(_) => IncidentKind::DataOutOfPlace,
        None => IncidentKind::Exposure,
    }
}

fn places(found: &[&Value]) -> Vec<IncidentFinding> {
    let mut places: BTreeMap<(String, String), (BTreeSet<DataClass>, u64)> = BTreeMap::new();
    for one in found {
        let text = |field: &str| {
            one[field]
                .as_str()
                .unwrap_or("-")
                .chars()
                .take(PLACE)
                .collect::<String>()
        };
        let (classes, count) = places
            .entry((text("check").chars().take(63).collect(), text("place")))
            .or_default();
        let named = one["classes"].as_array().into_iter().flatten();
        classes.extend(named.filter_map(|class| class.as_str()?.parse::<DataClass>().ok()));
        *count = count.saturating_add(one["count"].as_u64().unwrap_or_default());
    }
    let finding =
        |((check, place), (classes, count)): ((String, String), (BTreeSet<DataClass>, u64))| IncidentFinding {
            check,
            place,
            classes: classes.into_iter().collect(),
            count,
        };
    places.into_iter().map(finding).collect()
}

impl Incident {
    /// The incident as it is opened.
    pub(crate) fn opened(
        &self,
        region: &RegionName,
        stack: &Value,
        laws: BTreeSet<JurisdictionName>,
        now: Timestamp,
    ) -> Result<Manifest, NotAManifest> {
        let spec = PrivacyIncidentSpec {
            region: region.clone(),
            kind: self.kind,
            // A region whose clock is ahead gives nobody more time.
            detected_at: self.since.min(now),
            tenants: self.tenants.iter().cloned().collect(),
            found: self.found.clone(),
            evidence: evidence(&stack["status"]),
            jurisdictions: laws.into_iter().collect(),
            acknowledged: None,
            assessment: None,
            notices: Vec::new(),
            closed: None,
        };
        Manifest::new(json!({
            "apiVersion": PRIVACY_INCIDENT.api_version(), "kind": PRIVACY_INCIDENT.kind,
            "metadata": {"name": self.name, "labels": {
                MANAGED_BY_LABEL: MANAGED_BY, "app.kubernetes.io/part-of": "meridian",
            }},
            "spec": spec,
        }))
    }
}

fn evidence(status: &Value) -> Option<IncidentEvidence> {
    let revision = PolicyRevision(status["verified"]["revision"].as_u64()?);
    let chains = status["evidence"].as_array().into_iter().flatten();
    let told = |one: &Value| {
        Some(format!(
            "{}@{}:{}",
            one["chain"].as_str()?,
            one["size"],
            one["head"].as_str()?
        ))
    };
    Some(IncidentEvidence {
        revision,
        checkpoints: chains.filter_map(told).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us() -> RegionName {
        "us".parse().unwrap()
    }

    fn found(check: &str, place: &str, of: &str, since: &str) -> Value {
        json!({"check": check, "place": place, "of": of, "classes": ["workout-summary"], "count": 2, "since": since})
    }

    fn names(found: &[Value]) -> Vec<String> {
        let verified = json!({"revision": 7, "at": "2026-11-27T12:00:00Z", "found": found});
        incidents(&us(), &verified)
            .into_iter()
            .map(|incident| incident.name)
            .collect()
    }

    const SINCE: &str = "2026-11-27T01:02:03.456Z";

    #[test]
    fn what_is_of_one_tenant_and_one_moment_is_one_incident() {
        let all = [
            found("foreign-rows", "social.share", "stride-eu", SINCE),
            found("foreign-rows", "training.workout", "stride-eu", SINCE),
            found("expired-copies", "social.copy", "stride-eu.workout-summary.us", SINCE),
            found("foreign-rows", "social.share", "other-eu", SINCE),
            found("foreign-rows", "social.follow", "stride-eu", "2026-11-27T02:00:00Z"),
            found(
                "copies-without-edge",
                "social.copy",
                "stride-eu.workout-summary.us for stride-us",
                SINCE,
            ),
        ];
        assert_eq!(
            names(&all),
            [
                "us.other-eu.20261127t010203z",
                "us.stride-eu.20261127t010203z",
                "us.stride-eu.20261127t020000z",
                "us.stride-eu.stride-us.20261127t010203z",
            ]
        );
    }

    #[test]
    fn only_the_name_of_a_tenant_leaves_the_place_where_somebody_is_named() {
        let all = [
            found("foreign-rows", "social.share", "what is no name", SINCE),
            found("mighty-role", "training", "ada@example.org", SINCE),
            found(
                "copies-without-edge",
                "social.copy",
                "what is no name for what is no name",
                SINCE,
            ),
        ];
        assert_eq!(names(&all), ["us.20261127t010203z"]);
        let verified = json!({"revision": 7, "at": SINCE, "found": all});
        let stack = json!({"status": {"verified": verified, "evidence": [{"chain": "us/replicator", "size": 5, "head": "ab"}]}});
        let incident = &incidents(&us(), &stack["status"]["verified"])[0];
        let opened = incident
            .opened(&us(), &stack, BTreeSet::new(), Timestamp::UNIX_EPOCH)
            .unwrap();
        let text = opened.body().to_string();
        assert!(!text.contains("ada@") && !text.contains("no name"), "{text}");
        let spec = &opened.body()["spec"];
        assert_eq!(spec["kind"], "DataOutOfPlace");
        assert_eq!(
            spec["detectedAt"], "1970-01-01T00:00:00Z",
            "a clock that is ahead gives no time"
        );
        assert_eq!(spec["evidence"]["checkpoints"], json!(["us/replicator@5:ab"]));
    }

    #[test]
    fn a_missing_guard_is_an_exposure_and_what_is_gone_is_found_no_more() {
        let verified = json!({"revision": 7, "at": SINCE, "found": [found("unguarded", "social.share", "", SINCE)]});
        let incident = &incidents(&us(), &verified)[0];
        assert_eq!(incident.kind, IncidentKind::Exposure);
        assert_eq!(still_found(&incident.name, &us(), &verified), Some(2));
        assert_eq!(still_found(&incident.name, &us(), &json!({"found": []})), Some(0));
        assert_eq!(still_found(&incident.name, &us(), &Value::Null), None);
    }
}
