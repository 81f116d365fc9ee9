//! Assesses one edge that a tenant asks for: every check, in order, each with its ground or its refusal.
//!
//! Compiling, explaining and admission all go through here, so that they cannot disagree.

use jiff::Timestamp;

use crate::catalogue::TransferableFields;
use crate::decision::{Check, Ground};
use crate::edge::{CompiledEdge, EdgeId};
use crate::names::{DocumentDigest, TenantId};
use crate::rule::{Denial, Rule};
use crate::source::{PolicySource, RegionFacts, TenantFacts};
use crate::spec::{JurisdictionSpec, OfferedMechanism, PartySpec, ReplicateTo};
use crate::vocabulary::{Art9Condition, DataClass, LegalFramework, Mechanism, Purpose, Sensitivity};

/// What came of an assessment.
pub(crate) struct Assessment {
    /// Every check, with the field of `replicateTo` that it looked at.
    pub(crate) findings: Vec<(&'static str, Check)>,
    /// The edge, if nothing refuses.
    pub(crate) edge: Option<CompiledEdge>,
}

impl Assessment {
    pub(crate) fn denials(&self) -> impl Iterator<Item = (&'static str, &Denial)> {
        self.findings.iter().filter_map(|(field, check)| match check {
            Check::Refuses(denial) => Some((*field, denial)),
            Check::Holds(_) => None,
        })
    }

    fn refused(&self) -> bool {
        self.denials().next().is_some()
    }

    /// Notes the outcome of a check and hands on what it found.
    fn note<T>(&mut self, field: &'static str, outcome: Result<Found<T>, Denial>) -> Option<T> {
        match outcome {
            Ok(Found { ground, value }) => {
                self.findings.extend(ground.map(|ground| (field, Check::Holds(ground))));
                Some(value)
            }
            Err(denial) => {
                self.findings.push((field, Check::Refuses(denial)));
                None
            }
        }
    }
}

/// What a check that holds found, and the ground that it adds.
struct Found<T> {
    ground: Option<Ground>,
    value: T,
}

fn found<T>(kind: &'static str, sentence: String, value: T) -> Found<T> {
    Found {
        ground: Some(Ground { kind, sentence }),
        value,
    }
}

fn nothing_needed<T>(value: T) -> Found<T> {
    Found { ground: None, value }
}

/// The time during which a ground holds, and the rule that refuses after it.
#[derive(Clone, Copy)]
struct Span {
    from: Option<Timestamp>,
    until: Option<Timestamp>,
    ends_with: Rule,
}

/// The assessment relied on, if any.
#[derive(Default)]
struct Assessed {
    digest: Option<DocumentDigest>,
    span: Option<Span>,
}

/// One edge that a tenant asks for.
pub(crate) struct AskedEdge<'a> {
    pub(crate) source: &'a PolicySource,
    pub(crate) fields: &'a TransferableFields,
    pub(crate) tenant: &'a TenantFacts,
    pub(crate) class: DataClass,
    pub(crate) ask: &'a ReplicateTo,
    pub(crate) now: Timestamp,
}

/// The two ends of an edge.
struct Ends<'a> {
    exporter: &'a RegionFacts,
    importer: &'a RegionFacts,
    home_law: &'a JurisdictionSpec,
    target_law: &'a JurisdictionSpec,
    exporting_party: &'a PartySpec,
    importing_party: &'a PartySpec,
}

impl<'a> AskedEdge<'a> {
    /// Makes every check that can be made.
    pub(crate) fn assess(&self) -> Assessment {
        let mut result = Assessment {
            findings: Vec::new(),
            edge: None,
        };
        let Some(ends) = result.note("region", self.ends()) else {
            return result;
        };

        let importer_tenant = result.note("region", self.importer_tenant());
        result.note("mechanism", self.not_a_derogation());
        result.note("art9Condition", self.consent_is_not_a_derogation());
        let offer = result.note("mechanism", self.offer(&ends));
        let assessment = result.note("tia", self.assessment());
        let certification = result.note("mechanism", self.certification(&ends));
        let condition = result.note("art9Condition", self.special_category(&ends));
        result.note("fields", self.fields());
        result.note("purposes", self.purposes());
        let own = result.note("expires", self.own_expiry());

        if let (
            Some(importer_tenant),
            Some(offer),
            Some(assessed),
            Some(certified),
            Some(condition),
            Some(own),
            false,
        ) = (
            importer_tenant,
            offer,
            assessment,
            certification,
            condition,
            own,
            result.refused(),
        ) {
            let spans = [Some(own), Some(offer), assessed.span, certified]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>();
            result.edge = Some(self.compiled(&ends, importer_tenant, &spans, assessed.digest, condition));
        }
        result
    }

    fn deny(&self, rule: Rule, because: String) -> Denial {
        let spec = &self.tenant.spec;
        Denial::new(
            rule,
            self.framework(),
            format!(
                "{} of {} may not go from {} to {}: {because}",
                self.class, spec.tenant, spec.home.region, self.ask.region
            ),
        )
    }

    fn framework(&self) -> LegalFramework {
        framework_of(self.source, self.tenant)
    }

    fn region(&self, name: &crate::RegionName) -> Result<&'a RegionFacts, Denial> {
        self.source.regions.get(name).ok_or_else(|| {
            self.deny(
                Rule::UnknownRegion,
                format!("there is no FitnessRegion '{name}'; create it or name another"),
            )
        })
    }

    fn law_of(&self, region: &RegionFacts) -> Result<&'a JurisdictionSpec, Denial> {
        self.source.jurisdictions.get(&region.jurisdiction).ok_or_else(|| {
            let because = format!(
                "region {} is in jurisdiction '{}', which does not exist; create the Jurisdiction",
                region.name, region.jurisdiction
            );
            self.deny(Rule::UnknownJurisdiction, because)
        })
    }

    fn operator_of(&self, region: &RegionFacts) -> Result<&'a PartySpec, Denial> {
        self.source.parties.get(&region.operated_by).ok_or_else(|| {
            let because = format!(
                "region {} is operated by '{}', which does not exist; create the Party",
                region.name, region.operated_by
            );
            self.deny(Rule::UnknownParty, because)
        })
    }

    fn ends(&self) -> Result<Found<Ends<'a>>, Denial> {
        let home = &self.tenant.spec.home.region;
        if *home == self.ask.region {
            let because = "it is the home itself; leave the home out of replicateTo".to_owned();
            return Err(self.deny(Rule::HomeNamedAsTarget, because));
        }
        let exporter = self.region(home)?;
        let importer = self.region(&self.ask.region)?;
        let ends = Ends {
            exporter,
            importer,
            home_law: self.law_of(exporter)?,
            target_law: self.law_of(importer)?,
            exporting_party: self.operator_of(exporter)?,
            importing_party: self.operator_of(importer)?,
        };
        let sentence = format!(
            "{} ({}) exports under the law of {} to {} ({}) in {}",
            exporter.operated_by,
            exporter.name,
            exporter.jurisdiction,
            importer.operated_by,
            importer.name,
            importer.jurisdiction
        );
        Ok(found("parties", sentence, ends))
    }

    fn importer_tenant(&self) -> Result<Found<TenantId>, Denial> {
        let spec = &self.tenant.spec;
        let mut there = self.source.tenants.values().map(|other| &other.spec).filter(|other| {
            other.organization == spec.organization
                && other.home.region == self.ask.region
                && other.tenant != spec.tenant
        });
        match (there.next(), there.next()) {
            (Some(one), None) => {
                let sentence = format!("tenant {} of {} receives it", one.tenant, spec.organization);
                Ok(found("importer", sentence, one.tenant.clone()))
            }
            (None, _) => {
                let because = format!(
                    "organization {} has no tenant with its home in {} that could receive it; create one there first",
                    spec.organization, self.ask.region
                );
                Err(self.deny(Rule::TenantUnknown, because))
            }
            (Some(one), Some(other)) => {
                let because = format!(
                    "organization {} has two tenants in {} ({} and {}), so it is not clear which one receives it; keep one",
                    spec.organization, self.ask.region, one.tenant, other.tenant
                );
                Err(self.deny(Rule::TenantUnknown, because))
            }
        }
    }

    fn not_a_derogation(&self) -> Result<Found<()>, Denial> {
        if self.ask.mechanism == Mechanism::Art49Derogation {
            let because = "a derogation is for specific situations and never carries systematic replication; cite another mechanism";
            return Err(self.deny(Rule::DerogationNeverSystematic, because.to_owned()));
        }
        Ok(nothing_needed(()))
    }

    /// An athlete who agrees to share a workout has not agreed to the risks of a transfer without safeguards.
    fn consent_is_not_a_derogation(&self) -> Result<Found<()>, Denial> {
        let leans_on_consent = self.ask.purposes.iter().any(|purpose| purpose.needs_consent())
            || self.ask.art9_condition == Some(Art9Condition::ExplicitConsent);
        if self.ask.mechanism == Mechanism::Art49Derogation && leans_on_consent {
            let because = "the athlete's consent to share is not consent to a transfer without safeguards; cite a mechanism that has safeguards";
            return Err(self.deny(Rule::ConsentIsNotArt49, because.to_owned()));
        }
        Ok(nothing_needed(()))
    }

    fn offer(&self, ends: &Ends<'a>) -> Result<Found<Span>, Denial> {
        if ends.exporter.jurisdiction == ends.importer.jurisdiction {
            return self.inside_one_jurisdiction(ends);
        }
        let (home, target) = (&ends.exporter.jurisdiction, &ends.importer.jurisdiction);
        let cited = format!("{} '{}'", self.ask.mechanism, self.ask.instrument);
        let offered: Vec<&OfferedMechanism> = ends
            .home_law
            .mechanisms
            .iter()
            .filter(|offer| {
                offer.to == *target && offer.mechanism == self.ask.mechanism && offer.instrument == self.ask.instrument
            })
            .collect();
        if offered.is_empty() {
            let because = format!("jurisdiction {home} does not offer {cited} to {target}; cite one that it offers");
            return Err(self.deny(Rule::MechanismNotOffered, because));
        }
        let listing: Vec<_> = offered
            .into_iter()
            .filter(|offer| offer.classes.contains(&self.class))
            .collect();
        if listing.is_empty() {
            let because = format!(
                "jurisdiction {home} offers {cited} to {target}, but not for {}; this class stays at home",
                self.class
            );
            return Err(self.deny(Rule::ClassNotListed, because));
        }
        self.in_force(&listing, &cited)
    }

    fn inside_one_jurisdiction(&self, ends: &Ends<'a>) -> Result<Found<Span>, Denial> {
        let law = &ends.exporter.jurisdiction;
        if self.ask.mechanism != Mechanism::NotRestricted {
            let because = format!(
                "both regions are in {law}, where no transfer mechanism applies; cite NotRestricted instead of {}",
                self.ask.mechanism
            );
            return Err(self.deny(Rule::MechanismNotOffered, because));
        }
        let span = Span {
            from: None,
            until: None,
            ends_with: Rule::MechanismExpired,
        };
        Ok(found(
            "mechanism",
            format!("both regions are in {law}: the data crosses no border"),
            span,
        ))
    }

    fn in_force(&self, listing: &[&OfferedMechanism], cited: &str) -> Result<Found<Span>, Denial> {
        let begun: Vec<_> = listing
            .iter()
            .filter(|offer| offer.effective_from <= self.now)
            .collect();
        if begun.is_empty() {
            let from = listing
                .iter()
                .map(|offer| offer.effective_from)
                .min()
                .unwrap_or(Timestamp::MAX);
            return Err(self.deny(
                Rule::MechanismNotInForce,
                format!("{cited} is in force only from {from}"),
            ));
        }
        // Of several that say the same the one that ends last: taking one away can then never prolong an edge.
        let last = begun.iter().max_by_key(|offer| offer.expires.unwrap_or(Timestamp::MAX));
        match last {
            Some(offer) if offer.expires.is_none_or(|end| self.now < end) => {
                let article = self.ask.mechanism.article(self.framework());
                let sentence = format!(
                    "{cited} lists {} to {}{}",
                    self.class,
                    offer.to,
                    article.map(|article| format!(" ({article})")).unwrap_or_default()
                );
                let span = Span {
                    from: Some(offer.effective_from),
                    until: offer.expires,
                    ends_with: Rule::MechanismExpired,
                };
                Ok(found("mechanism", sentence, span))
            }
            _ => {
                let end = last.and_then(|offer| offer.expires).unwrap_or(Timestamp::MIN);
                Err(self.deny(Rule::MechanismExpired, format!("{cited} expired at {end}")))
            }
        }
    }

    fn assessment(&self) -> Result<Found<Assessed>, Denial> {
        let mechanism = self.ask.mechanism;
        match &self.ask.tia {
            None if mechanism.needs_assessment() => {
                let because =
                    format!("{mechanism} needs a transfer impact assessment; give its digest and review date in tia");
                Err(self.deny(Rule::AssessmentMissing, because))
            }
            None => Ok(nothing_needed(Assessed::default())),
            // An assessment given without need is still a limit that people set: it counts.
            Some(tia) if tia.review_by <= self.now => {
                let because = format!(
                    "its transfer impact assessment was due for review at {}; review it and give the new digest and date",
                    tia.review_by
                );
                Err(self.deny(Rule::AssessmentStale, because))
            }
            Some(tia) => {
                let span = Span {
                    from: None,
                    until: Some(tia.review_by),
                    ends_with: Rule::AssessmentStale,
                };
                let sentence = format!("assessment {} counts until {}", tia.digest, tia.review_by);
                Ok(found(
                    "assessment",
                    sentence,
                    Assessed {
                        digest: Some(tia.digest.clone()),
                        span: Some(span),
                    },
                ))
            }
        }
    }

    fn certification(&self, ends: &Ends<'a>) -> Result<Found<Option<Span>>, Denial> {
        // Binding corporate rules bind both sides; a certification is the importer's alone.
        let bound = match self.ask.mechanism {
            Mechanism::Bcr => vec![
                (&ends.exporter.operated_by, ends.exporting_party),
                (&ends.importer.operated_by, ends.importing_party),
            ],
            mechanism if mechanism.binds_the_importer() => vec![(&ends.importer.operated_by, ends.importing_party)],
            _ => return Ok(nothing_needed(None)),
        };
        let mut span = Span {
            from: None,
            until: None,
            ends_with: Rule::PartyNotCertified,
        };
        let mut names = Vec::new();
        for (name, party) in bound {
            let Some(held) = party.certified(&self.ask.instrument, self.now) else {
                let because = format!(
                    "{name} ({}) holds no current certification under '{}'; it must be certified itself, its country is not",
                    party.legal_name, self.ask.instrument
                );
                return Err(self.deny(Rule::PartyNotCertified, because));
            };
            span.from = span.from.max(Some(held.effective_from));
            span.until = Some(span.until.map_or(held.expires, |until| until.min(held.expires)));
            names.push(name.as_str());
        }
        let sentence = format!("{} certified under '{}'", names.join(" and "), self.ask.instrument);
        Ok(found("certification", sentence, Some(span)))
    }

    fn special_category(&self, ends: &Ends<'a>) -> Result<Found<Option<Art9Condition>>, Denial> {
        let special_at = |law: &JurisdictionSpec| law.sensitivity_of(self.class) == Sensitivity::Special;
        if !special_at(ends.home_law) && !special_at(ends.target_law) {
            return Ok(nothing_needed(self.ask.art9_condition));
        }
        match self.ask.art9_condition {
            Some(condition) => {
                let sentence = format!("{} is a special category; {condition} is the condition", self.class);
                Ok(found("art9-condition", sentence, Some(condition)))
            }
            None => {
                let because = format!(
                    "{} is a special category there or here; name the art9Condition",
                    self.class
                );
                Err(self.deny(Rule::Art9ConditionMissing, because))
            }
        }
    }

    fn fields(&self) -> Result<Found<()>, Denial> {
        if self.ask.fields.is_empty() {
            return Err(self.deny(
                Rule::FieldNotAllowed,
                "no field is listed; list those that may go".to_owned(),
            ));
        }
        let foreign: Vec<&str> = self
            .ask
            .fields
            .iter()
            .map(String::as_str)
            .filter(|field| !self.fields.has(self.class, field))
            .collect();
        if !foreign.is_empty() {
            let because = format!(
                "{} is not a field of {}; the catalogue lists {}",
                foreign.join(", "),
                self.class,
                self.fields.names_of(self.class)
            );
            return Err(self.deny(Rule::FieldNotAllowed, because));
        }
        Ok(found(
            "fields",
            format!("{} go, no other field", self.ask.fields.join(", ")),
            (),
        ))
    }

    fn purposes(&self) -> Result<Found<()>, Denial> {
        if self.ask.purposes.is_empty() {
            return Err(self.deny(
                Rule::PurposeNotAllowed,
                "no purpose is listed; list what it is for".to_owned(),
            ));
        }
        let names: Vec<&str> = self.ask.purposes.iter().map(|purpose| purpose.as_str()).collect();
        Ok(found("purposes", format!("for {}", names.join(", ")), ()))
    }

    fn own_expiry(&self) -> Result<Found<Span>, Denial> {
        let end = self.ask.expires;
        if end <= self.now {
            let because = format!("the tenant allowed it until {end}; prolong it in replicateTo.expires");
            return Err(self.deny(Rule::MechanismExpired, because));
        }
        let span = Span {
            from: None,
            until: Some(end),
            ends_with: Rule::MechanismExpired,
        };
        Ok(found("validity", format!("the tenant allows it until {end}"), span))
    }

    fn compiled(
        &self,
        ends: &Ends<'a>,
        importer_tenant: TenantId,
        spans: &[Span],
        assessment: Option<DocumentDigest>,
        condition: Option<Art9Condition>,
    ) -> CompiledEdge {
        let spec = &self.tenant.spec;
        let first_end = spans
            .iter()
            .filter_map(|span| Some((span.until?, span.ends_with)))
            .min_by_key(|(end, _)| *end);
        let (expires, ends_with) = first_end.unwrap_or((self.ask.expires, Rule::MechanismExpired));
        let effective_from = spans
            .iter()
            .filter_map(|span| span.from)
            .max()
            .unwrap_or(Timestamp::UNIX_EPOCH);
        CompiledEdge {
            id: EdgeId::new(&spec.tenant, self.class, &self.ask.region),
            tenant: spec.tenant.clone(),
            organization: spec.organization.clone(),
            from: spec.home.region.clone(),
            to: self.ask.region.clone(),
            exporter: ends.exporter.operated_by.clone(),
            importer: ends.importer.operated_by.clone(),
            importer_tenant,
            class: self.class,
            purposes: self.ask.purposes.iter().copied().collect(),
            fields: self.ask.fields.iter().cloned().collect(),
            mechanism: self.ask.mechanism,
            instrument: self.ask.instrument.clone(),
            effective_from,
            expires,
            ends_with,
            assessment,
            art9_condition: condition,
            pseudonymise: self.ask.pseudonymise,
            onward: self.ask.onward,
            needs_consent: self.ask.purposes.iter().copied().any(Purpose::needs_consent)
                || condition == Some(Art9Condition::ExplicitConsent),
            framework: self.framework(),
            rule: format!(
                "{} '{}' from {} to {} lists {}",
                self.ask.mechanism,
                self.ask.instrument,
                ends.exporter.jurisdiction,
                ends.importer.jurisdiction,
                self.class
            ),
            epoch: self.tenant.epoch,
        }
    }
}

/// The body of law of the tenant's home; none that could be cited while the home is unknown.
pub(crate) fn framework_of(source: &PolicySource, tenant: &TenantFacts) -> LegalFramework {
    source
        .regions
        .get(&tenant.spec.home.region)
        .and_then(|region| source.jurisdictions.get(&region.jurisdiction))
        .map_or(LegalFramework::Other, |law| law.framework)
}
