//! Kubernetes Events about the hub's resources: each tells a change, not a pass.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use serde_json::Value;

use crate::apply::ApplyError;
use crate::events::{Events, Reason};
use crate::manifest::{ObjectKey, PRIVACY_INCIDENT, TENANT_DATA_RESIDENCY};

/// The condition that says whether a region's member answers.
const REACHABLE: &str = "ClustersReachable";

/// Tells how resources stand.
pub struct Reports {
    events: Events,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    /// What was told last of each object; empty where it is as planned.
    last: BTreeMap<ObjectKey, String>,
    /// Regions whose member was told not to answer.
    silent: BTreeSet<ObjectKey>,
}

/// What there is to tell of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Which Event.
    pub reason: Reason,
    /// In a sentence.
    pub note: String,
}

impl News {
    /// Of what a status says: none while the object is on its way, which would be told with every revision.
    #[must_use]
    pub fn of_status(status: &Value) -> Option<Self> {
        let (reason, condition) = match (holding(status, "Ready"), holding(status, "Stalled")) {
            (Some(ready), _) => (Reason::Ready, ready),
            (None, stalled) => {
                let stalled = stalled?;
                let reason = match stalled["reason"].as_str() {
                    Some("PolicyRefused") => Reason::PolicyRefused,
                    Some("OtherHub") => Reason::OtherHub,
                    Some("TenantsUnknown") => Reason::TenantsUnknown,
                    Some("RegionStalled") => Reason::NotReady,
                    _ => Reason::Invalid,
                };
                (reason, stalled)
            }
        };
        let note = condition["message"].as_str().unwrap_or_default().to_owned();
        Some(Self { reason, note })
    }

    /// Of what the status of a PrivacyIncident says: a deadline that was missed before one that is near.
    #[must_use]
    pub fn of_incident(status: &Value) -> Option<Self> {
        let deadlines = condition(status, "DeadlinesKept")?;
        let (reason, note) = match (holding(status, "Ready"), deadlines["reason"].as_str()) {
            (Some(ready), _) => (Reason::IncidentClosed, &ready["message"]),
            (None, Some("DeadlineMissed")) => (Reason::IncidentDeadlineMissed, &deadlines["message"]),
            (None, Some("DeadlineNear")) => (Reason::IncidentDeadlineNear, &deadlines["message"]),
            _ => (Reason::IncidentOpened, &Value::Null),
        };
        let note = note
            .as_str()
            .unwrap_or("legal clocks run: see status.clocks")
            .to_owned();
        Some(Self { reason, note })
    }

    fn of(key: &ObjectKey, status: &Value) -> Option<Self> {
        match key.kind {
            PRIVACY_INCIDENT => Self::of_incident(status),
            _ => Self::of_status(status),
        }
    }

    /// Of a write that failed; none where another replica is the one to tell.
    #[must_use]
    pub fn of_error(error: &ApplyError) -> Option<Self> {
        let reason = match error {
            ApplyError::NotLeader { .. } => return None,
            ApplyError::Foreign { .. } => Reason::ForeignObject,
            ApplyError::Api { .. } | ApplyError::Timeout { .. } | ApplyError::Overtaken { .. } => {
                Reason::ReconcileFailed
            }
        };
        let note = error.to_string();
        Some(Self { reason, note })
    }
}

impl Reports {
    /// Nothing has been told yet.
    #[must_use]
    pub fn new(events: Events) -> Self {
        Self {
            events,
            told: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how an object stands, unless that was told last: by this process or, as its status says, by another. Whether it
    /// was told.
    pub async fn tell(&self, key: &ObjectKey, object: &Value, news: News) -> bool {
        let new = self.is_new(key, &object["status"], &news);
        if new {
            self.publish(key, object, news).await;
        }
        new
    }

    /// Tells that a region's member does not answer or, if that was told, that it does again. `object` has the status from
    /// before.
    pub async fn tell_of_member(&self, key: &ObjectKey, object: &Value, status: &Value) {
        if let Some(news) = self.news_of_member(key, &object["status"], status) {
            self.publish(key, object, news).await;
        }
    }

    async fn publish(&self, key: &ObjectKey, object: &Value, News { reason, note }: News) {
        let about = ObjectReference {
            api_version: Some(key.kind.api_version()),
            kind: Some(key.kind.kind.to_owned()),
            name: Some(key.name.clone()),
            uid: object["metadata"]["uid"].as_str().map(ToOwned::to_owned),
            ..ObjectReference::default()
        };
        self.events.report(&about, reason, &note).await;
    }

    fn is_new(&self, key: &ObjectKey, before: &Value, news: &News) -> bool {
        let line = |news: &News| match news.reason {
            Reason::Ready => String::new(),
            _ => news.note.clone(),
        };
        let now = line(news);
        let last = self.lock().last.insert(key.clone(), now.clone());
        let last = last.or_else(|| News::of(key, before).as_ref().map(line));
        // Ten thousand tenants that are as planned from their first day are no news.
        let is_first_day = last.is_none() && news.reason == Reason::Ready && key.kind == TENANT_DATA_RESIDENCY;
        last.as_ref() != Some(&now) && !is_first_day
    }

    fn news_of_member(&self, key: &ObjectKey, before: &Value, now: &Value) -> Option<News> {
        let was_silent = condition(before, REACHABLE).is_some_and(|known| known["status"] == "False");
        let reachable = condition(now, REACHABLE)?;
        let mut told = self.lock();
        let (is_news, reason) = match reachable["status"].as_str()? {
            "False" => (
                told.silent.insert(key.clone()) && !was_silent,
                Reason::MemberUnreachable,
            ),
            "True" => (told.silent.remove(key) || was_silent, Reason::MemberReachable),
            _ => return None,
        };
        let note = reachable["message"].as_str().unwrap_or_default().to_owned();
        is_news.then_some(News { reason, note })
    }

    /// The object is gone.
    pub fn forget(&self, key: &ObjectKey) {
        let mut told = self.lock();
        told.last.remove(key);
        told.silent.remove(key);
    }
}

/// The rules that refuse something of a tenant which they did not refuse before, by its status from before and its new one.
pub fn newly_refused<'a>(before: &Value, now: &'a Value) -> impl Iterator<Item = &'a str> {
    let known: BTreeSet<(String, String)> = violations(before)
        .map(|(rule, path)| (rule.to_owned(), path.to_owned()))
        .collect();
    violations(now)
        .filter(move |(rule, path)| !known.contains(&((*rule).to_owned(), (*path).to_owned())))
        .map(|(rule, _)| rule)
}

fn violations(status: &Value) -> impl Iterator<Item = (&str, &str)> {
    let found = status["violations"].as_array().into_iter().flatten();
    found.filter_map(|found| Some((found["rule"].as_str()?, found["path"].as_str()?)))
}

fn holding<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    condition(status, kind).filter(|condition| condition["status"] == "True")
}

fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|condition| condition["type"] == kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{FITNESS_REGION, Kind};
    use crate::metrics::Metrics;
    use serde_json::json;

    fn status(kind: &str, holds: &str, reason: &str, message: &str) -> Value {
        json!({"conditions": [{"type": kind, "status": holds, "reason": reason, "message": message}]})
    }

    fn refused(message: &str) -> Value {
        status("Stalled", "True", "PolicyRefused", message)
    }

    fn key(kind: Kind) -> ObjectKey {
        ObjectKey::cluster(kind, "eu")
    }

    fn reports() -> Reports {
        meridian_kit::tls::install_crypto_provider();
        let nowhere = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let client = kube::Client::try_from(nowhere).unwrap();
        Reports::new(Events::new(client, "test", "test", Metrics::default()))
    }

    #[tokio::test]
    async fn a_change_is_told_once_and_what_is_on_its_way_is_no_news() {
        let (reports, key) = (reports(), key(FITNESS_REGION));
        let is_new = |before: &Value, now: &Value| reports.is_new(&key, before, &News::of_status(now).unwrap());
        let ready = status("Ready", "True", "AsPlanned", "");
        assert_eq!(
            News::of_status(&status("Reconciling", "True", "Progressing", "soon")),
            None
        );
        assert!(is_new(&json!({}), &refused("no-edge")));
        assert!(!is_new(&json!({}), &refused("no-edge")));
        assert!(is_new(&json!({}), &refused("tia")));
        assert!(is_new(&json!({}), &ready));
        assert!(!is_new(&json!({}), &ready));
        reports.forget(&key);
        assert!(!is_new(&ready, &ready), "an earlier leader has told it");
        reports.forget(&key);
        assert!(!is_new(&refused("tia"), &refused("tia")));
    }

    #[tokio::test]
    async fn a_tenant_that_is_as_planned_from_its_first_day_is_no_news() {
        let (reports, key) = (reports(), key(TENANT_DATA_RESIDENCY));
        let is_new = |now: &Value| reports.is_new(&key, &json!({}), &News::of_status(now).unwrap());
        let ready = status("Ready", "True", "AsPlanned", "");
        assert!(!is_new(&ready));
        assert!(is_new(&refused("no-edge")));
        assert!(is_new(&ready), "it was not, and is again");
    }

    #[tokio::test]
    async fn a_member_is_told_of_when_it_stops_and_when_it_begins_again_to_answer() {
        let (reports, key) = (reports(), key(FITNESS_REGION));
        let reachable = |holds| status(REACHABLE, holds, "", "");
        let reason = |before: &Value, now: &Value| reports.news_of_member(&key, before, now).map(|news| news.reason);
        assert_eq!(reason(&json!({}), &reachable("True")), None);
        assert_eq!(
            reason(&reachable("True"), &reachable("False")),
            Some(Reason::MemberUnreachable)
        );
        assert_eq!(reason(&reachable("False"), &reachable("False")), None);
        assert_eq!(reason(&reachable("False"), &reachable("Unknown")), None);
        assert_eq!(
            reason(&reachable("Unknown"), &reachable("True")),
            Some(Reason::MemberReachable)
        );
        assert_eq!(
            reason(&reachable("False"), &reachable("True")),
            Some(Reason::MemberReachable),
            "of an earlier leader"
        );
    }

    #[test]
    fn a_refusal_counts_once() {
        let violations = |rules: &[&str]| {
            let found: Vec<Value> = rules.iter().map(|rule| json!({"rule": rule, "path": "spec"})).collect();
            json!({ "violations": found })
        };
        let newly = |before: &[&str], now: &[&str]| newly_refused(&violations(before), &violations(now)).count();
        assert_eq!(newly(&[], &["no-edge", "tia-missing"]), 2);
        assert_eq!(newly(&["no-edge"], &["no-edge", "tia-missing"]), 1);
        assert_eq!(newly(&["no-edge"], &[]), 0);
    }
}
