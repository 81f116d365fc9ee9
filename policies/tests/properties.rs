//! What holds in every world: nothing is allowed without all its grounds, and taking away never opens.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod world;

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use meridian_policy::*;
use proptest::prelude::*;
use world::*;

const FIELDS: [&str; 6] = [
    "sport_type",
    "distance_meters",
    "duration_sec",
    "title",
    "hr",
    "followed",
];
const CLASSES: [DataClass; 4] = [
    DataClass::WorkoutSummary,
    DataClass::Health,
    DataClass::SocialGraph,
    DataClass::TrainingContent,
];
const INSTRUMENTS: [&str; 3] = [SCC, DPF, BCR];

fn one_of<T: Clone + std::fmt::Debug + 'static>(list: &'static [T]) -> impl Strategy<Value = T> {
    proptest::sample::select(list)
}

fn some_of<T: Clone + std::fmt::Debug + 'static>(list: &'static [T]) -> impl Strategy<Value = Vec<T>> {
    proptest::sample::subsequence(list.to_vec(), 0..=list.len())
}

/// Days around the moment of the question, mostly in favour of the edge.
fn moment(days: std::ops::Range<i64>) -> impl Strategy<Value = Timestamp> {
    days.prop_map(|day| now() + SignedDuration::from_hours(24 * day))
}

fn past() -> impl Strategy<Value = Timestamp> {
    moment(-20..3)
}

fn future() -> impl Strategy<Value = Timestamp> {
    moment(-3..20)
}

prop_compose! {
    fn any_offer()(
        to in one_of(&["us", "eu", "uk"]),
        mechanism in one_of(Mechanism::ALL),
        instrument in one_of(&INSTRUMENTS),
        classes in some_of(&CLASSES),
        effective_from in past(),
        expires in proptest::option::of(future()),
    ) -> OfferedMechanism {
        OfferedMechanism { effective_from, expires, ..offer(to, mechanism, instrument, &classes) }
    }
}

prop_compose! {
    fn any_certification()(instrument in one_of(&INSTRUMENTS), effective_from in past(), expires in future())
        -> Certification {
        Certification { instrument: instrument.into(), effective_from, expires }
    }
}

prop_compose! {
    fn any_ask()(
        to in one_of(&["us", "us", "us", "eu", "eu-north", "mars"]),
        purposes in some_of(Purpose::ALL),
        fields in some_of(&FIELDS),
        mechanism in one_of(Mechanism::ALL),
        instrument in one_of(&INSTRUMENTS),
        art9_condition in proptest::option::of(one_of(Art9Condition::ALL)),
        pseudonymise: bool,
        onward: bool,
        tia in proptest::option::weighted(0.7, future()),
        expires in future(),
    ) -> ReplicateTo {
        ReplicateTo {
            purposes,
            fields: fields.into_iter().map(str::to_owned).collect(),
            mechanism,
            instrument: instrument.into(),
            art9_condition,
            pseudonymise,
            onward,
            tia: tia.map(|review_by| ImpactAssessment { digest: digest(), review_by }),
            expires,
            ..ask(to)
        }
    }
}

prop_compose! {
    fn any_class()(class in one_of(&CLASSES), replicate_to in proptest::collection::vec(any_ask(), 0..3))
        -> ClassResidency {
        ClassResidency { class, replicate_to }
    }
}

/// Half of the worlds are lawful but for one random change, half are random.
fn any_world() -> impl Strategy<Value = PolicySource> {
    let parts = (
        proptest::collection::vec(any_offer(), 0..12),
        proptest::collection::vec(any_certification(), 0..4),
        proptest::collection::vec(any_certification(), 0..4),
        proptest::collection::vec(any_class(), 0..4),
        proptest::collection::btree_map(one_of(&CLASSES), one_of(Sensitivity::ALL), 0..4),
        0u8..32,
    );
    parts.prop_map(|(offers, importers, exporters, classes, sensitivity, mask)| {
        let mut source = world();
        source.eu().mechanisms.extend(offers.iter().cloned());
        source.eu().sensitivity = sensitivity;
        if mask & 1 == 0 {
            source.stride_eu().classes = classes;
        }
        if mask & 2 == 0 {
            source.eu().mechanisms = offers;
        }
        source.importer().certifications = importers;
        source.exporter().certifications = exporters;
        if mask & 12 == 0 {
            source.tenants.remove("stride-us");
        }
        if mask & 24 == 8 {
            source.parties.remove("stride-inc");
        }
        source
    })
}

prop_compose! {
    fn any_question()(
        tenant_name in one_of(&["stride-eu", "stride-eu", "stride-eu", "stride-us", "nobody"]),
        class in one_of(&CLASSES),
        purpose in one_of(Purpose::ALL),
        to in one_of(&["us", "us", "us", "eu", "eu-north", "mars"]),
        fields in some_of(&FIELDS),
        when in moment(-2..3),
    ) -> Question {
        Question {
            tenant: tenant(tenant_name),
            class,
            purpose,
            to: region(to),
            fields: fields.into_iter().take(2).map(str::to_owned).collect(),
            now: when,
        }
    }
}

/// The edges of a compiled policy, as questions that they allow at most.
fn questions(policy: &CompiledPolicy) -> Vec<Question> {
    policy
        .edges()
        .flat_map(|edge| {
            edge.purposes.iter().map(|purpose| Question {
                tenant: edge.tenant.clone(),
                class: edge.class,
                purpose: *purpose,
                to: edge.to.clone(),
                fields: edge.fields.clone(),
                now: now(),
            })
        })
        .collect()
}

/// The law written a second time, from the source alone: all that must hold for a question to be allowed.
fn missing_ground(source: &PolicySource, asked: &Question) -> Option<&'static str> {
    let Some(facts) = source.tenants.get(&asked.tenant) else {
        return Some("tenant");
    };
    let spec = &facts.spec;
    let entries: Vec<&ReplicateTo> = spec
        .classes
        .iter()
        .filter(|entry| entry.class == asked.class)
        .flat_map(|entry| &entry.replicate_to)
        .filter(|entry| entry.region == asked.to)
        .collect();
    let [entry] = entries.as_slice() else {
        return Some("exactly one edge");
    };
    let (Some(home), Some(target)) = (source.regions.get(&spec.home.region), source.regions.get(&asked.to)) else {
        return Some("regions");
    };
    if home.name == target.name {
        return Some("another region");
    }
    let (Some(home_law), Some(target_law)) = (
        source.jurisdictions.get(&home.jurisdiction),
        source.jurisdictions.get(&target.jurisdiction),
    ) else {
        return Some("jurisdictions");
    };
    let (Some(exporter), Some(importer)) = (
        source.parties.get(&home.operated_by),
        source.parties.get(&target.operated_by),
    ) else {
        return Some("parties");
    };
    if !source
        .tenants
        .values()
        .any(|t| t.spec.organization == spec.organization && t.spec.home.region == asked.to)
    {
        return Some("a tenant to receive it");
    }
    let begun_and_not_over =
        |from: Timestamp, until: Option<Timestamp>| from <= asked.now && until.is_none_or(|until| asked.now < until);
    let across = home.jurisdiction != target.jurisdiction;
    let offered = home_law.mechanisms.iter().any(|offer| {
        offer.to == target.jurisdiction
            && offer.mechanism == entry.mechanism
            && offer.instrument == entry.instrument
            && offer.classes.contains(&asked.class)
            && begun_and_not_over(offer.effective_from, offer.expires)
    });
    if across && !offered || !across && entry.mechanism != Mechanism::NotRestricted {
        return Some("mechanism");
    }
    if entry.mechanism == Mechanism::Art49Derogation {
        return Some("a mechanism for systematic replication");
    }
    let assessed = entry.tia.as_ref().is_some_and(|tia| asked.now < tia.review_by);
    if matches!(entry.mechanism, Mechanism::Scc | Mechanism::Idta | Mechanism::Bcr) && !assessed {
        return Some("assessment");
    }
    let certified = |party: &PartySpec| {
        party.certifications.iter().any(|held| {
            held.instrument == entry.instrument && begun_and_not_over(held.effective_from, Some(held.expires))
        })
    };
    let bound = match entry.mechanism {
        Mechanism::Certification => certified(importer),
        Mechanism::Bcr => certified(importer) && certified(exporter),
        _ => true,
    };
    if !bound {
        return Some("certification");
    }
    let special = |law: &JurisdictionSpec| match law.sensitivity.get(&asked.class) {
        Some(sensitivity) => *sensitivity == Sensitivity::Special,
        None => asked.class == DataClass::Health,
    };
    if (special(home_law) || special(target_law)) && entry.art9_condition.is_none() {
        return Some("Art 9 condition");
    }
    if !entry.fields.iter().all(|field| fields().has(asked.class, field)) || entry.fields.is_empty() {
        return Some("fields of the class");
    }
    if !asked.fields.iter().all(|field| entry.fields.contains(field)) {
        return Some("fields of the edge");
    }
    if !entry.purposes.contains(&asked.purpose) {
        return Some("purpose");
    }
    (asked.now >= entry.expires).then_some("validity")
}

fn allows_no_more(before: &CompiledPolicy, after: &CompiledPolicy, taken: &str) -> Result<(), TestCaseError> {
    for question in questions(after) {
        prop_assert!(
            before.decide(&question).is_allowed(),
            "taking away {taken} opened {question:?}"
        );
    }
    for edge in after.edges() {
        let earlier = before.edge(&edge.id);
        prop_assert!(
            earlier.is_some_and(|earlier| edge.expires <= earlier.expires),
            "{taken} prolonged {}",
            edge.id
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn nothing_is_allowed_without_all_its_grounds(source in any_world(), question in any_question()) {
        let policy = compiled(&source);
        for asked in questions(&policy).into_iter().chain([question]) {
            if policy.decide(&asked).is_allowed() {
                prop_assert_eq!(missing_ground(&source, &asked), None, "allowed {:?}", asked);
            }
        }
    }

    #[test]
    fn what_has_all_its_grounds_is_allowed_now(source in any_world(), question in any_question()) {
        let asked = Question { now: now(), ..question };
        if missing_ground(&source, &asked).is_none() {
            prop_assert!(compiled(&source).decide(&asked).is_allowed(), "{:?}", compiled(&source).decide(&asked));
        }
    }

    #[test]
    fn removing_a_mechanism_never_opens_an_edge(source in any_world(), which in any::<proptest::sample::Index>()) {
        let before = compiled(&source);
        let mut less = source;
        if less.eu().mechanisms.is_empty() {
            return Ok(());
        }
        let at = which.index(less.eu().mechanisms.len());
        less.eu().mechanisms.remove(at);
        allows_no_more(&before, &compiled(&less), "a mechanism")?;
    }

    #[test]
    fn removing_a_certification_never_opens_an_edge(source in any_world(), which in any::<proptest::sample::Index>()) {
        let before = compiled(&source);
        let mut less = source;
        if !less.parties.contains_key("stride-inc") || less.importer().certifications.is_empty() {
            return Ok(());
        }
        let at = which.index(less.importer().certifications.len());
        less.importer().certifications.remove(at);
        allows_no_more(&before, &compiled(&less), "a certification")?;
    }

    #[test]
    fn narrowing_is_monotone(
        source in any_world(),
        fields_kept in any::<u8>(),
        purposes_kept in any::<u8>(),
        sooner in 0i64..10,
        edges_dropped in any::<u8>(),
    ) {
        let source = well_formed(source);
        let mut less = source.clone();
        for (number, entry) in less.stride_eu().classes.iter_mut().enumerate() {
            if edges_dropped & (1 << number) != 0 {
                entry.replicate_to.pop();
            }
            for ask in &mut entry.replicate_to {
                keep(&mut ask.fields, fields_kept);
                keep(&mut ask.purposes, purposes_kept);
                ask.expires -= SignedDuration::from_hours(24 * sooner);
            }
        }
        prop_assert!(less.tenants["stride-eu"].spec.narrows(&source.tenants["stride-eu"].spec));
        allows_no_more(&compiled(&source), &compiled(&less), "by narrowing")?;
    }

    #[test]
    fn a_refused_edge_always_says_why(source in any_world()) {
        let policy = compiled(&source);
        for (id, denials) in policy.refusals() {
            prop_assert!(!denials.is_empty(), "{id} is refused without a word");
            prop_assert!(policy.edge(id).is_none());
            prop_assert!(denials.iter().all(|denial| !denial.reason.is_empty()));
        }
    }

    #[test]
    fn hub_region_explanation_and_review_agree(source in any_world()) {
        let policy = compiled(&source);
        let eu = policy.for_region(&region("eu"), PolicyRevision(1)).unwrap();
        let violations = policy.violations_of(&tenant("stride-eu"), now());
        for question in questions(&policy) {
            prop_assert_eq!(eu.decide(&question), policy.decide(&question));
            let explained = policy.explain(&question.tenant, question.class, &region("eu"), &question.to, now());
            prop_assert!(explained.lawful);
        }
        for (id, _) in policy.refusals() {
            let class_and_region: Vec<&str> = id.as_str().split('.').skip(1).collect();
            let path = format!("spec.classes[{}].replicateTo[{}]", class_and_region[0], class_and_region[1]);
            prop_assert!(violations.iter().any(|violation| violation.path.starts_with(&path)), "{} not in review", id);
        }
    }
}

/// Without edges that are refused for how they are written (twice, or with a field of another class): there, taking the
/// mistake away is a correction, and may open.
fn well_formed(mut source: PolicySource) -> PolicySource {
    let mut seen = BTreeSet::new();
    for entry in &mut source.stride_eu().classes {
        let class = entry.class;
        entry
            .replicate_to
            .retain(|ask| seen.insert((class, ask.region.clone())));
        for ask in &mut entry.replicate_to {
            ask.fields.retain(|field| fields().has(class, field));
        }
    }
    source
}

/// Keeps the items whose bit is set.
fn keep<T>(list: &mut Vec<T>, bits: u8) {
    let mut kept = (0..8).map(|bit| bits & (1 << bit) != 0);
    list.retain(|_| kept.next().unwrap_or(true));
}
