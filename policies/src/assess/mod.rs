//! Assesses one edge that a tenant asks for: every check, in order, each with its ground or its refusal.
//!
//! Compiling, explaining and admission all go through here, so that they cannot disagree.

mod data;
mod homes;
mod mechanism;

use jiff::Timestamp;

pub(crate) use homes::Homes;

use crate::catalogue::TransferableFields;
use crate::decision::{Check, Ground};
use crate::edge::{CompiledEdge, EdgeId};
use crate::names::{DocumentDigest, TenantId};
use crate::rule::{Denial, Rule};
use crate::source::{PolicySource, RegionFacts, TenantFacts};
use crate::spec::{JurisdictionSpec, PartySpec, ReplicateTo};
use crate::vocabulary::{Art9Condition, DataClass, LegalFramework, Purpose};

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
    /// Of the source.
    pub(crate) homes: &'a Homes,
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
        result.note("purposes", Ok(self.lawful_basis()));
        result.note("condition", self.condition());
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
            // Of several that end at once the first is named: a hub that adopts an edge writes that end as the edge's own.
            let spans = [certified, Some(own), Some(offer), assessed.span]
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
        let there = self.homes.of_organization_in(&spec.organization, &self.ask.region);
        let mut there = there.iter().filter(|other| **other != spec.tenant);
        match (there.next(), there.next()) {
            (Some(one), None) => {
                let sentence = format!("tenant {one} of {} receives it", spec.organization);
                Ok(found("importer", sentence, one.clone()))
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
                    "organization {} has two tenants in {} ({one} and {other}), so it is not clear which one receives it; keep one",
                    spec.organization, self.ask.region
                );
                Err(self.deny(Rule::TenantUnknown, because))
            }
        }
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
            condition: self.ask.condition.clone(),
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
