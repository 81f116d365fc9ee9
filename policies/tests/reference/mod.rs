//! The law written a second time, slowly: straight from the rules of issue 5, architecture.md and residency.md ("Points of
//! law that a table of countries misses"), by reading lists from the front. It shares the types with the engine and none of
//! its judgement: no helper of `src/` that decides anything is called here, so that a mistake there is not repeated here.
#![allow(dead_code, reason = "each test crate asks the reference for another part")]

use std::collections::BTreeSet;

use jiff::Timestamp;
use meridian_policy::*;

/// All that may be asked, with the words as they come from outside.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The question; its class counts only when `class` is one.
    pub question: Question,
    /// The class in words.
    pub class: String,
    /// Whether the asker knows its policy to be current.
    pub lease_valid: bool,
}

/// Every rule that stands against what is asked; empty when it is lawful.
pub fn against(source: &PolicySource, fields: &TransferableFields, asked: &Asked) -> BTreeSet<Rule> {
    if !asked.lease_valid {
        return BTreeSet::from([Rule::PolicyStale]);
    }
    if !DataClass::ALL.iter().any(|class| class.as_str() == asked.class) {
        return BTreeSet::from([Rule::UnknownClass]);
    }
    against_question(source, fields, &asked.question)
}

/// Every rule that stands against the question; empty when it is lawful.
pub fn against_question(source: &PolicySource, fields: &TransferableFields, question: &Question) -> BTreeSet<Rule> {
    let Some(tenant) = source.tenants.get(&question.tenant) else {
        return BTreeSet::from([Rule::TenantUnknown]);
    };
    let asks: Vec<&ReplicateTo> = edges_for(tenant, question.class, &question.to);
    if asks.is_empty() {
        // Default deny; the sentence says what is the matter with the place, where something is.
        return BTreeSet::from([if !source.regions.contains_key(&question.to) {
            Rule::UnknownRegion
        } else if tenant.spec.home.region == question.to {
            Rule::HomeNamedAsTarget
        } else {
            Rule::NoEdge
        }]);
    }
    let mut rules = against_edge(
        source,
        fields,
        &question.tenant,
        question.class,
        &question.to,
        question.now,
    );
    if asks.len() == 1 {
        if !asks[0].purposes.contains(&question.purpose) {
            rules.insert(Rule::PurposeNotAllowed);
        }
        if question.fields.iter().any(|field| !asks[0].fields.contains(field)) {
            rules.insert(Rule::FieldNotAllowed);
        }
        if let Some(condition) = &asks[0].condition
            && met(condition.as_str(), question) == Some(false)
        {
            rules.insert(Rule::ConditionNotMet);
        }
        rules.extend(against_subject(source, tenant, question));
    }
    rules
}

/// "The subject's consent and age, no objection or restriction": what the person's own state forbids. The law is that of
/// the home; of someone whose country is not known the strictest of its ages counts.
fn against_subject(source: &PolicySource, tenant: &TenantFacts, question: &Question) -> BTreeSet<Rule> {
    let mut rules = BTreeSet::new();
    let Some(subject) = &question.subject else {
        return rules;
    };
    if subject.restricted {
        rules.insert(Rule::ProcessingRestricted);
    }
    if subject.objects_to.contains(&question.purpose) {
        rules.insert(Rule::SubjectObjects);
    }
    let home = source.regions.get(&tenant.spec.home.region);
    let Some(law) = home.and_then(|region| source.jurisdictions.get(&region.jurisdiction)) else {
        return rules;
    };
    let elsewhere: CountryCode = "BR".parse().unwrap();
    let countries: Vec<&CountryCode> = match &subject.country {
        Some(country) => vec![country],
        None => law
            .age_of_digital_consent
            .by_country
            .keys()
            .chain([&elsewhere])
            .collect(),
    };
    if countries
        .into_iter()
        .any(|country| kept_from(law, country, subject.age, question.purpose))
    {
        rules.insert(Rule::PurposeNotAllowed);
    }
    rules
}

/// What the conditions that tests use mean; none of what is no condition.
fn met(condition: &str, question: &Question) -> Option<bool> {
    let age = question.subject.as_ref().and_then(|subject| subject.age);
    match condition {
        "true" => Some(true),
        "context.purpose == \"cross-border-sharing\"" => Some(question.purpose == Purpose::CrossBorderSharing),
        "!context.fields.contains(\"distance_meters\")" => Some(!question.fields.contains("distance_meters")),
        "context has age && context.age >= 18" => Some(age.is_some_and(|years| years >= 18)),
        _ => None,
    }
}

fn edges_for<'a>(tenant: &'a TenantFacts, class: DataClass, to: &RegionName) -> Vec<&'a ReplicateTo> {
    let mut found = Vec::new();
    for entry in &tenant.spec.classes {
        for ask in &entry.replicate_to {
            if entry.class == class && ask.region == *to {
                found.push(ask);
            }
        }
    }
    found
}

/// Every rule that stands at `now` against an edge that is asked for. All must hold; the most restrictive wins.
pub fn against_edge(
    source: &PolicySource,
    fields: &TransferableFields,
    filed_as: &TenantId,
    class: DataClass,
    to: &RegionName,
    now: Timestamp,
) -> BTreeSet<Rule> {
    let tenant = &source.tenants[filed_as];
    if tenant.spec.tenant != *filed_as {
        return BTreeSet::from([Rule::TenantUnknown]);
    }
    let asks = edges_for(tenant, class, to);
    if asks.len() > 1 {
        return BTreeSet::from([Rule::Duplicate]);
    }
    let ask = asks[0];
    if tenant.spec.home.region == *to {
        return BTreeSet::from([Rule::HomeNamedAsTarget]);
    }
    let mut rules = BTreeSet::new();
    rules.extend(against_data(fields, class, ask));
    rules.extend(against_place(source, tenant, to));
    if now >= ask.expires {
        rules.insert(Rule::MechanismExpired);
    }
    let no_condition = ["context.colour == \"red\"", "context.age >= 18"];
    if let Some(condition) = &ask.condition
        && no_condition.contains(&condition.as_str())
    {
        rules.insert(Rule::ConditionInvalid);
    }
    rules.extend(against_derogation(ask));
    rules.extend(against_assessment(ask, now));
    if let Some(ends) = Ends::of(source, tenant, to) {
        rules.extend(ends.against_mechanism(class, ask, now));
        rules.extend(ends.against_parties(ask, now));
        rules.extend(ends.against_special(class, ask));
    }
    rules
}

/// "The fields": what is not a field of an event of this class has no ground to go. Nor has what goes for no purpose.
fn against_data(fields: &TransferableFields, class: DataClass, ask: &ReplicateTo) -> BTreeSet<Rule> {
    let mut rules = BTreeSet::new();
    if ask.fields.is_empty() || ask.fields.iter().any(|field| !fields.has(class, field)) {
        rules.insert(Rule::FieldNotAllowed);
    }
    if ask.purposes.is_empty() {
        rules.insert(Rule::PurposeNotAllowed);
    }
    rules
}

/// What is not known cannot be allowed: both regions, their laws, who runs them, and the one tenant that receives.
fn against_place(source: &PolicySource, tenant: &TenantFacts, to: &RegionName) -> BTreeSet<Rule> {
    let mut rules = BTreeSet::new();
    for name in [&tenant.spec.home.region, to] {
        let Some(region) = source.regions.get(name) else {
            rules.insert(Rule::UnknownRegion);
            continue;
        };
        if !source.jurisdictions.contains_key(&region.jurisdiction) {
            rules.insert(Rule::UnknownJurisdiction);
        }
        if !source.parties.contains_key(&region.operated_by) {
            rules.insert(Rule::UnknownParty);
        }
    }
    let receivers = source.tenants.iter().filter(|(filed_as, other)| {
        other.spec.tenant == **filed_as
            && other.spec.home.region == *to
            && other.spec.organization == tenant.spec.organization
    });
    // Two possible receivers: nobody could say whose copy it becomes.
    if receivers.count() != 1 {
        rules.insert(Rule::TenantUnknown);
    }
    rules
}

/// "Art 49 derogations never carry systematic replication", and consent to share is not Art 49 consent: nor is any other
/// consent to a use, however explicit.
fn against_derogation(ask: &ReplicateTo) -> BTreeSet<Rule> {
    let mut rules = BTreeSet::new();
    if ask.mechanism == Mechanism::Art49Derogation {
        rules.insert(Rule::DerogationNeverSystematic);
        let consented = |purpose: &Purpose| !matches!(purpose, Purpose::ServiceProvision | Purpose::LegalObligation);
        if ask.purposes.iter().any(consented) || ask.art9_condition == Some(Art9Condition::ExplicitConsent) {
            rules.insert(Rule::ConsentIsNotArt49);
        }
    }
    rules
}

/// "SCC/BCR need a current impact assessment"; the IDTA is the United Kingdom's form of the same clauses. One given where
/// none is needed is one of "the tenant's own limits", and the most restrictive wins.
fn against_assessment(ask: &ReplicateTo, now: Timestamp) -> Option<Rule> {
    match (ask.mechanism, &ask.tia) {
        (_, Some(tia)) => (now >= tia.review_by).then_some(Rule::AssessmentStale),
        (Mechanism::Scc | Mechanism::Bcr | Mechanism::Idta, None) => Some(Rule::AssessmentMissing),
        (_, None) => None,
    }
}

/// Both ends of an edge, when all of them are known.
struct Ends<'a> {
    home: &'a RegionFacts,
    target: &'a RegionFacts,
    home_law: &'a JurisdictionSpec,
    target_law: &'a JurisdictionSpec,
    exporter: &'a PartySpec,
    importer: &'a PartySpec,
}

impl<'a> Ends<'a> {
    fn of(source: &'a PolicySource, tenant: &TenantFacts, to: &RegionName) -> Option<Self> {
        let home = source.regions.get(&tenant.spec.home.region)?;
        let target = source.regions.get(to)?;
        Some(Self {
            home,
            target,
            home_law: source.jurisdictions.get(&home.jurisdiction)?,
            target_law: source.jurisdictions.get(&target.jurisdiction)?,
            exporter: source.parties.get(&home.operated_by)?,
            importer: source.parties.get(&target.operated_by)?,
        })
    }

    /// "A transfer mechanism (Ch V) between the two parties and countries that is in force"; "no mechanism listed, no
    /// transfer". Inside one jurisdiction there is no border to cross, so that the edge cites `NotRestricted`.
    fn against_mechanism(&self, class: DataClass, ask: &ReplicateTo, now: Timestamp) -> Option<Rule> {
        if self.importer_sits_elsewhere() {
            return Some(Rule::MechanismNotOffered);
        }
        if self.home.jurisdiction == self.target.jurisdiction {
            return (ask.mechanism != Mechanism::NotRestricted).then_some(Rule::MechanismNotOffered);
        }
        let mut cited = self.home_law.mechanisms.clone();
        cited.retain(|offer| offer.to == self.target.jurisdiction);
        cited.retain(|offer| offer.mechanism == ask.mechanism && offer.instrument == ask.instrument);
        if cited.is_empty() {
            return Some(Rule::MechanismNotOffered);
        }
        cited.retain(|offer| offer.classes.contains(&class));
        if cited.is_empty() {
            return Some(Rule::ClassNotListed);
        }
        if cited
            .iter()
            .any(|offer| in_force(offer.effective_from, offer.expires, now))
        {
            return None;
        }
        // What was relied on has ended, also when another is still to come.
        if cited.iter().any(|offer| offer.effective_from <= now) {
            return Some(Rule::MechanismExpired);
        }
        Some(Rule::MechanismNotInForce)
    }

    /// The mechanism reaches a country. An importer that is established where the target's law does not hold takes the
    /// data to a third country that nobody assessed ("remote access from abroad is a transfer"). Inside one legal entity
    /// there is no second party to disclose to.
    fn importer_sits_elsewhere(&self) -> bool {
        let part_of_it = |part: &SubdivisionCode| part.as_str().starts_with(self.importer.country.as_str());
        let at_home = self.target_law.countries.contains(&self.importer.country)
            || self.target_law.subdivisions.iter().any(part_of_it);
        !at_home && self.home.operated_by != self.target.operated_by
    }

    /// A certificate belongs to an entity, not to a country: the importer's own. Binding corporate rules bind both.
    fn against_parties(&self, ask: &ReplicateTo, now: Timestamp) -> Option<Rule> {
        let holds = |party: &PartySpec| {
            party
                .certifications
                .iter()
                .any(|held| held.instrument == ask.instrument && in_force(held.effective_from, Some(held.expires), now))
        };
        let enough = match ask.mechanism {
            Mechanism::Certification => holds(self.importer),
            Mechanism::Bcr => holds(self.importer) && holds(self.exporter),
            _ => true,
        };
        (!enough).then_some(Rule::PartyNotCertified)
    }

    /// "An Art 9 condition where the class is special", under whichever of the two laws is stricter; and one that can
    /// carry what the data is used for.
    fn against_special(&self, class: DataClass, ask: &ReplicateTo) -> Option<Rule> {
        let special = |law: &JurisdictionSpec| match law.sensitivity.get(&class) {
            Some(said) => *said == Sensitivity::Special,
            None => special_unless_said_otherwise(class),
        };
        if !special(self.home_law) && !special(self.target_law) {
            return None;
        }
        let carried = ask
            .art9_condition
            .is_some_and(|condition| ask.purposes.iter().all(|purpose| carries(condition, *purpose)));
        (!carried).then_some(Rule::Art9ConditionMissing)
    }
}

/// From its first moment to before its last.
fn in_force(from: Timestamp, until: Option<Timestamp>, now: Timestamp) -> bool {
    from <= now && until.is_none_or(|until| now < until)
}

/// Health, what a model infers, and free text; "groups, tags and free text count as possible Art 9 data".
fn special_unless_said_otherwise(class: DataClass) -> bool {
    matches!(
        class,
        DataClass::Health
            | DataClass::Inference
            | DataClass::Messages
            | DataClass::SocialGraph
            | DataClass::TrainingContent
    )
}

/// Art 9(2), letter by letter, read narrowly: which uses its words allow.
fn carries(condition: Art9Condition, purpose: Purpose) -> bool {
    let uses: &[Purpose] = match condition {
        // (a) "for one or more specified purposes": whatever was consented to.
        Art9Condition::ExplicitConsent => Purpose::ALL,
        // (b), (f), (g), (i) only where a law asks for it or a claim is at stake.
        Art9Condition::EmploymentAndSocialSecurity
        | Art9Condition::LegalClaims
        | Art9Condition::SubstantialPublicInterest
        | Art9Condition::PublicHealth => &[Purpose::LegalObligation],
        // (c), (h) to help the person.
        Art9Condition::VitalInterests | Art9Condition::HealthCare => {
            &[Purpose::ServiceProvision, Purpose::LegalObligation]
        }
        // (d) "not disclosed outside that body".
        Art9Condition::NonProfitMembers => &[Purpose::ServiceProvision],
        // (e) what is public may be shown and counted; it is no invitation to advertise or to infer.
        Art9Condition::ManifestlyPublic => &[
            Purpose::ServiceProvision,
            Purpose::CrossBorderSharing,
            Purpose::Analytics,
            Purpose::LegalObligation,
        ],
        // (j) "statistical purposes".
        Art9Condition::ArchivingAndResearch => &[Purpose::Analytics, Purpose::LegalObligation],
    };
    uses.contains(&purpose)
}

/// Every class of the tenant that is kept for longer or shorter than the law of its home allows.
pub fn retention_outside_law(source: &PolicySource, tenant: &TenantId) -> BTreeSet<DataClass> {
    let law = source.tenants.get(tenant).and_then(|facts| {
        let home = source.regions.get(&facts.spec.home.region)?;
        Some((facts, source.jurisdictions.get(&home.jurisdiction)?))
    });
    let Some((facts, law)) = law else {
        return BTreeSet::new();
    };
    let outside = |class: &DataClass, days: u32| {
        law.retention.get(class).is_some_and(|limits| {
            limits.min_days.is_some_and(|least| days < least) || limits.max_days.is_some_and(|most| days > most)
        })
    };
    let kept = facts.spec.retention.iter();
    kept.filter(|(class, days)| outside(class, **days))
        .map(|(class, _)| *class)
        .collect()
}

/// Whether a copy that came along `via` may be passed on to where `question` asks: "copies follow the origin's law; no
/// onward transfer unless the edge says so". So the edge says so, it may carry this itself, and the origin's own edge to
/// the third place may too.
pub fn may_go_on(source: &PolicySource, fields: &TransferableFields, via: &RegionName, question: &Question) -> bool {
    let first = Question {
        to: via.clone(),
        ..question.clone()
    };
    let says_so = source
        .tenants
        .get(&question.tenant)
        .is_some_and(|tenant| edges_for(tenant, question.class, via).iter().all(|ask| ask.onward));
    *via != question.to
        && says_so
        && against_question(source, fields, &first).is_empty()
        && against_question(source, fields, question).is_empty()
}

/// Whether someone of that age (none: not known) in that country is kept from a purpose: "children: EU 13–16 by country",
/// and "unknown age counts as minor for profiling, promotion and people-nearby".
pub fn kept_from(law: &JurisdictionSpec, country: &CountryCode, years: Option<u8>, purpose: Purpose) -> bool {
    let age = match law.age_of_digital_consent.by_country.get(country) {
        Some(said) => *said,
        None => law.age_of_digital_consent.default,
    };
    match purpose {
        Purpose::Profiling | Purpose::Marketing => years.is_none_or(|years| years < age),
        Purpose::CrossBorderSharing | Purpose::Analytics => years.is_some_and(|years| years < age),
        Purpose::ServiceProvision | Purpose::LegalObligation => false,
    }
}
