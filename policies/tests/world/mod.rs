//! A small world to decide in: eu (two regions), us, one organization with a tenant in each.
#![allow(dead_code, reason = "each test crate uses another part of the world")]

pub mod changes;
pub mod generated;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use meridian_policy::*;

pub const SCC: &str = "SCC 2021/914 module 1";
pub const DPF: &str = "EU-US DPF";
pub const BCR: &str = "Stride BCR 2025";

pub fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The moment at which the world is looked at.
pub fn now() -> Timestamp {
    at("2026-11-01T00:00:00Z")
}

pub fn region(name: &str) -> RegionName {
    name.parse().unwrap()
}

pub fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

pub fn edge_id(text: &str) -> EdgeId {
    text.parse().unwrap()
}

pub fn digest() -> DocumentDigest {
    format!("sha256:{}", "ab".repeat(32)).parse().unwrap()
}

pub fn fields() -> TransferableFields {
    [
        (DataClass::WorkoutSummary, "sport_type"),
        (DataClass::WorkoutSummary, "distance_meters"),
        (DataClass::WorkoutSummary, "duration_sec"),
        (DataClass::TrainingContent, "title"),
        (DataClass::Health, "hr"),
        (DataClass::SocialGraph, "followed"),
        (DataClass::Operational, "version"),
    ]
    .into_iter()
    .map(|(class, name)| (class, name.to_owned()))
    .collect()
}

pub fn offer(to: &str, mechanism: Mechanism, instrument: &str, classes: &[DataClass]) -> OfferedMechanism {
    OfferedMechanism {
        to: to.parse().unwrap(),
        mechanism,
        instrument: instrument.to_owned(),
        classes: classes.to_vec(),
        effective_from: at("2021-06-27T00:00:00Z"),
        review_by: None,
        expires: None,
    }
}

pub fn jurisdiction(framework: LegalFramework, countries: &[&str]) -> JurisdictionSpec {
    JurisdictionSpec {
        law: "a law".into(),
        framework,
        countries: countries.iter().map(|code| code.parse().unwrap()).collect(),
        subdivisions: vec![],
        sensitivity: BTreeMap::new(),
        age_of_digital_consent: AgeOfConsent {
            default: 16,
            by_country: BTreeMap::new(),
        },
        retention: BTreeMap::new(),
        mechanisms: vec![],
        breach_notices: vec![],
    }
}

pub fn party(country: &str) -> PartySpec {
    PartySpec {
        legal_name: "A Company".into(),
        role: PartyRole::Controller,
        country: country.parse().unwrap(),
        certifications: vec![],
    }
}

pub fn certification(instrument: &str) -> Certification {
    Certification {
        instrument: instrument.into(),
        effective_from: at("2025-01-01T00:00:00Z"),
        expires: at("2027-01-01T00:00:00Z"),
    }
}

pub fn facts(name: &str, jurisdiction: &str, operated_by: &str) -> RegionFacts {
    RegionFacts {
        name: region(name),
        jurisdiction: jurisdiction.parse().unwrap(),
        operated_by: operated_by.parse().unwrap(),
        countries_served: vec![],
        public_url: format!("https://{name}.example"),
        replicator_url: format!("https://{name}.example:30444"),
        trust: Some(RegionTrust {
            ca_pem: format!("ca of {name}"),
            jwks: serde_json::json!({"keys": []}),
        }),
    }
}

/// The edge that is lawful: a workout summary under SCC with an assessment.
pub fn ask(to: &str) -> ReplicateTo {
    ReplicateTo {
        region: region(to),
        purposes: vec![Purpose::CrossBorderSharing],
        fields: vec!["sport_type".into(), "distance_meters".into()],
        mechanism: Mechanism::Scc,
        instrument: SCC.into(),
        art9_condition: None,
        pseudonymise: true,
        onward: false,
        tia: Some(ImpactAssessment {
            digest: digest(),
            review_by: at("2027-06-01T00:00:00Z"),
        }),
        condition: None,
        expires: at("2027-11-01T00:00:00Z"),
    }
}

pub fn residency(name: &str, home: &str, classes: Vec<ClassResidency>) -> TenantFacts {
    TenantFacts {
        spec: TenantResidencySpec {
            organization: "stride".parse().unwrap(),
            tenant: tenant(name),
            home: Home { region: region(home) },
            classes,
            retention: BTreeMap::new(),
            key_reference: None,
        }
        .into(),
        epoch: Epoch(1),
    }
}

pub fn world() -> PolicySource {
    let mut eu = jurisdiction(LegalFramework::Gdpr, &["DE", "FR"]);
    eu.mechanisms = vec![
        offer(
            "us",
            Mechanism::Scc,
            SCC,
            &[DataClass::WorkoutSummary, DataClass::SocialGraph],
        ),
        offer("us", Mechanism::Certification, DPF, &[DataClass::WorkoutSummary]),
        offer("us", Mechanism::Bcr, BCR, &[DataClass::WorkoutSummary]),
        offer("us", Mechanism::Adequacy, "a decision", &[DataClass::Health]),
        offer(
            "us",
            Mechanism::Art49Derogation,
            "Art 49(1)(a)",
            &[DataClass::WorkoutSummary],
        ),
    ];
    let class = |class, replicate_to| ClassResidency { class, replicate_to };
    PolicySource {
        jurisdictions: BTreeMap::from([
            ("eu".parse().unwrap(), eu),
            ("us".parse().unwrap(), jurisdiction(LegalFramework::Other, &["US"])),
        ]),
        parties: BTreeMap::from([
            ("stride-europe".parse().unwrap(), party("DE")),
            ("stride-inc".parse().unwrap(), party("US")),
        ]),
        regions: BTreeMap::from([
            (region("eu"), facts("eu", "eu", "stride-europe")),
            (region("eu-north"), facts("eu-north", "eu", "stride-europe")),
            (region("us"), facts("us", "us", "stride-inc")),
        ]),
        tenants: BTreeMap::from([
            (
                tenant("stride-eu"),
                residency(
                    "stride-eu",
                    "eu",
                    vec![class(DataClass::WorkoutSummary, vec![ask("us")])],
                ),
            ),
            (tenant("stride-north"), residency("stride-north", "eu-north", vec![])),
            (tenant("stride-us"), residency("stride-us", "us", vec![])),
        ]),
    }
}

pub fn compiled(source: &PolicySource) -> CompiledPolicy {
    compile_with(source, fields(), now())
}

/// Asks whether the sport of a workout of stride-eu may be shared with us.
pub fn question() -> Question {
    Question {
        tenant: tenant("stride-eu"),
        class: DataClass::WorkoutSummary,
        purpose: Purpose::CrossBorderSharing,
        to: region("us"),
        fields: BTreeSet::from(["sport_type".to_owned()]),
        now: now(),
        subject: None,
    }
}

/// The rule that refuses the question once `change` is made to the world that allows it.
pub fn refused(change: impl FnOnce(&mut PolicySource)) -> Rule {
    let mut source = world();
    change(&mut source);
    let policy = compiled(&source);
    let decision = policy.decide(&question());
    let Decision::Deny { rule, reason, .. } = decision else {
        panic!("allowed")
    };
    assert!(reason.to_string().len() > 20, "no sentence: {reason}");
    assert!(
        !policy.edges().any(|edge| edge.tenant.as_str() == "stride-eu"),
        "refused, yet compiled"
    );
    rule
}

/// Lets the first edge of stride-eu rely on another mechanism.
pub fn cite(source: &mut PolicySource, mechanism: Mechanism, instrument: &str) {
    source.asked().mechanism = mechanism;
    source.asked().instrument = instrument.into();
}

pub trait Change {
    /// The first edge that stride-eu asks for.
    fn asked(&mut self) -> &mut ReplicateTo;
    fn asked_class(&mut self, class: DataClass);
    fn eu(&mut self) -> &mut JurisdictionSpec;
    fn importer(&mut self) -> &mut PartySpec;
    fn exporter(&mut self) -> &mut PartySpec;
    fn stride_eu(&mut self) -> &mut TenantResidencySpec;
}

impl Change for PolicySource {
    fn asked(&mut self) -> &mut ReplicateTo {
        &mut self.stride_eu().classes[0].replicate_to[0]
    }

    fn asked_class(&mut self, class: DataClass) {
        self.stride_eu().classes[0].class = class;
    }

    fn eu(&mut self) -> &mut JurisdictionSpec {
        self.jurisdictions.get_mut("eu").unwrap()
    }

    fn importer(&mut self) -> &mut PartySpec {
        self.parties.get_mut("stride-inc").unwrap()
    }

    fn exporter(&mut self) -> &mut PartySpec {
        self.parties.get_mut("stride-europe").unwrap()
    }

    fn stride_eu(&mut self) -> &mut TenantResidencySpec {
        &mut self.tenants.get_mut("stride-eu").unwrap().spec
    }
}
