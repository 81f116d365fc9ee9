//! What a PrivacyIncident's status says. Pure.

use jiff::Timestamp;
use meridian_crds::{ClockState, IncidentPhase, LegalClock, PrivacyIncidentSpec};
use serde_json::{Value, json};

use super::clocks::{owed, told};
use crate::conditions::Observation;

/// Clocks that a sentence names.
const NAMED: usize = 4;

/// Where it stands.
pub(super) fn phase(spec: &PrivacyIncidentSpec, clocks: &[LegalClock]) -> IncidentPhase {
    let nothing_owed = owed(clocks).next().is_none();
    match (&spec.closed, &spec.acknowledged) {
        (Some(_), _) if nothing_owed => IncidentPhase::Closed,
        (_, Some(_)) if nothing_owed => IncidentPhase::Notified,
        (_, Some(_)) => IncidentPhase::Acknowledged,
        (_, None) => IncidentPhase::Open,
    }
}

/// The first deadline of a notice that is owed, also when it has passed.
pub(super) fn next_due(clocks: &[LegalClock]) -> Option<Timestamp> {
    owed(clocks).filter_map(|clock| clock.due).min()
}

/// The conditions.
pub(super) fn observations(spec: &PrivacyIncidentSpec, clocks: &[LegalClock]) -> Vec<Observation> {
    let mut all = standing(spec, clocks);
    all.push(match &spec.acknowledged {
        Some(_) => Observation::new(
            "Acknowledged",
            true,
            "ByAPerson",
            "a person has confirmed since when it is known",
        ),
        None => Observation::new(
            "Acknowledged",
            false,
            "NotYet",
            "set spec.acknowledged.awareSince; until then the clocks run since detectedAt",
        ),
    });
    let left: Vec<&LegalClock> = owed(clocks).collect();
    all.push(match left.is_empty() {
        true => Observation::new("NoticesGiven", true, "NoneOwed", "no notice is owed any more"),
        false => Observation::new(
            "NoticesGiven",
            false,
            "NoticesOwed",
            format!("owed and not recorded in spec.notices: {}", listed(left.into_iter())),
        ),
    });
    all.push(deadlines(clocks));
    all
}

fn standing(spec: &PrivacyIncidentSpec, clocks: &[LegalClock]) -> Vec<Observation> {
    let three = |ready: bool, on_the_way: bool, stalled: bool, reason: &'static str, message: String| {
        vec![
            Observation::new("Ready", ready, reason, message.clone()),
            Observation::new(
                "Reconciling",
                on_the_way,
                reason,
                if on_the_way { message.clone() } else { String::new() },
            ),
            Observation::new(
                "Stalled",
                stalled,
                reason,
                if stalled { message } else { String::new() },
            ),
        ]
    };
    let overdue = || clocks.iter().filter(|clock| clock.state == ClockState::Overdue);
    let left: Vec<&LegalClock> = owed(clocks).collect();
    match (&spec.closed, left.is_empty()) {
        (Some(_), true) => three(true, false, false, "Closed", "closed, and no notice is owed".to_owned()),
        (_, false) if overdue().next().is_some() => {
            let message = format!(
                "a deadline was missed: {}; give the notice and record it",
                listed(overdue())
            );
            three(false, false, true, "DeadlineMissed", message)
        }
        (Some(_), false) => {
            let message = format!(
                "closed although notices are owed: {}; record them",
                listed(left.into_iter())
            );
            three(false, false, true, "NoticesOwed", message)
        }
        (None, false) => {
            let message = format!("a person has to give notice: {}", listed(left.into_iter()));
            three(false, true, false, "NoticesOwed", message)
        }
        (None, true) => three(
            false,
            true,
            false,
            "NotClosed",
            "a person has to close it in spec.closed".to_owned(),
        ),
    }
}

fn deadlines(clocks: &[LegalClock]) -> Observation {
    let of = |state: ClockState| clocks.iter().filter(move |clock| clock.state == state);
    let kind = "DeadlinesKept";
    if of(ClockState::Overdue).next().is_some() {
        return Observation::new(kind, false, "DeadlineMissed", listed(of(ClockState::Overdue)));
    }
    if of(ClockState::NotifiedLate).next().is_some() {
        return Observation::new(kind, false, "NotifiedLate", listed(of(ClockState::NotifiedLate)));
    }
    if of(ClockState::Near).next().is_some() {
        let message = format!("ends within 24 hours: {}", listed(of(ClockState::Near)));
        return Observation::new(kind, true, "DeadlineNear", message);
    }
    Observation::new(kind, true, "InTime", "no deadline was missed")
}

fn listed<'a>(clocks: impl Iterator<Item = &'a LegalClock>) -> String {
    let all: Vec<String> = clocks.map(told).collect();
    match all.len() {
        few if few <= NAMED => all.join(", "),
        many => format!("{} and {} more", all[..NAMED].join(", "), many - NAMED),
    }
}

/// The status without its conditions.
pub(super) fn rest(spec: &PrivacyIncidentSpec, clocks: &[LegalClock], still_found: Option<u64>) -> Value {
    let mut status = json!({
        "phase": phase(spec, clocks),
        "owed": owed(clocks).count(),
        "clocks": clocks,
    });
    if let Some(due) = next_due(clocks) {
        status["nextDue"] = json!(due);
    }
    if let Some(count) = still_found {
        status["stillFound"] = json!(count);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_policy::NoticeRecipient;

    fn spec(more: Value) -> PrivacyIncidentSpec {
        let mut spec = json!({"region": "us", "kind": "Other", "detectedAt": "2026-11-27T12:00:00Z"});
        for (field, value) in more.as_object().unwrap() {
            spec[field.as_str()] = value.clone();
        }
        serde_json::from_value(spec).unwrap()
    }

    fn clock(state: ClockState) -> LegalClock {
        LegalClock {
            jurisdiction: "eu".parse().unwrap(),
            notice: "authority".to_owned(),
            to: NoticeRecipient::Authority,
            recipient: "somebody".to_owned(),
            article: "GDPR Art 33(1)".to_owned(),
            term: "72 hours".to_owned(),
            started: Timestamp::UNIX_EPOCH,
            due: Some(Timestamp::UNIX_EPOCH),
            state,
        }
    }

    /// Which of the three that kstatus reads holds, why, and the phase.
    fn stands(more: Value, state: ClockState) -> (&'static str, &'static str, IncidentPhase) {
        let (spec, clocks) = (spec(more), [clock(state)]);
        let all = observations(&spec, &clocks);
        let holds: Vec<_> = all[..3].iter().filter(|one| one.holds()).collect();
        assert_eq!(holds.len(), 1, "{all:?}");
        (holds[0].kind, holds[0].reason, phase(&spec, &clocks))
    }

    #[test]
    fn an_incident_is_ready_when_it_is_closed_and_nothing_is_owed_and_not_before() {
        let known = json!({"awareSince": "2026-11-27T12:00:00Z"});
        let closed =
            json!({"acknowledged": known, "closed": {"at": "2026-11-28T12:00:00Z", "because": "the rows are gone"}});
        let acknowledged = json!({"acknowledged": known});
        for (spec, state, expected) in [
            (
                json!({}),
                ClockState::Running,
                ("Reconciling", "NoticesOwed", IncidentPhase::Open),
            ),
            (
                json!({}),
                ClockState::Overdue,
                ("Stalled", "DeadlineMissed", IncidentPhase::Open),
            ),
            (
                acknowledged.clone(),
                ClockState::Near,
                ("Reconciling", "NoticesOwed", IncidentPhase::Acknowledged),
            ),
            (
                acknowledged,
                ClockState::Notified,
                ("Reconciling", "NotClosed", IncidentPhase::Notified),
            ),
            (
                closed.clone(),
                ClockState::Running,
                ("Stalled", "NoticesOwed", IncidentPhase::Acknowledged),
            ),
            (
                closed.clone(),
                ClockState::NotOwed,
                ("Ready", "Closed", IncidentPhase::Closed),
            ),
            (
                closed,
                ClockState::NotifiedLate,
                ("Ready", "Closed", IncidentPhase::Closed),
            ),
        ] {
            assert_eq!(stands(spec, state), expected, "{state:?}");
        }
    }

    #[test]
    fn a_deadline_that_was_missed_stays_said_once_the_notice_was_given() {
        let said = |state| (deadlines(&[clock(state)]).holds(), deadlines(&[clock(state)]).reason);
        assert_eq!(said(ClockState::Running), (true, "InTime"));
        assert_eq!(said(ClockState::Near), (true, "DeadlineNear"));
        assert_eq!(said(ClockState::Overdue), (false, "DeadlineMissed"));
        assert_eq!(said(ClockState::NotifiedLate), (false, "NotifiedLate"));
    }
}
