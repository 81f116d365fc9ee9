//! What the domain's tests share: one edge and a clock.

use jiff::{SignedDuration, Timestamp};
use meridian_policy::{CompiledEdge, DataClass, Epoch, LegalFramework, Mechanism, Purpose, Rule};

/// `seconds` after the tests' present.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap() + SignedDuration::from_secs(seconds)
}

/// Workout summaries of stride-eu to us, lawful for a day around the present.
pub(crate) fn edge(fields: &[&str]) -> CompiledEdge {
    CompiledEdge {
        id: "stride-eu.workout-summary.us".parse().unwrap(),
        tenant: "stride-eu".parse().unwrap(),
        organization: "stride".parse().unwrap(),
        from: "eu".parse().unwrap(),
        to: "us".parse().unwrap(),
        exporter: "stride-europe".parse().unwrap(),
        importer: "stride-america".parse().unwrap(),
        importer_tenant: "stride-us".parse().unwrap(),
        class: DataClass::WorkoutSummary,
        purposes: [Purpose::CrossBorderSharing].into(),
        fields: fields.iter().map(|&field| field.to_owned()).collect(),
        mechanism: Mechanism::Certification,
        instrument: "eu-us-dpf".to_owned(),
        effective_from: at(-86_400),
        expires: at(86_400),
        ends_with: Rule::MechanismExpired,
        assessment: None,
        art9_condition: None,
        pseudonymise: true,
        onward: false,
        needs_consent: true,
        condition: None,
        framework: LegalFramework::Gdpr,
        rule: "a certification is in force".to_owned(),
        epoch: Epoch(1),
    }
}
