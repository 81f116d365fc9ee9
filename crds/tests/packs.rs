//! The laws in `regions/jurisdictions`: each says where it comes from and what it leaves out, and what it offers can be used.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use meridian_crds::Jurisdiction;
use meridian_policy::{
    BreachNotice, BreachRisk, Catalogue, Certification, DataClass, Epoch, JurisdictionSpec, Mechanism,
    OfferedMechanism, PartySpec, PolicySource, RegionFacts, TenantFacts, TenantResidencySpec, compile,
};
use serde_json::json;

/// The text of each file, by the name of its law.
fn texts() -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../regions/jurisdictions");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    files
        .map(|path| (name(&path), std::fs::read_to_string(&path).unwrap()))
        .collect()
}

fn laws() -> BTreeMap<String, JurisdictionSpec> {
    let read = |(name, text): (String, String)| {
        let law: Jurisdiction = serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            law.metadata.name.as_deref(),
            Some(name.as_str()),
            "the file is named after its law"
        );
        (name, law.spec.law)
    };
    texts().into_iter().map(read).collect()
}

fn at(day: &str) -> jiff::Timestamp {
    format!("{day}T00:00:00Z").parse().unwrap()
}

/// What may go at that moment, as `mechanism 'instrument'`.
fn offered(from: &str, to: &str, day: &str) -> BTreeSet<String> {
    let now = at(day);
    let in_force = |offer: &&OfferedMechanism| {
        offer.to.as_str() == to && offer.effective_from <= now && offer.expires.is_none_or(|end| now < end)
    };
    let law = &laws()[from];
    let offers = law.mechanisms.iter().filter(in_force);
    offers
        .map(|offer| format!("{} '{}'", offer.mechanism, offer.instrument))
        .collect()
}

#[test]
fn there_is_a_pack_for_each_jurisdiction_of_the_product() {
    assert_eq!(laws().keys().collect::<Vec<_>>(), ["br", "ch", "eu", "in", "uk", "us"]);
    let mut countries = BTreeSet::new();
    for (name, law) in laws() {
        for country in law.countries {
            assert!(
                countries.insert(country.clone()),
                "{country} is under two laws, one of them {name}"
            );
        }
    }
    assert_eq!(countries.len(), 30 + 5, "the EEA and five more");
}

#[test]
fn every_pack_names_official_sources_and_what_it_does_not_cover() {
    for (name, text) in texts() {
        let header: String = text.lines().take_while(|line| line.starts_with('#')).collect();
        assert!(header.contains("Law:"), "{name} names no law");
        assert!(
            header.contains("Not covered:"),
            "{name} says nothing of what it leaves out"
        );
        assert!(
            header.matches("https://").count() >= 2,
            "{name} links to too few sources"
        );
    }
}

#[test]
fn ages_and_times_are_those_of_the_law() {
    let laws = laws();
    let age = |law: &str, country: &str| laws[law].age_of_digital_consent.in_country(&country.parse().unwrap());
    for (law, country, years) in [
        ("eu", "DE", 16),
        ("eu", "FR", 15),
        ("eu", "ES", 14),
        ("uk", "GB", 13),
        ("us", "US", 13),
        ("ch", "CH", 16),
        ("br", "BR", 16),
        ("in", "IN", 18),
    ] {
        assert_eq!(age(law, country), years, "{country}");
    }
    let least = |law: &str| laws[law].retention[&DataClass::SecurityLog].min_days;
    assert_eq!((least("in"), least("br"), least("eu")), (Some(365), Some(183), None));
    for (name, law) in &laws {
        assert_eq!(
            law.retention[&DataClass::Location].max_days,
            Some(183),
            "{name}: places are kept for six months"
        );
        for (class, limits) in &law.retention {
            let least = limits.min_days.unwrap_or_default();
            assert!(limits.max_days.is_none_or(|most| least <= most), "{name}: {class}");
        }
    }
}

#[test]
fn mechanisms_hold_from_their_day_to_their_day() {
    let now = "2026-11-26";
    assert!(offered("eu", "br", "2026-01-27").is_empty());
    assert_eq!(offered("eu", "br", now).len(), 1);
    assert!(offered("eu", "uk", "2031-12-26").len() == 1 && offered("eu", "uk", "2031-12-27").is_empty());
    assert!(!offered("ch", "us", "2024-09-14").contains("Certification 'Swiss-U.S. DPF'"));
    assert!(offered("ch", "us", "2024-09-15").contains("Certification 'Swiss-U.S. DPF'"));
    assert_eq!(
        offered("br", "eu", now),
        BTreeSet::from(["Adequacy 'Resolução CD/ANPD 32/2026'".to_owned()])
    );
    for (day, instrument) in [
        ("2027-05-12", "SPDI Rules 2011 rule 7"),
        ("2027-05-13", "DPDP Act 2023 section 16"),
    ] {
        assert_eq!(
            offered("in", "eu", day),
            BTreeSet::from([format!("NotRestricted '{instrument}'")])
        );
    }
    assert!(offered("us", "cn", now).is_empty(), "a country of concern");
}

#[test]
fn a_framework_certifies_an_entity_and_never_a_country() {
    for (name, law) in laws() {
        for offer in law.mechanisms.iter().filter(|offer| offer.instrument.contains("DPF")) {
            assert_eq!(
                offer.mechanism,
                Mechanism::Certification,
                "{name}: {}",
                offer.instrument
            );
        }
    }
}

/// For every offer an edge that cites it, and that the policy allows while it is in force.
#[test]
fn what_is_offered_can_be_used() {
    let laws = laws();
    let catalogue = Catalogue::embedded().transferable();
    for (from, law) in &laws {
        for offer in &law.mechanisms {
            assert!(
                laws.contains_key(offer.to.as_str()),
                "{from} offers {} to nobody's law",
                offer.instrument
            );
            let moment = offer.effective_from.max(at("2026-11-26"));
            for class in &offer.classes {
                let fields = catalogue.names_of(*class);
                let field = fields.split(", ").next().unwrap();
                let source = crossing(&laws, from, offer, *class, field);
                let policy = compile(&source, moment);
                let refusals: Vec<_> = policy.refusals().collect();
                assert!(refusals.is_empty(), "{from} {class}: {refusals:?}");
                assert_eq!(policy.edges().count(), 1);
            }
        }
    }
}

fn crossing(
    laws: &BTreeMap<String, JurisdictionSpec>,
    from: &str,
    offer: &OfferedMechanism,
    class: DataClass,
    field: &str,
) -> PolicySource {
    let mut source = PolicySource::default();
    let to = offer.to.as_str();
    for name in [from, to] {
        let law = &laws[name];
        let mut party: PartySpec =
            serde_json::from_value(json!({"legalName": "A", "role": "Controller", "country": law.countries[0]}))
                .unwrap();
        party.certifications.push(Certification {
            instrument: offer.instrument.clone(),
            effective_from: at("2020-01-01"),
            expires: at("2040-01-01"),
        });
        source.jurisdictions.insert(name.parse().unwrap(), law.clone());
        source.parties.insert(format!("party-{name}").parse().unwrap(), party);
        let facts = RegionFacts {
            name: name.parse().unwrap(),
            jurisdiction: name.parse().unwrap(),
            operated_by: format!("party-{name}").parse().unwrap(),
            countries_served: law.countries.clone(),
            public_url: String::new(),
            replicator_url: String::new(),
            trust: None,
        };
        source.regions.insert(facts.name.clone(), facts);
        let classes = if name == from {
            json!([{"class": class, "replicateTo": [{"region": to, "purposes": ["cross-border-sharing"],
                "fields": [field], "mechanism": offer.mechanism, "instrument": offer.instrument,
                "art9Condition": "ExplicitConsent", "expires": "2039-01-01T00:00:00Z",
                "tia": {"digest": format!("sha256:{}", "0".repeat(64)), "reviewBy": "2039-01-01T00:00:00Z"}}]}])
        } else {
            json!([])
        };
        let spec: TenantResidencySpec =
            serde_json::from_value(json!({"organization": "o", "tenant": format!("t-{name}"),
            "home": {"region": name}, "classes": classes}))
            .unwrap();
        let epoch = Epoch::new(1);
        source.tenants.insert(
            spec.tenant.clone(),
            TenantFacts {
                spec: spec.into(),
                epoch,
            },
        );
    }
    source
}

/// A notice: its name, its term, and from which risk on.
type Notice = (&'static str, &'static str, BreachRisk);

#[test]
fn breaches_are_told_within_the_terms_of_the_law() {
    let expected: [(&str, &[Notice]); 6] = [
        (
            "br",
            &[
                ("authority", "3 business days", BreachRisk::Risk),
                ("subjects", "3 business days", BreachRisk::Risk),
            ],
        ),
        (
            "ch",
            &[("authority", "", BreachRisk::High), ("subjects", "", BreachRisk::Risk)],
        ),
        (
            "eu",
            &[
                ("authority", "72 hours", BreachRisk::Risk),
                ("subjects", "", BreachRisk::High),
            ],
        ),
        (
            "in",
            &[
                ("cert-in", "6 hours", BreachRisk::Unlikely),
                ("board", "", BreachRisk::Unlikely),
                ("board-details", "72 hours", BreachRisk::Unlikely),
                ("subjects", "", BreachRisk::Unlikely),
            ],
        ),
        (
            "uk",
            &[
                ("authority", "72 hours", BreachRisk::Risk),
                ("subjects", "", BreachRisk::High),
            ],
        ),
        (
            "us",
            &[
                ("ftc", "60 days", BreachRisk::Unlikely),
                ("subjects", "60 days", BreachRisk::Unlikely),
                ("state-authority", "30 days", BreachRisk::Risk),
                ("state-subjects", "30 days", BreachRisk::Risk),
            ],
        ),
    ];
    let term = |notice: &BreachNotice| {
        let within = notice.within.unwrap_or_default();
        let hours = within.hours.map(|hours| format!("{hours} hours"));
        let days = within.days.map(|days| format!("{days} days"));
        let business = within
            .business_days
            .map(|business| format!("{} business days", business.days));
        hours.or(days).or(business).unwrap_or_default()
    };
    let laws = laws();
    for (name, notices) in expected {
        let found: Vec<_> = laws[name]
            .breach_notices
            .iter()
            .map(|one| (one.name.clone(), term(one), one.owed_from))
            .collect();
        let wanted: Vec<_> = notices
            .iter()
            .map(|(name, term, risk)| ((*name).to_owned(), (*term).to_owned(), *risk))
            .collect();
        assert_eq!(found, wanted, "{name}");
    }
}

#[test]
fn every_notice_names_its_article_and_its_official_source_and_its_number_is_in_its_words() {
    let official = [
        "https://eur-lex.europa.eu/",
        "https://www.legislation.gov.uk/",
        "https://www.fedlex.admin.ch/",
        "https://www.gov.br/",
        "https://www.cert-in.org.in",
        "https://www.meity.gov.in/",
        "https://www.ecfr.gov/",
        "https://app.leg.wa.gov/",
    ];
    for (name, law) in laws() {
        let mut names = BTreeSet::new();
        assert!(
            !law.breach_notices.is_empty(),
            "{name} would have the shortest term of all"
        );
        for notice in &law.breach_notices {
            assert!(names.insert(notice.name.clone()), "{name}: {} twice", notice.name);
            assert!(notice.article.contains(char::is_numeric), "{name}: {}", notice.article);
            assert!(
                official.iter().any(|source| notice.source.starts_with(source)),
                "{name}: {}",
                notice.source
            );
            let Some(within) = notice.within else { continue };
            let number = within
                .hours
                .or(within.days)
                .or(within.business_days.map(|business| business.days));
            assert!(
                notice.term.contains(&number.unwrap().to_string()),
                "{name}: {}",
                notice.term
            );
        }
    }
    let in_force = |day: &str| {
        laws()["in"]
            .breach_notices
            .iter()
            .filter(|one| one.in_force(at(day)))
            .count()
    };
    assert_eq!((in_force("2027-05-12"), in_force("2027-05-13")), (1, 4));
}
