//! What the verifier found, kept in RegionStack's status: places, classes, counts, and since when. Counts alone leave the
//! region.

use crate::apply::{Applier, ApplyError, merge_by};
use crate::conditions::{Observation, Status};
use crate::manifest::{ObjectKey, REGION_STACK};
use jiff::{SignedDuration, Timestamp};
use kube::api::Patch;
use meridian_kit::policy_feed::{Found, Verification};
use meridian_policy::RegionName;
use serde_json::{Value, json};

/// The same finding again is written this much later: that somebody still looks is news too.
const SAID_AGAIN: SignedDuration = SignedDuration::from_mins(10);
/// Without a look for this long, nobody knows any more.
const STALE: SignedDuration = SignedDuration::from_mins(45);

/// Findings that are kept one by one; the count is of all.
const TOLD: usize = 32;
/// Characters of a name that are kept.
const LONGEST: usize = 256;

/// Where it goes.
#[derive(Clone)]
pub struct Verifications {
    applier: Applier,
    region: RegionName,
}

impl Verifications {
    /// For the RegionStack of this region.
    #[must_use]
    pub fn new(applier: Applier, region: RegionName) -> Self {
        Self { applier, region }
    }

    /// Keeps the newest.
    ///
    /// # Errors
    /// When it could not be written.
    pub async fn record(&self, verification: &Verification) -> Result<(), ApplyError> {
        let key = ObjectKey::cluster(REGION_STACK, self.region.as_str());
        let Some(stack) = self.applier.read(&key).await? else {
            return Ok(());
        };
        let Some(told) = news(&stack.data["status"]["verified"], verification) else {
            return Ok(());
        };
        let patch = Patch::Merge(json!({"status": {"verified": told}}));
        let params = merge_by("meridian-region-verified");
        let api = self.applier.api(&key);
        let write = api.patch_status(&key.name, &params, &patch);
        self.applier.write("verification", &key, write).await?;
        Ok(())
    }
}

/// What to write; nothing when the same was said a moment ago.
fn news(kept: &Value, verification: &Verification) -> Option<Value> {
    let found = verification
        .found
        .iter()
        .take(TOLD)
        .map(|found| violation(kept, found, verification.at));
    let told = json!({
        "revision": verification.revision, "at": verification.at.to_string(),
        "tables": verification.tables, "rows": verification.rows, "records": verification.records,
        "violations": verification.violations, "found": found.collect::<Vec<_>>(),
    });
    let same = ["revision", "violations", "found"]
        .iter()
        .all(|field| kept[field] == told[field]);
    let lately = looked_at(kept).is_some_and(|at| verification.at.duration_since(at) < SAID_AGAIN);
    (!(same && lately)).then_some(told)
}

fn violation(kept: &Value, found: &Found, at: Timestamp) -> Value {
    let short = |text: &str| text.chars().take(LONGEST).collect::<String>();
    let mut told = json!({"check": short(&found.check), "place": short(&found.place), "classes": found.classes, "count": found.count});
    if let Some(of) = &found.of {
        told["of"] = short(of).into();
    }
    let known = kept["found"].as_array().into_iter().flatten();
    let before = known
        .into_iter()
        .find(|known| ["check", "place", "of"].iter().all(|field| known[field] == told[field]));
    told["since"] = before.map_or_else(|| at.to_string().into(), |before| before["since"].clone());
    told
}

fn looked_at(kept: &Value) -> Option<Timestamp> {
    kept["at"].as_str()?.parse().ok()
}

/// The condition `ResidencyVerified`, by what is kept.
#[must_use]
pub fn condition(kept: &Value, now: Timestamp) -> Observation {
    let told = |status, reason, message| Observation::new("ResidencyVerified", status, reason, message);
    let Some(at) = looked_at(kept) else {
        let nothing = "the verifier has not looked at the region's databases yet";
        return told(Status::Unknown, "NotLookedYet", nothing.to_owned());
    };
    let count = |field: &str| kept[field].as_u64().unwrap_or_default();
    let (rows, records) = (count("rows"), count("records"));
    let violations = kept["violations"].as_u64().unwrap_or_default();
    if violations > 0 {
        let first = &kept["found"][0];
        let text = |field: &str| first[field].as_str().unwrap_or_default().to_owned();
        let message = format!(
            "{violations} violations; the first: {} of {} in {}, since {}",
            first["count"].as_u64().unwrap_or_default(),
            text("check"),
            text("place"),
            text("since")
        );
        return told(Status::False, "Violations", message);
    }
    if now.duration_since(at) > STALE {
        return told(
            Status::Unknown,
            "Stale",
            format!("the verifier has not looked since {at}"),
        );
    }
    told(
        Status::True,
        "Clean",
        format!("{rows} rows and {records} records of topics are where the policy lets them be"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_policy::PolicyRevision;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn verification(seconds: i64, places: &[&str]) -> Verification {
        let found = places.iter().map(|place| Found {
            check: "foreign-rows".to_owned(),
            place: (*place).to_owned(),
            of: Some("stride-eu".to_owned()),
            classes: vec![],
            count: 1,
        });
        Verification {
            revision: PolicyRevision(7),
            at: at(seconds),
            tables: 3,
            rows: 5,
            records: 4,
            violations: places.len() as u64,
            found: found.collect(),
        }
    }

    #[test]
    fn the_same_again_is_written_only_after_a_while_and_a_change_at_once() {
        let kept = news(&Value::Null, &verification(0, &[])).unwrap();
        assert_eq!(news(&kept, &verification(60, &[])), None);
        assert!(news(&kept, &verification(700, &[])).is_some());
        assert!(news(&kept, &verification(60, &["social.workout"])).is_some());
    }

    #[test]
    fn a_violation_keeps_the_moment_when_it_was_first_found() {
        let kept = news(&Value::Null, &verification(0, &["social.workout"])).unwrap();
        let told = news(&kept, &verification(60, &["social.follow", "social.workout"])).unwrap();
        let since: Vec<&str> = told["found"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|found| found["since"].as_str())
            .collect();
        assert_eq!(since, [at(60).to_string(), at(0).to_string()]);
    }

    #[test]
    fn who_has_not_looked_for_long_does_not_know() {
        assert_eq!(condition(&Value::Null, at(0)).status, Status::Unknown);
        let clean = news(&Value::Null, &verification(0, &[])).unwrap();
        assert_eq!(condition(&clean, at(60)).status, Status::True);
        assert_eq!(condition(&clean, at(3600)).status, Status::Unknown);
        // What was found is not forgotten because nobody looks.
        let found = news(&Value::Null, &verification(0, &["social.workout"])).unwrap();
        assert_eq!(condition(&found, at(3600)).status, Status::False);
    }
}
