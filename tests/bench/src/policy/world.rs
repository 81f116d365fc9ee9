//! Ten thousand tenants under three laws, and questions about them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use meridian_policy::{
    CompiledEdge, CompiledPolicy, DataClass, Epoch, JurisdictionSpec, PartySpec, PolicySource, Purpose, Question,
    RegionFacts, TenantFacts, TenantResidencySpec,
};
use serde_json::{Value, json};

use super::random::Random;

/// The regions, each under a law of its own.
const REGIONS: [&str; 3] = ["eu", "us", "uk"];

/// The moment of the bench: a Thursday.
pub fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * 365 * 57)
}

/// What the policy is compiled from. Each organization has one tenant in every region, and shares between all of them.
///
/// # Errors
/// When it is not of the policy's form.
pub fn source(tenants: usize) -> Result<PolicySource> {
    let mut source = PolicySource::default();
    for (name, framework, country) in [("eu", "GDPR", "DE"), ("us", "Other", "US"), ("uk", "UKGDPR", "GB")] {
        let others = REGIONS.iter().filter(|to| **to != name);
        let offers: Vec<Value> = others
            .map(|to| {
                json!({"to": to, "mechanism": mechanism(name, to), "instrument": "the instrument",
                    "classes": ["workout-summary"], "effectiveFrom": "2021-06-27T00:00:00Z"})
            })
            .collect();
        let law: JurisdictionSpec = serde_json::from_value(json!({
            "law": "a law", "framework": framework, "countries": [country],
            "ageOfDigitalConsent": {"default": 16, "byCountry": {"FR": 15}}, "mechanisms": offers,
        }))?;
        source.jurisdictions.insert(name.parse()?, law);
        let party: PartySpec = serde_json::from_value(json!({"legalName": "A Company", "role": "Controller",
            "country": country}))?;
        source.parties.insert(format!("party-{name}").parse()?, party);
        let region = RegionFacts {
            name: name.parse()?,
            jurisdiction: name.parse()?,
            operated_by: format!("party-{name}").parse()?,
            countries_served: vec![country.parse()?],
            public_url: format!("https://{name}.example"),
            replicator_url: format!("https://{name}.example:30444"),
            trust: None,
        };
        source.regions.insert(name.parse()?, region);
    }
    // The last organization may lack a tenant somewhere: then it shares nothing.
    let whole = tenants / REGIONS.len() * REGIONS.len();
    for number in 0..tenants {
        let facts = tenant(number, number < whole)?;
        source.tenants.insert(facts.spec.tenant.clone(), facts);
    }
    Ok(source)
}

fn mechanism(from: &str, to: &str) -> &'static str {
    match (from, to) {
        ("us", _) => "NotRestricted",
        ("eu", "us") => "SCC",
        ("uk", "us") => "IDTA",
        _ => "Adequacy",
    }
}

fn tenant(number: usize, shares: bool) -> Result<TenantFacts> {
    let (organization, home) = (number / REGIONS.len(), REGIONS[number % REGIONS.len()]);
    let edge = |to: &str, fields: Value| {
        json!({"region": to, "purposes": ["cross-border-sharing", "service-provision"], "fields": fields,
            "mechanism": mechanism(home, to), "instrument": "the instrument", "pseudonymise": true,
            "tia": {"digest": format!("sha256:{}", "ab".repeat(32)), "reviewBy": "2035-12-31T00:00:00Z"},
            "expires": "2036-01-01T00:00:00Z"})
    };
    let shared = json!(["sport_type", "distance_meters", "duration_sec", "start_day"]);
    let others: Vec<&str> = REGIONS.into_iter().filter(|to| *to != home).collect();
    let summaries: Vec<Value> = others.iter().map(|to| edge(to, shared.clone())).collect();
    let mut classes = vec![json!({"class": "workout-summary", "replicateTo": summaries})];
    classes.retain(|_| shares);
    let spec: TenantResidencySpec = serde_json::from_value(json!({
        "organization": format!("organization-{organization}"), "tenant": format!("tenant-{number}"),
        "home": {"region": home}, "classes": classes,
    }))?;
    Ok(TenantFacts { spec, epoch: Epoch(1) })
}

/// Questions in a random order: four in five about something that an edge lets go, the others each wrong in one thing.
///
/// # Errors
/// When there is no edge.
pub fn questions(policy: &CompiledPolicy, count: usize) -> Result<Vec<Question>> {
    let edges: Vec<&CompiledEdge> = policy.edges().collect();
    edges.first().context("no edge to ask about")?;
    let mut random = Random::new(42);
    (0..count).map(|_| question(&edges, &mut random)).collect()
}

fn question(edges: &[&CompiledEdge], random: &mut Random) -> Result<Question> {
    let edge = random.of(edges);
    let some = 1 + random.below(edge.fields.len());
    let mut question = Question {
        tenant: edge.tenant.clone(),
        class: edge.class,
        purpose: random.of(&edge.purposes.iter().copied().collect::<Vec<_>>()),
        to: edge.to.clone(),
        fields: edge.fields.iter().take(some).cloned().collect(),
        now: now(),
        subject: None,
    };
    match random.below(30) {
        0 => question.purpose = Purpose::Marketing,
        1 => drop(question.fields.insert("title".to_owned())),
        2 => question.class = DataClass::Health,
        3 => question.to = edge.from.clone(),
        4 => question.tenant = "nobody".parse()?,
        5 => question.now = edge.expires,
        _ => {}
    }
    Ok(question)
}

/// The edges as the peers are given them: by tenant, class and region.
pub fn edges(policy: &CompiledPolicy) -> Value {
    let mut edges: BTreeMap<&str, BTreeMap<&str, BTreeMap<&str, Value>>> = BTreeMap::new();
    for edge in policy.edges() {
        let set =
            |names: BTreeSet<&str>| -> Value { names.into_iter().map(|name| (name.to_owned(), json!(true))).collect() };
        let purposes = edge.purposes.iter().map(|purpose| purpose.as_str()).collect();
        let fields = edge.fields.iter().map(String::as_str).collect();
        let told = json!({"from": edge.effective_from.as_second(), "until": edge.expires.as_second(),
            "purposes": set(purposes), "fields": set(fields)});
        let of_tenant = edges.entry(edge.tenant.as_str()).or_default();
        of_tenant
            .entry(edge.class.as_str())
            .or_default()
            .insert(edge.to.as_str(), told);
    }
    json!(edges)
}

/// A question as the peers are given it.
pub fn asked(question: &Question) -> Value {
    json!({"tenant": question.tenant, "class": question.class, "to": question.to, "purpose": question.purpose,
        "fields": question.fields, "now": question.now.as_second()})
}
