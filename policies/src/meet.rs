//! What two policies both allow: of an approved policy and one that was written since, neither of which alone may decide.
//! What the written one takes away is gone at once, and what it adds is not there.

use std::sync::Arc;

use crate::assess::Homes;
use crate::compile::CompiledPolicy;
use crate::condition::Condition;
use crate::cut::retention_at_home;
use crate::edge::CompiledEdge;
use crate::index::{FieldLists, Index, Outcome, Verdict};
use crate::rule::{Denial, Rule};
use crate::source::PolicySource;
use crate::spec::AgeOfConsent;
use crate::vocabulary::DataClass;

impl CompiledPolicy {
    /// This policy, without whatever `written` does not allow: no tenant, edge, field, purpose or day more than both have. On
    /// what grounds something goes, and to whom, is as here.
    #[must_use]
    pub fn within(&self, written: &Self) -> Self {
        let source = self.source_within(&written.source);
        let mut lists = FieldLists::default();
        let verdicts = source.tenants.keys().map(|id| {
            let own = self
                .index
                .of_tenant(id)
                .into_iter()
                .flat_map(|verdicts| verdicts.iter());
            let met = own.filter_map(|verdict| verdict.within(written, &mut lists)).collect();
            (id.clone(), met)
        });
        let index = Index::of(verdicts);
        let homes = Arc::new(Homes::of(&source));
        Self {
            source,
            fields: Arc::clone(&self.fields),
            homes,
            index,
        }
    }

    fn source_within(&self, written: &PolicySource) -> PolicySource {
        let mut source = self.source.clone();
        source.tenants.retain(|id, _| written.tenants.contains_key(id));
        for (id, facts) in &mut source.tenants {
            let (here, there) = (
                retention_at_home(&self.source, facts),
                retention_at_home(written, &written.tenants[id]),
            );
            let shorter = DataClass::ALL.iter().filter_map(|class| {
                let days = here.get(class).into_iter().chain(there.get(class)).min()?;
                Some((*class, *days))
            });
            facts.spec.retention.extend(shorter);
        }
        for (name, law) in &mut source.jurisdictions {
            if let Some(other) = written.jurisdictions.get(name) {
                law.age_of_digital_consent = law.age_of_digital_consent.within(&other.age_of_digital_consent);
            }
            // What the law wants at least is in every tenant's days by now.
            law.retention.values_mut().for_each(|limits| limits.min_days = None);
        }
        source
    }
}

impl Verdict {
    /// Nothing, where nobody asks for it any more.
    fn within(&self, written: &CompiledPolicy, lists: &mut FieldLists) -> Option<Self> {
        let refusals = || {
            let refusals = written.refusals_of(self.id());
            (!refusals.is_empty()).then(|| refusals.to_vec())
        };
        let outcome = match (&self.outcome, written.edge(self.id())) {
            (Outcome::Open(edge), Some(other)) => match edge.within(other) {
                Ok(met) => Outcome::Open(Box::new(met)),
                Err(denial) => Outcome::refused(self.outcome.about(), vec![denial]),
            },
            (Outcome::Open(_), None) => Outcome::refused(self.outcome.about(), refusals()?),
            (Outcome::Refused(edge), Some(_)) => Outcome::Refused(edge.clone()),
            (Outcome::Refused(edge), None) => {
                refusals()?;
                Outcome::Refused(edge.clone())
            }
        };
        Some(Self::new(outcome, lists))
    }
}

impl CompiledEdge {
    fn within(&self, other: &Self) -> Result<Self, Denial> {
        let mut met = self.clone();
        met.fields.retain(|field| other.fields.contains(field));
        met.purposes.retain(|purpose| other.purposes.contains(purpose));
        let nothing = "nothing of it is allowed by what is approved and by what is written alike";
        if met.fields.is_empty() {
            return Err(self.deny(Rule::FieldNotAllowed, nothing));
        }
        if met.purposes.is_empty() {
            return Err(self.deny(Rule::PurposeNotAllowed, nothing));
        }
        if other.expires < met.expires {
            (met.expires, met.ends_with) = (other.expires, other.ends_with);
        }
        met.effective_from = met.effective_from.max(other.effective_from);
        met.pseudonymise |= other.pseudonymise;
        met.onward &= other.onward;
        met.needs_consent |= other.needs_consent;
        met.condition = both(self.condition.as_ref(), other.condition.as_ref());
        Ok(met)
    }
}

/// One that cannot be read never holds: so does the text of two that is too long to be one.
fn both(one: Option<&Condition>, other: Option<&Condition>) -> Option<Condition> {
    match (one, other) {
        (Some(one), Some(other)) if one != other => {
            Some(Condition::new(format!("({}) && ({})", one.as_str(), other.as_str())))
        }
        (one, other) => one.or(other).cloned(),
    }
}

impl AgeOfConsent {
    /// The higher age, wherever two laws differ.
    fn within(&self, other: &Self) -> Self {
        let countries = self.by_country.keys().chain(other.by_country.keys());
        Self {
            default: self.default.max(other.default),
            by_country: countries
                .map(|country| {
                    let age = self.in_country(country).max(other.in_country(country));
                    (country.clone(), age)
                })
                .collect(),
        }
    }

    /// Whether somebody consents alone here who would not under `before`.
    pub(crate) fn is_lower_than(&self, before: &Self) -> bool {
        let mut countries = self.by_country.keys().chain(before.by_country.keys());
        self.default < before.default || countries.any(|country| self.in_country(country) < before.in_country(country))
    }
}
