//! Worlds and questions at random: worlds that are lawful but for a few changes, and worlds that are anything.

use jiff::{SignedDuration, Timestamp};
use meridian_policy::*;
use proptest::prelude::*;

use super::changes::{AnyChange, any_change};
use super::*;

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

/// What a tenant may demand besides; the reference knows what each means. The last two are none.
pub const CONDITIONS: [&str; 6] = [
    "true",
    "context.purpose == \"cross-border-sharing\"",
    "!context.fields.contains(\"distance_meters\")",
    "context has age && context.age >= 18",
    "context.colour == \"red\"",
    "context.age >= 18",
];

pub fn one_of<T: Clone + std::fmt::Debug + 'static>(list: &'static [T]) -> impl Strategy<Value = T> {
    proptest::sample::select(list)
}

pub fn some_of<T: Clone + std::fmt::Debug + 'static>(list: &'static [T]) -> impl Strategy<Value = Vec<T>> {
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
        condition in proptest::option::weighted(0.2, one_of(&CONDITIONS)),
        expires in future(),
    ) -> ReplicateTo {
        ReplicateTo {
            condition: condition.map(Condition::new),
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
pub fn any_world() -> impl Strategy<Value = PolicySource> {
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
    fn any_subject()(
        age in proptest::option::weighted(0.8, 10u8..40),
        country in proptest::option::weighted(0.8, one_of(&["DE", "FR", "US"])),
        objects_to in proptest::option::weighted(0.1, some_of(Purpose::ALL)),
        restricted in proptest::bool::weighted(0.05),
    ) -> Subject {
        Subject {
            age,
            country: country.map(|code| code.parse().unwrap()),
            objects_to: objects_to.into_iter().flatten().collect(),
            restricted,
        }
    }
}

prop_compose! {
    pub fn any_question()(
        tenant_name in one_of(&["stride-eu", "stride-eu", "stride-eu", "stride-us", "nobody"]),
        class in one_of(&CLASSES),
        purpose in one_of(Purpose::ALL),
        to in one_of(&["us", "us", "us", "eu", "eu-north", "mars"]),
        fields in some_of(&FIELDS),
        when in moment(-2..3),
        subject in proptest::option::of(any_subject()),
    ) -> Question {
        Question {
            tenant: tenant(tenant_name),
            class,
            purpose,
            to: region(to),
            fields: fields.into_iter().take(2).map(str::to_owned).collect(),
            now: when,
            subject,
        }
    }
}

/// What is asked of the engine and of the reference alike.
#[derive(Debug, Clone)]
pub struct Case {
    pub source: PolicySource,
    pub question: Question,
    /// The class in words, when it is none of ours.
    pub unknown_class: Option<&'static str>,
    pub lease_valid: bool,
    /// Another moment, at which the policy is asked without compiling again.
    pub later: Timestamp,
    /// Where the copy lies that may be passed on.
    pub via: RegionName,
    pub country: CountryCode,
    pub years: Option<u8>,
}

/// A world that is lawful but for up to two changes.
pub fn nearly_lawful_world() -> impl Strategy<Value = PolicySource> {
    proptest::collection::vec(any_change(), 0..3).prop_map(|changes: Vec<AnyChange>| {
        let mut source = lawful_world();
        for change in changes {
            change.apply(&mut source);
        }
        source
    })
}

/// A lawful edge of each kind: clauses, a certificate, corporate rules, adequacy with a special category, and none needed.
pub fn lawful_world() -> PolicySource {
    let mut source = world();
    for certified in [BCR, DPF] {
        source.importer().certifications.push(certification(certified));
    }
    source.exporter().certifications.push(certification(BCR));
    source.eu().mechanisms[1].classes.push(DataClass::TrainingContent);
    source.eu().mechanisms[2].classes.push(DataClass::Operational);
    let edge = |class, fields: &[&str], ask: ReplicateTo| ClassResidency {
        class,
        replicate_to: vec![ReplicateTo {
            fields: fields.iter().map(|name| (*name).to_owned()).collect(),
            onward: true,
            ..ask
        }],
    };
    let cited = |to, mechanism, instrument: &str| ReplicateTo {
        mechanism,
        instrument: instrument.to_owned(),
        ..ask(to)
    };
    let special = |ask| ReplicateTo {
        art9_condition: Some(Art9Condition::ExplicitConsent),
        ..ask
    };
    let mut more = vec![
        edge(
            DataClass::Health,
            &["hr"],
            special(cited("us", Mechanism::Adequacy, "a decision")),
        ),
        edge(
            DataClass::TrainingContent,
            &["title"],
            special(cited("us", Mechanism::Certification, DPF)),
        ),
        edge(DataClass::SocialGraph, &["followed"], special(ask("us"))),
        edge(DataClass::Operational, &["version"], cited("us", Mechanism::Bcr, BCR)),
        edge(
            DataClass::Health,
            &["hr"],
            special(cited("eu-north", Mechanism::NotRestricted, "inside eu")),
        ),
        edge(
            DataClass::WorkoutSummary,
            &["sport_type"],
            cited("eu-north", Mechanism::NotRestricted, "inside eu"),
        ),
    ];
    let classes = &mut source.stride_eu().classes;
    classes[0].replicate_to[0].purposes = vec![Purpose::CrossBorderSharing, Purpose::ServiceProvision];
    classes.append(&mut more);
    source
}

/// A question about something that a tenant of the world asks for, where there is such a thing.
fn question_about(source: &PolicySource, which: usize, few: bool, anything: &Question) -> Option<Question> {
    let asked: Vec<(&TenantId, DataClass, &ReplicateTo)> = source
        .tenants
        .iter()
        .flat_map(|(id, facts)| facts.spec.classes.iter().map(move |entry| (id, entry)))
        .flat_map(|(id, entry)| entry.replicate_to.iter().map(move |ask| (id, entry.class, ask)))
        .collect();
    let (tenant, class, ask) = asked.get(which % asked.len().max(1))?;
    Some(Question {
        tenant: (*tenant).clone(),
        class: *class,
        purpose: ask
            .purposes
            .get(which % 7)
            .copied()
            .or(ask.purposes.first().copied())
            .unwrap_or(anything.purpose),
        to: ask.region.clone(),
        fields: ask.fields.iter().take(if few { 1 } else { 64 }).cloned().collect(),
        now: anything.now,
        subject: anything.subject.clone(),
    })
}

prop_compose! {
    /// Three in four ask about an edge of a nearly lawful world; the rest ask anything of any world.
    pub fn any_case()(
        source in prop_oneof![5 => nearly_lawful_world(), 1 => any_world()],
        anything in any_question(),
        about in proptest::option::weighted(0.9, any::<u16>()),
        few: bool,
        noise in 0u8..100,
        later in moment(-2..400),
        via in one_of(&["us", "eu-north", "eu-north", "eu", "mars"]),
        country in one_of(&["DE", "FR", "US", "BR"]),
        years in proptest::option::of(0u8..30),
    ) -> Case {
        let question = about
            .and_then(|which| question_about(&source, usize::from(which), few, &anything))
            .unwrap_or(anything);
        Case {
            source,
            question,
            unknown_class: (noise < 2).then_some("moods"),
            lease_valid: noise < 98,
            later,
            via: region(via),
            country: country.parse().unwrap(),
            years,
        }
    }
}
