//! When a queued delivery starts, waits or ends.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use meridian_policy::{CompiledEdge, Denial, Purpose, Rule};

/// A share that could not be delivered for this long is no news any more.
pub const TOO_OLD: SignedDuration = SignedDuration::from_hours(24);
/// The first pause after a failed attempt.
pub const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause between attempts at something that may be back at any moment without a word.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// The longest pause while the policy may be stale, or the hour is not right: that it is current again is heard, and an hour
/// passes slowly, so asking more often is no use.
pub const LONGEST_STALE_PAUSE: Duration = Duration::from_secs(60);
/// What the replicator sends copies for.
pub const PURPOSE: Purpose = Purpose::CrossBorderSharing;

/// Why a delivery waits. It starts once the reason is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The policy cannot be known to be current.
    PolicyStale,
    /// The edge is not in force yet.
    NotInForce,
    /// The edge's condition does not hold at this hour.
    NotAtThisHour,
    /// What the policy says of the edge is not understood here.
    NotUnderstood,
    /// The consent service cannot be reached: that means no.
    ConsentUnreachable,
    /// The permit ran out before the push could start.
    PermitLapsed,
    /// The push that it was to go with was full without it.
    PushFull,
    /// The importer cannot be reached, or asks to wait.
    ImporterUnreachable,
    /// The importer is of an older version, and takes it in another form or with fewer others.
    ImporterOlder,
    /// The keyring cannot be reached.
    KeyringUnreachable,
}

impl Waiting {
    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PolicyStale => "policy-stale",
            Self::NotInForce => "not-in-force",
            Self::NotAtThisHour => "not-at-this-hour",
            Self::NotUnderstood => "not-understood",
            Self::ConsentUnreachable => "consent-unreachable",
            Self::PermitLapsed => "permit-lapsed",
            Self::PushFull => "push-full",
            Self::ImporterUnreachable => "importer-unreachable",
            Self::ImporterOlder => "importer-older",
            Self::KeyringUnreachable => "keyring-unreachable",
        }
    }

    /// The pause after the `attempts`-th attempt that ended so.
    pub fn pause(self, attempts: u32) -> Duration {
        match self {
            Self::PolicyStale | Self::NotAtThisHour => growing(attempts, LONGEST_STALE_PAUSE),
            _ => pause(attempts),
        }
    }
}

/// Why a delivery ends without a transfer; the evidence names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The policy refuses.
    Policy(Rule),
    /// The subject does not consent (the consent service's rule).
    Consent(String),
    /// The importer refuses (its rule or code).
    Importer(String),
    /// The subject's key is destroyed: the data is erased.
    Erased,
    /// Nothing of the event may leave.
    NothingToSend,
    /// It waited past [`TOO_OLD`].
    TooOld,
}

impl Refused {
    /// The rule as the evidence records it.
    pub fn rule(&self) -> String {
        match self {
            Self::Policy(rule) => rule.to_string(),
            Self::Consent(rule) => format!("consent:{rule}"),
            Self::Importer(rule) => format!("importer:{rule}"),
            Self::Erased => "subject-erased".to_owned(),
            Self::NothingToSend => "nothing-to-send".to_owned(),
            Self::TooOld => "too-old".to_owned(),
        }
    }
}

/// What becomes of an attempt before anyone is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ask the consent service (where the edge needs it), then push.
    Go,
    /// Try again after the pause.
    Wait(Waiting),
    /// It ends here.
    Refuse(Refused),
}

/// Whether a delivery queued at `queued` may be attempted along `edge` (none: the policy has it no more).
pub fn judge(edge: Option<&CompiledEdge>, lease_valid: bool, queued: Timestamp, now: Timestamp) -> Verdict {
    if now.duration_since(queued) >= TOO_OLD {
        return Verdict::Refuse(Refused::TooOld);
    }
    // A policy that may be stale can neither allow nor say that the edge is gone for good.
    if !lease_valid {
        return Verdict::Wait(Waiting::PolicyStale);
    }
    let Some(edge) = edge else {
        return Verdict::Refuse(Refused::Policy(Rule::NoEdge));
    };
    match edge.lawful_at(now) {
        Err(Denial {
            rule: Rule::MechanismNotInForce,
            ..
        }) => Verdict::Wait(Waiting::NotInForce),
        Err(denial) => Verdict::Refuse(Refused::Policy(denial.rule)),
        Ok(()) if !edge.purposes.contains(&PURPOSE) => Verdict::Refuse(Refused::Policy(Rule::PurposeNotAllowed)),
        Ok(()) => Verdict::Go,
    }
}

/// The pause after the `attempts`-th failed attempt: doubles from [`FIRST_PAUSE`] to [`LONGEST_PAUSE`].
pub fn pause(attempts: u32) -> Duration {
    growing(attempts, LONGEST_PAUSE)
}

fn growing(attempts: u32, longest: Duration) -> Duration {
    FIRST_PAUSE
        .saturating_mul(2_u32.saturating_pow(attempts.saturating_sub(1)))
        .min(longest)
}

/// The consent service's word, valid for a moment: measured from before it was asked, on a clock that only goes forward.
#[derive(Clone, Copy, Debug)]
pub struct PermitWindow {
    until: Instant,
}

impl PermitWindow {
    /// The window of an answer to a request sent at `asked`.
    pub fn new(asked: Instant, valid_for: Duration) -> Self {
        Self {
            until: asked.checked_add(valid_for).unwrap_or(asked),
        }
    }

    /// Whether a push may still start.
    pub fn admits(&self, now: Instant) -> bool {
        now < self.until
    }

    /// When the last push may start.
    pub fn until(&self) -> Instant {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixtures::{at, edge};

    #[test]
    fn the_table_of_verdicts() {
        let open = edge(&["sport_type"]);
        let mut ended = open.clone();
        ended.expires = at(0);
        let mut later = open.clone();
        later.effective_from = at(1);
        let mut other_purpose = open.clone();
        other_purpose.purposes = [Purpose::Analytics].into();
        let day = 24 * 3600;
        let refuse = |rule| Verdict::Refuse(Refused::Policy(rule));
        let table = [
            ("lawful", Some(&open), true, 0, Verdict::Go),
            (
                "stale policy",
                Some(&open),
                false,
                0,
                Verdict::Wait(Waiting::PolicyStale),
            ),
            (
                "stale policy, edge gone",
                None,
                false,
                0,
                Verdict::Wait(Waiting::PolicyStale),
            ),
            ("edge gone", None, true, 0, refuse(Rule::NoEdge)),
            ("expired", Some(&ended), true, 0, refuse(Rule::MechanismExpired)),
            (
                "not in force yet",
                Some(&later),
                true,
                0,
                Verdict::Wait(Waiting::NotInForce),
            ),
            (
                "other purpose",
                Some(&other_purpose),
                true,
                0,
                refuse(Rule::PurposeNotAllowed),
            ),
            ("almost too old", Some(&open), true, 1 - day, Verdict::Go),
            ("too old", Some(&open), true, -day, Verdict::Refuse(Refused::TooOld)),
            (
                "too old while stale",
                Some(&open),
                false,
                -day,
                Verdict::Refuse(Refused::TooOld),
            ),
        ];
        for (case, edge, lease_valid, queued, expected) in table {
            assert_eq!(judge(edge, lease_valid, at(queued), at(0)), expected, "{case}");
        }
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let millis = |waiting: Waiting| [1, 2, 3, 4, 8, 100].map(|n| waiting.pause(n).as_millis());
        let bounded = [500, 1_000, 2_000, 4_000, 15_000, 15_000];
        for waiting in [
            Waiting::ImporterUnreachable,
            Waiting::ConsentUnreachable,
            Waiting::NotInForce,
        ] {
            assert_eq!(millis(waiting), bounded, "{}", waiting.as_str());
        }
        for waiting in [Waiting::PolicyStale, Waiting::NotAtThisHour] {
            assert_eq!(
                millis(waiting),
                [500, 1_000, 2_000, 4_000, 60_000, 60_000],
                "{}",
                waiting.as_str()
            );
        }
        assert_eq!(pause(0), FIRST_PAUSE);
    }

    #[test]
    fn a_permit_counts_from_before_it_was_asked_for() {
        let asked = Instant::now();
        let window = PermitWindow::new(asked, Duration::from_millis(500));
        assert!(window.admits(asked + Duration::from_millis(499)));
        assert!(!window.admits(asked + Duration::from_millis(500)));
        assert!(!PermitWindow::new(asked, Duration::ZERO).admits(asked));
    }
}
