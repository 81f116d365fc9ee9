//! What an importer lets in: the exporter has decided already; the importer decides again by its own policy.

use jiff::{SignedDuration, Timestamp};
use meridian_evidence::entry::MOST_COMMITMENTS;
use meridian_policy::{CompiledEdge, DataClass, EdgeId, RegionName, Rule};
use uuid::Uuid;

use super::edges::EdgeState;

/// Events in one batch at most.
pub const LARGEST_BATCH: usize = 1000;
/// An entry of evidence commits to everybody in a batch, also in one that is refused for having one too many.
const _: () = assert!(LARGEST_BATCH < MOST_COMMITMENTS);
/// Bytes that each event of a batch may have on the average.
pub const BYTES_OF_AN_EVENT: usize = 2048;
/// Events that an importer is sent in one batch which does not say how many it takes: all but the first version take them.
pub const TAKEN_UNSAID: usize = 500;
/// Events that importers of every version take in one batch.
pub const ALWAYS_TAKEN: usize = 100;

/// What the envelope of one arriving event claims.
#[derive(Clone, Debug)]
pub struct Arriving {
    /// Its id, unique at the exporter.
    pub id: Uuid,
    /// Along which edge.
    pub edge: Option<EdgeId>,
    /// From which region.
    pub origin: Option<RegionName>,
    /// Its class.
    pub class: DataClass,
    /// The moment it names.
    pub time: Timestamp,
    /// When it must be deleted.
    pub expires: Option<Timestamp>,
    /// Its fields.
    pub fields: Vec<String>,
}

/// Why nothing of a batch is let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// Our policy refuses.
    #[error("the importer's policy refuses: {reason}")]
    Policy {
        /// By this rule.
        rule: Rule,
        /// In words.
        reason: String,
    },
    /// Our policy has the edge, and we cannot obey it as it is told.
    #[error("what the importer's policy says of the edge is not understood here: it is upgraded first")]
    NotUnderstood,
    /// The copies are to another tenant than our policy has for the edge.
    #[error("the exporter's policy has another tenant for the edge: one of the two policies is older")]
    OtherTenant,
    /// The claimed origin is not who sent it.
    #[error("the batch claims another origin than its sender's certificate")]
    Impostor,
    /// The edge is being cut.
    #[error("the edge is being cut here: its copies are being purged")]
    BeingCut,
    /// The batch is larger than [`LARGEST_BATCH`].
    #[error("a batch has 1 to {LARGEST_BATCH} events")]
    Size,
}

impl NotAdmitted {
    /// The code in the problem body and the exporter's evidence.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Policy { rule, .. } => rule.as_str(),
            Self::NotUnderstood => "edge-not-understood",
            Self::OtherTenant => "policies-differ",
            Self::Impostor => "origin-not-proved",
            Self::BeingCut => "edge-being-cut",
            Self::Size => "batch-size",
        }
    }
}

fn refuse(rule: Rule, reason: impl Into<String>) -> NotAdmitted {
    NotAdmitted::Policy {
        rule,
        reason: reason.into(),
    }
}

/// Whether anything may come along `edge` (none: our policy has no such import) from `sender` at `now`.
///
/// # Errors
/// It may not.
pub fn admit_edge<'a>(
    edge: Option<&'a CompiledEdge>,
    sender: &RegionName,
    state: Option<EdgeState>,
    now: Timestamp,
) -> Result<&'a CompiledEdge, NotAdmitted> {
    let edge = edge.ok_or_else(|| refuse(Rule::NoEdge, "no such import edge"))?;
    if edge.from != *sender {
        return Err(NotAdmitted::Impostor);
    }
    edge.lawful_at(now)
        .map_err(|denial| refuse(denial.rule, denial.reason))?;
    match state {
        Some(EdgeState::Cutting) => Err(NotAdmitted::BeingCut),
        Some(EdgeState::Open | EdgeState::Cut) | None => Ok(edge),
    }
}

/// Whether a batch may come in; all of it or nothing.
///
/// # Errors
/// Something in it is not the edge's.
pub fn admit(batch: &[Arriving], edge: &CompiledEdge, now: Timestamp) -> Result<(), NotAdmitted> {
    if batch.is_empty() || batch.len() > LARGEST_BATCH {
        return Err(NotAdmitted::Size);
    }
    for event in batch {
        if event.edge.as_ref() != Some(&edge.id) || event.origin.as_ref() != Some(&edge.from) {
            return Err(NotAdmitted::Impostor);
        }
        if event.class != edge.class {
            return Err(refuse(
                Rule::ClassNotListed,
                format!("the edge carries {}, not {}", edge.class, event.class),
            ));
        }
        if let Some(field) = event.fields.iter().find(|field| !edge.fields.contains(field.as_str())) {
            return Err(refuse(
                Rule::FieldNotAllowed,
                format!("`{field}` is not a field of the edge"),
            ));
        }
        let expires = event
            .expires
            .ok_or_else(|| refuse(Rule::MechanismExpired, "a copy without an expiry"))?;
        if expires <= now || expires > edge.expires {
            return Err(refuse(
                Rule::MechanismExpired,
                "a copy that would outlive its edge, or has expired",
            ));
        }
        if event
            .time
            .as_second()
            .rem_euclid(SignedDuration::from_hours(24).as_secs())
            != 0
        {
            return Err(refuse(Rule::FieldNotAllowed, "a time finer than the day"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixtures::{at, edge};
    use crate::domain::outgoing::day_of;

    fn arriving() -> Arriving {
        Arriving {
            id: Uuid::from_u128(1),
            edge: Some(edge(&[]).id),
            origin: Some("eu".parse().unwrap()),
            class: DataClass::WorkoutSummary,
            time: day_of(at(0)),
            expires: Some(at(60)),
            fields: ["sport_type".to_owned()].into(),
        }
    }

    #[test]
    fn the_table_of_batches() {
        let edge = edge(&["sport_type"]);
        let rule = |rule: Rule| rule.as_str();
        let with = |change: fn(&mut Arriving)| {
            let mut event = arriving();
            change(&mut event);
            vec![arriving(), event]
        };
        let table = [
            ("the edge's own", vec![arriving()], "admitted"),
            ("nothing", vec![], "batch-size"),
            ("too much", vec![arriving(); LARGEST_BATCH + 1], "batch-size"),
            (
                "a field more",
                with(|e| e.fields.push("title".to_owned())),
                rule(Rule::FieldNotAllowed),
            ),
            (
                "another class",
                with(|e| e.class = DataClass::Health),
                rule(Rule::ClassNotListed),
            ),
            (
                "another edge",
                with(|e| e.edge = "stride-eu.health.us".parse().ok()),
                "origin-not-proved",
            ),
            (
                "another origin",
                with(|e| e.origin = "ca".parse().ok()),
                "origin-not-proved",
            ),
            ("no expiry", with(|e| e.expires = None), rule(Rule::MechanismExpired)),
            (
                "expired",
                with(|e| e.expires = Some(at(0))),
                rule(Rule::MechanismExpired),
            ),
            (
                "outliving the edge",
                with(|e| e.expires = Some(at(86_401))),
                rule(Rule::MechanismExpired),
            ),
            (
                "a fine time",
                with(|e| e.time = day_of(at(0)) + SignedDuration::from_secs(1)),
                "field-not-allowed",
            ),
        ];
        for (case, batch, expected) in table {
            let seen = admit(&batch, &edge, at(0)).map_or_else(|refused| refused.code(), |()| "admitted");
            assert_eq!(seen, expected, "{case}");
        }
    }

    #[test]
    fn the_table_of_edges() {
        let open = edge(&["sport_type"]);
        let mut ended = open.clone();
        ended.expires = at(0);
        let (eu, ca): (RegionName, RegionName) = ("eu".parse().unwrap(), "ca".parse().unwrap());
        let table = [
            ("lawful, first time", Some(&open), &eu, None, "admitted"),
            ("lawful and open", Some(&open), &eu, Some(EdgeState::Open), "admitted"),
            (
                "reopened after a cut",
                Some(&open),
                &eu,
                Some(EdgeState::Cut),
                "admitted",
            ),
            (
                "being purged",
                Some(&open),
                &eu,
                Some(EdgeState::Cutting),
                "edge-being-cut",
            ),
            ("unknown", None, &eu, None, "no-edge"),
            ("expired", Some(&ended), &eu, Some(EdgeState::Open), "mechanism-expired"),
            ("another region's", Some(&open), &ca, None, "origin-not-proved"),
        ];
        for (case, edge, sender, state, expected) in table {
            let seen = admit_edge(edge, sender, state, at(0)).map_or_else(|refused| refused.code(), |_| "admitted");
            assert_eq!(seen, expected, "{case}");
        }
    }
}
