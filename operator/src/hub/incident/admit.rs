//! What is refused of a PrivacyIncident at `kubectl apply`, beside what its definition refuses. Pure.

use jiff::Timestamp;
use meridian_crds::PrivacyIncidentSpec;
use meridian_policy::PolicySource;

use super::clocks::{by_source, owed, told};

/// Refuses a notice under a name that no law concerned has, and a closing while notices are owed. What was so before may
/// stay.
///
/// # Errors
/// The field, and what is allowed.
pub(crate) fn change(
    old: &PrivacyIncidentSpec,
    new: &PrivacyIncidentSpec,
    source: &PolicySource,
    now: Timestamp,
) -> Result<(), String> {
    let clocks = by_source(new, source, now);
    let is_known = |law: &str, notice: &str| {
        let mut all = clocks.iter();
        all.any(|clock| clock.jurisdiction.as_str() == law && clock.notice == notice)
    };
    for (at, notice) in new
        .notices
        .iter()
        .enumerate()
        .filter(|(_, notice)| !old.notices.contains(notice))
    {
        if !is_known(notice.jurisdiction.as_str(), &notice.notice) {
            let names: Vec<String> = clocks
                .iter()
                .map(|clock| format!("{}/{}", clock.jurisdiction, clock.notice))
                .collect();
            return Err(format!(
                "spec.notices[{at}]: no law concerned has a notice {}/{}; allowed: {}",
                notice.jurisdiction,
                notice.notice,
                names.join(", ")
            ));
        }
        if notice.at > now {
            return Err(format!(
                "spec.notices[{at}].at: {} is yet to come; allowed: until now",
                notice.at
            ));
        }
    }
    if new.closed.is_none() || old.closed.is_some() {
        return Ok(());
    }
    let left: Vec<String> = owed(&clocks).map(told).collect();
    match left.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "spec.closed: notices are owed: {}; record each in spec.notices (jurisdiction, notice, at, reference), or say in \
             spec.assessment why it is not owed: risk Unlikely, Risk or High, and because (GDPR Art 33(1): unlikely to result \
             in a risk)",
            left.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_crds::Jurisdiction;
    use serde_json::{Value, json};

    fn source() -> PolicySource {
        let text = include_str!("../../../../regions/jurisdictions/eu.yaml");
        let law: Jurisdiction = serde_yaml::from_str(text).unwrap();
        PolicySource {
            jurisdictions: [("eu".parse().unwrap(), law.spec.law)].into(),
            ..PolicySource::default()
        }
    }

    fn spec(more: Value) -> PrivacyIncidentSpec {
        let mut spec = json!({"region": "eu", "kind": "Other", "detectedAt": "2026-11-27T12:00:00Z", "jurisdictions": ["eu"],
            "acknowledged": {"awareSince": "2026-11-27T12:00:00Z"}});
        for (field, value) in more.as_object().unwrap() {
            spec[field.as_str()] = value.clone();
        }
        serde_json::from_value(spec).unwrap()
    }

    fn said(more: Value) -> String {
        let now = "2026-11-28T12:00:00Z".parse().unwrap();
        change(&spec(json!({})), &spec(more), &source(), now)
            .err()
            .unwrap_or_default()
    }

    fn closing(risk: &str, notices: Value) -> Value {
        json!({"notices": notices, "assessment": {"risk": risk, "because": "as counsel has written down"},
            "closed": {"at": "2026-11-28T11:00:00Z", "because": "the rows are gone"}})
    }

    fn notice(name: &str, at: &str) -> Value {
        json!([{"jurisdiction": "eu", "notice": name, "at": at, "reference": "A-1"}])
    }

    #[test]
    fn what_is_owed_has_to_be_given_or_assessed_before_it_is_closed() {
        let refused = said(closing("Risk", json!([])));
        assert!(
            refused.starts_with("spec.closed: notices are owed: eu/authority (GDPR Art 33(1))"),
            "{refused}"
        );
        assert!(
            said(closing("High", notice("authority", "2026-11-28T10:00:00Z"))).contains("eu/subjects (GDPR Art 34(1))")
        );
        assert_eq!(said(closing("Risk", notice("authority", "2026-11-28T10:00:00Z"))), "");
        assert_eq!(said(closing("Unlikely", json!([]))), "");
    }

    #[test]
    fn a_notice_has_a_name_that_the_law_has_and_a_time_that_has_come() {
        let wrong = said(json!({"notices": notice("autority", "2026-11-28T10:00:00Z")}));
        assert!(
            wrong.contains("spec.notices[0]") && wrong.contains("allowed: eu/authority, eu/subjects"),
            "{wrong}"
        );
        assert!(said(json!({"notices": notice("authority", "2026-11-29T10:00:00Z")})).contains("yet to come"));
    }
}
