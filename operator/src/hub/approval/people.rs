//! Who wrote a change and who approves it, and whether these are enough people. Pure.
//!
//! The hub's API server stamps who wrote each generation into an annotation (a MutatingAdmissionPolicy of the chart) and
//! lets nobody stamp for another (a ValidatingAdmissionPolicy). Where a generation has no stamp, its author is not known:
//! then two different people must approve, of whom one may be the author.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use kube::api::DynamicObject;
use meridian_crds::{ApprovedKind, PolicyApprovalSpec};
use serde::Deserialize;

use crate::manifest::{FITNESS_REGION, JURISDICTION, Kind, ObjectKey, PARTY, POLICY_APPROVAL, TENANT_DATA_RESIDENCY};
use crate::watch::Cache;

/// Annotation with who wrote which generation of the spec: `USER@GENERATION,…`.
pub const AUTHORS_ANNOTATION: &str = "meridian.sh/authors";
/// An approval counts no longer than this, whatever it says.
const LONGEST: SignedDuration = SignedDuration::from_hours(30 * 24);
/// An admission policy is in force some time after it was made: what was approved before then, nobody has checked.
const IN_FORCE_AFTER: SignedDuration = SignedDuration::from_secs(5);

/// Who wrote the generations after `since` until `generation`; nothing where that is not known of each of them, or where
/// nobody wrote anything since: then it opens by what others did.
pub(crate) fn authors(stamps: &str, since: i64, generation: i64) -> Option<BTreeSet<String>> {
    let stamps: Vec<(&str, i64)> = stamps
        .split(',')
        .filter_map(|stamp| stamp.rsplit_once('@'))
        .filter_map(|(user, written)| Some((user, written.parse().ok()?)))
        .filter(|(user, written)| !user.is_empty() && (since..=generation).contains(written) && *written > since)
        .collect();
    let known: BTreeSet<i64> = stamps.iter().map(|(_, written)| *written).collect();
    let all = since < generation && i64::try_from(known.len()).ok()? == generation - since;
    all.then(|| stamps.into_iter().map(|(user, _)| user.to_owned()).collect())
}

/// Whether a change is approved: by another person than its authors, or by two where those are not known.
pub(crate) fn are_enough(approvers: &BTreeSet<String>, authors: Option<&BTreeSet<String>>) -> bool {
    match authors {
        Some(authors) => approvers.iter().any(|approver| !authors.contains(approver)),
        None => approvers.len() > 1,
    }
}

/// An approval that counts.
#[derive(Clone, Debug)]
pub(crate) struct Approval {
    of: ObjectKey,
    digest: String,
    approver: String,
}

#[cfg(test)]
impl Approval {
    pub(crate) fn of(of: ObjectKey, digest: &str, approver: &str) -> Self {
        let (digest, approver) = (digest.to_owned(), approver.to_owned());
        Self { of, digest, approver }
    }
}

/// Who has approved this change of this resource.
pub(crate) fn approvers(approvals: &[Approval], key: &ObjectKey, digest: &str) -> BTreeSet<String> {
    let of = |approval: &&Approval| approval.of == *key && approval.digest == digest;
    approvals
        .iter()
        .filter(of)
        .map(|approval| approval.approver.clone())
        .collect()
}

/// UIDs of approvals of which the API server has checked who wrote them.
pub(crate) type Checked = BTreeSet<String>;

/// Which approvals are checked, where that has been done since `guarded`, without a break until now.
pub(crate) fn checked(hub: &Cache, guarded: Timestamp) -> Checked {
    let approvals = hub.of_kind(POLICY_APPROVAL).into_iter();
    approvals
        .filter(|(_, object)| is_checked(object, guarded))
        .filter_map(|(_, object)| object.metadata.uid.clone())
        .collect()
}

fn is_checked(object: &DynamicObject, guarded: Timestamp) -> bool {
    let made = object.metadata.creation_timestamp.as_ref();
    made.is_some_and(|made| made.0 > guarded + IN_FORCE_AFTER)
}

/// The approvals that count now.
pub(crate) fn counting(hub: &Cache, checked: &Checked, now: Timestamp) -> Vec<Approval> {
    let approvals = hub.of_kind(POLICY_APPROVAL).into_iter();
    let checked = approvals.filter(|(_, object)| object.metadata.uid.as_ref().is_some_and(|uid| checked.contains(uid)));
    checked.filter_map(|(_, object)| counted(&object, now)).collect()
}

fn counted(object: &DynamicObject, now: Timestamp) -> Option<Approval> {
    let made = object.metadata.creation_timestamp.as_ref()?.0;
    let spec = PolicyApprovalSpec::deserialize(&object.data["spec"]).ok()?;
    let counts = now < spec.expires && now < made + LONGEST;
    (counts && object.metadata.deletion_timestamp.is_none()).then(|| Approval {
        of: ObjectKey::cluster(kind(spec.kind), &spec.name),
        digest: spec.digest,
        // As authors are stamped: a comma would end a name there.
        approver: spec.approver.replace(',', ";"),
    })
}

const fn kind(of: ApprovedKind) -> Kind {
    match of {
        ApprovedKind::Jurisdiction => JURISDICTION,
        ApprovedKind::Party => PARTY,
        ApprovedKind::FitnessRegion => FITNESS_REGION,
        ApprovedKind::TenantDataResidency => TENANT_DATA_RESIDENCY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn people(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn all_who_wrote_since_the_last_approval_are_authors() {
        let stamps = "ada@1,ben@2,cy@example.org@3";
        assert_eq!(authors(stamps, 1, 3), Some(people(&["ben", "cy@example.org"])));
        assert_eq!(authors(stamps, 0, 3), Some(people(&["ada", "ben", "cy@example.org"])));
    }

    #[test]
    fn a_generation_without_a_stamp_has_an_unknown_author() {
        for (stamps, since, generation) in [
            ("", 0, 1),
            ("ada@1", 0, 2),
            ("ada@2", 0, 2),
            ("ada@1,ben@3", 0, 3),
            ("@1", 0, 1),
            ("ada@x", 0, 1),
            ("ada", 0, 1),
            ("ada@1", 1, 1),
        ] {
            assert_eq!(authors(stamps, since, generation), None, "{stamps}");
        }
    }

    #[test]
    fn nobody_approves_what_they_wrote_themselves() {
        assert!(!are_enough(&people(&["ada"]), Some(&people(&["ada", "ben"]))));
        assert!(are_enough(&people(&["ada", "cy"]), Some(&people(&["ada", "ben"]))));
        assert!(!are_enough(&people(&[]), Some(&people(&["ada"]))));
    }

    #[test]
    fn where_the_author_is_not_known_two_people_approve() {
        assert!(!are_enough(&people(&["ada"]), None));
        assert!(are_enough(&people(&["ada", "ben"]), None));
    }

    #[test]
    fn an_approval_counts_while_it_is_checked_and_not_expired() {
        let mut object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "meridian.sh/v1alpha1", "kind": "PolicyApproval",
            "metadata": {"name": "a", "creationTimestamp": "2026-11-26T12:00:00Z"},
            "spec": {"kind": "TenantDataResidency", "name": "stride-eu", "digest": format!("sha256:{}", "0".repeat(64)),
                "approver": "ben", "expires": "2027-06-01T00:00:00Z"},
        }))
        .unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert!(is_checked(&object, at("2026-11-26T11:59:00Z")));
        assert!(
            !is_checked(&object, at("2026-11-26T11:59:59Z")),
            "nobody checked who that is"
        );
        assert!(counted(&object, at("2026-11-27T12:00:00Z")).is_some());
        assert!(
            counted(&object, at("2026-12-26T12:00:00Z")).is_none(),
            "30 days are the most"
        );
        object.data["spec"]["expires"] = json!("2026-11-27T12:00:00Z");
        assert!(counted(&object, at("2026-11-27T12:00:00Z")).is_none(), "it has expired");
    }
}
