//! The condition `InstrumentsCurrent`: whether what edges rest on (mechanisms, certifications, assessments, the tenant's own
//! dates) is in force, and how soon it ends. Pure. The moments at which it changes are moments at which the policy is looked
//! at anew, so that in between every pass says the same.

use meridian_policy::{Ending, ExpiryWarning, Instruments, Soon};

use crate::conditions::Observation;

/// The condition's type.
pub const INSTRUMENTS_CURRENT: &str = "InstrumentsCurrent";

/// What is seen.
pub(super) fn observation(instruments: &Instruments) -> Observation {
    if let Some((edge, denial)) = instruments.lapsed.first_key_value() {
        let message = format!(
            "{edge}: {denial}{}",
            others(instruments.lapsed.len(), "edge(s) have lapsed")
        );
        return Observation::new(INSTRUMENTS_CURRENT, false, "Lapsed", message);
    }
    let Some(soonest) = instruments.ending.first() else {
        let message = "nothing that an edge rests on ends within 60 days";
        return Observation::new(INSTRUMENTS_CURRENT, true, "NothingEnding", message);
    };
    let reason = match soonest.soon {
        Soon::Days7 => "Expiring7",
        Soon::Days30 => "Expiring30",
        Soon::Days60 => "Expiring60",
    };
    let message = format!(
        "{}{}",
        sentence(soonest),
        others(instruments.ending.len(), "end within 60 days")
    );
    Observation::new(INSTRUMENTS_CURRENT, true, reason, message)
}

fn others(all: usize, what: &str) -> String {
    match all {
        0 | 1 => String::new(),
        all => format!("; {} more {what}", all - 1),
    }
}

fn sentence(warning: &ExpiryWarning) -> String {
    let what = match &warning.ending {
        Ending::Mechanism {
            from,
            to,
            mechanism,
            instrument,
            ..
        } => format!("{mechanism} '{instrument}' from {from} to {to}"),
        Ending::Certification { party, instrument } => format!("the certification of {party} under '{instrument}'"),
        Ending::Assessment { edge } => format!("the assessment of {edge}"),
        Ending::Edge { edge } => format!("edge {edge}"),
    };
    format!(
        "{what} ends on {} unless it is prolonged; {} edge(s) rest on it",
        warning.ends,
        warning.edges.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::Status;
    use meridian_policy::{Denial, LegalFramework, Rule};
    use std::collections::BTreeSet;

    fn warning(soon: Soon, ends: &str) -> ExpiryWarning {
        ExpiryWarning {
            soon,
            ends: ends.parse().unwrap(),
            ending: Ending::Certification {
                party: "stride-inc".parse().unwrap(),
                instrument: "EU-US DPF".to_owned(),
            },
            edges: BTreeSet::from(["stride-eu.health.us".parse().unwrap()]),
        }
    }

    #[test]
    fn the_soonest_end_gives_the_reason_and_what_is_in_force_holds() {
        assert_eq!(observation(&Instruments::default()).reason, "NothingEnding");
        for (soon, reason) in [
            (Soon::Days60, "Expiring60"),
            (Soon::Days30, "Expiring30"),
            (Soon::Days7, "Expiring7"),
        ] {
            let ending = vec![
                warning(soon, "2026-12-20T00:00:00Z"),
                warning(Soon::Days60, "2027-01-20T00:00:00Z"),
            ];
            let seen = observation(&Instruments {
                ending,
                ..Instruments::default()
            });
            assert_eq!((seen.reason, seen.status), (reason, Status::True));
            assert_eq!(
                seen.message,
                "the certification of stride-inc under 'EU-US DPF' ends on 2026-12-20T00:00:00Z unless it is prolonged; \
                 1 edge(s) rest on it; 1 more end within 60 days"
            );
        }
    }

    #[test]
    fn what_has_ended_is_not_current_whatever_else_ends() {
        let denial = Denial {
            rule: Rule::MechanismExpired,
            reason: "it ended".to_owned(),
            article: Rule::MechanismExpired.article(LegalFramework::Gdpr),
        };
        let seen = observation(&Instruments {
            lapsed: [("stride-eu.health.us".parse().unwrap(), denial)].into(),
            ending: vec![warning(Soon::Days7, "2026-12-20T00:00:00Z")],
        });
        assert_eq!((seen.reason, seen.status), ("Lapsed", Status::False));
        assert_eq!(seen.message, "stride-eu.health.us: mechanism-expired: it ended");
    }
}
