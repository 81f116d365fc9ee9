//! Reviews what people ask for, before it is accepted: every violation, with the field that causes it.

use jiff::Timestamp;

use crate::assess::{AskedEdge, Homes};
use crate::catalogue::{Catalogue, TransferableFields};
use crate::compile::{asked_twice, asks, duplicate};
use crate::edge::EdgeId;
use crate::names::Epoch;
use crate::rule::{Rule, Violation};
use crate::source::{PolicySource, RegionFacts, TenantFacts};
use crate::spec::{ReplicateTo, TenantResidencySpec};
use crate::vocabulary::DataClass;

/// Everything that is wrong with a tenant's residency at `now`, its edges included. Empty: nothing is.
#[must_use]
pub fn review(spec: &TenantResidencySpec, source: &PolicySource, now: Timestamp) -> Vec<Violation> {
    review_with(
        (spec, Epoch::default()),
        (source, &Homes::of(source)),
        &Catalogue::embedded().transferable(),
        now,
    )
}

/// Like [`review`], for a change from `old`: what was there before, or is now less than before, is not held against the
/// change. So narrowing and revoking always pass, also when something else has expired meanwhile; what remains shows in
/// the status.
#[must_use]
pub fn review_change(
    old: &TenantResidencySpec,
    new: &TenantResidencySpec,
    source: &PolicySource,
    now: Timestamp,
) -> Vec<Violation> {
    if (&old.organization, &old.tenant, &old.home) != (&new.organization, &new.tenant, &new.home) {
        return review(new, source, now);
    }
    let mut widened = new.clone();
    for entry in &mut widened.classes {
        let class = entry.class;
        entry
            .replicate_to
            .retain(|ask| !old_asks(old, class).any(|before| ask.narrows(before)));
    }
    widened
        .retention
        .retain(|class, days| old.retention.get(class) != Some(days));
    let mut violations = review(&widened, source, now);
    violations.retain(|violation| violation.path != "spec.home.region");
    violations
}

fn old_asks(old: &TenantResidencySpec, class: DataClass) -> impl Iterator<Item = &ReplicateTo> {
    old.classes
        .iter()
        .filter(move |entry| entry.class == class)
        .flat_map(|entry| &entry.replicate_to)
}

impl ReplicateTo {
    /// True when this asks for nothing that `before` did not ask for. What was refused for something that is not asked for any
    /// more, a purpose that its condition cannot carry, may be lawful then.
    #[must_use]
    pub fn narrows(&self, before: &Self) -> bool {
        let assessment_no_longer = match (&self.tia, &before.tia) {
            (Some(now), Some(then)) => now.digest == then.digest && now.review_by <= then.review_by,
            (now, then) => now == then,
        };
        self.region == before.region
            && self.mechanism == before.mechanism
            && self.instrument == before.instrument
            && self.art9_condition == before.art9_condition
            && assessment_no_longer
            && self.expires <= before.expires
            // Of two conditions it cannot be told which one lets more pass.
            && (before.condition.is_none() || self.condition == before.condition)
            && (self.pseudonymise || !before.pseudonymise)
            && (before.onward || !self.onward)
            && self.fields.iter().all(|field| before.fields.contains(field))
            && self.purposes.iter().all(|purpose| before.purposes.contains(purpose))
    }
}

impl TenantResidencySpec {
    /// True when this allows nothing that `before` did not allow.
    #[must_use]
    pub fn narrows(&self, before: &Self) -> bool {
        self.home == before.home
            && self.organization == before.organization
            && self.tenant == before.tenant
            && self.classes.iter().all(|entry| {
                entry
                    .replicate_to
                    .iter()
                    .all(|ask| old_asks(before, entry.class).any(|earlier| ask.narrows(earlier)))
            })
    }
}

pub(crate) fn review_with(
    (spec, epoch): (&TenantResidencySpec, Epoch),
    (source, homes): (&PolicySource, &Homes),
    fields: &TransferableFields,
    now: Timestamp,
) -> Vec<Violation> {
    let tenant = TenantFacts {
        spec: spec.clone().into(),
        epoch,
    };
    let mut violations = home(&tenant, source);
    violations.extend(retention(&tenant, source));
    let twice = asked_twice(&tenant);
    for (class, ask) in asks(&tenant) {
        let path = format!("spec.classes[{class}].replicateTo[{}]", ask.region);
        let id = EdgeId::new(&spec.tenant, class, &ask.region);
        if twice.contains(&id) {
            let denial = duplicate(source, &tenant, &id);
            violations.push(Violation {
                rule: denial.rule,
                path,
                message: denial.reason,
            });
            continue;
        }
        let assessed = AskedEdge {
            source,
            homes,
            fields,
            tenant: &tenant,
            class,
            ask,
            now,
        }
        .assess();
        violations.extend(assessed.denials().map(|(field, denial)| Violation {
            rule: denial.rule,
            path: format!("{path}.{field}"),
            message: match denial.article {
                Some(article) => format!("{} ({article})", denial.reason),
                None => denial.reason.clone(),
            },
        }));
    }
    violations.sort();
    violations.dedup();
    violations
}

fn home(tenant: &TenantFacts, source: &PolicySource) -> Vec<Violation> {
    let spec = &tenant.spec;
    let at = |rule, message| Violation {
        rule,
        path: "spec.home.region".to_owned(),
        message,
    };
    match source.regions.get(&spec.home.region) {
        None => {
            let message = format!(
                "{}: there is no FitnessRegion '{}' to live in",
                spec.tenant, spec.home.region
            );
            vec![at(Rule::UnknownRegion, message)]
        }
        Some(region) if !source.jurisdictions.contains_key(&region.jurisdiction) => {
            let message = format!(
                "region {} is in jurisdiction '{}', which does not exist",
                region.name, region.jurisdiction
            );
            vec![at(Rule::UnknownJurisdiction, message)]
        }
        Some(_) => Vec::new(),
    }
}

fn retention(tenant: &TenantFacts, source: &PolicySource) -> Vec<Violation> {
    let spec = &tenant.spec;
    let law = source
        .regions
        .get(&spec.home.region)
        .and_then(|region| source.jurisdictions.get(&region.jurisdiction));
    let Some(law) = law else { return Vec::new() };
    let outside = |(class, days): (&DataClass, &u32)| {
        let limits = law.retention.get(class)?;
        let message = if limits.min_days.is_some_and(|least| *days < least) {
            format!(
                "{class} must be kept at least {} days, not {days}",
                limits.min_days.unwrap_or_default()
            )
        } else if limits.max_days.is_some_and(|most| *days > most) {
            format!(
                "{class} may be kept at most {} days, not {days}",
                limits.max_days.unwrap_or_default()
            )
        } else {
            return None;
        };
        Some(Violation {
            rule: Rule::RetentionOutsideLaw,
            path: format!("spec.retention.{class}"),
            message,
        })
    };
    spec.retention.iter().filter_map(outside).collect()
}

/// Everything that is wrong with a region.
#[must_use]
pub fn review_region(region: &RegionFacts, source: &PolicySource) -> Vec<Violation> {
    let mut violations = Vec::new();
    if !source.jurisdictions.contains_key(&region.jurisdiction) {
        violations.push(Violation {
            rule: Rule::UnknownJurisdiction,
            path: "spec.jurisdiction".to_owned(),
            message: format!("there is no Jurisdiction '{}'; create it first", region.jurisdiction),
        });
    }
    if !source.parties.contains_key(&region.operated_by) {
        violations.push(Violation {
            rule: Rule::UnknownParty,
            path: "spec.operatedBy".to_owned(),
            message: format!("there is no Party '{}'; create it first", region.operated_by),
        });
    }
    violations
}
