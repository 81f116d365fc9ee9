//! What two policies both allow: of an approved policy and one that was written since, neither of which alone may decide.
//! What the written one takes away is gone at once, and what it adds is not there.

use std::collections::BTreeMap;

use crate::assess::Homes;
use crate::compile::CompiledPolicy;
use crate::cut::retention_at_home;
use crate::edge::CompiledEdge;
use crate::rule::{Denial, Rule};
use crate::source::PolicySource;

impl CompiledPolicy {
    /// This policy, without whatever `written` does not allow: no tenant, edge, field, purpose or day more than both have. On
    /// what grounds something goes, and to whom, is as here.
    #[must_use]
    pub fn within(&self, written: &Self) -> Self {
        let source = self.source_within(&written.source);
        let (mut edges, mut refusals) = (BTreeMap::new(), BTreeMap::new());
        for (id, denials) in self.refusals() {
            refusals.insert(id.clone(), denials.to_vec());
        }
        for edge in self.edges() {
            if !source.tenants.contains_key(&edge.tenant) || !source.tenants.contains_key(&edge.importer_tenant) {
                continue;
            }
            let met = match written.edge(&edge.id) {
                Some(other) => edge.within(other),
                None => Err(written.refusals_of(&edge.id).to_vec()),
            };
            match met {
                Ok(edge) => drop(edges.insert(edge.id.clone(), edge)),
                Err(denials) if denials.is_empty() => {}
                Err(denials) => drop(refusals.insert(edge.id.clone(), denials)),
            }
        }
        refusals.retain(|id, _| written.edge(id).is_some() || !written.refusals_of(id).is_empty());
        let homes = Homes::of(&source);
        Self::of(source, homes, self.fields.clone(), edges, refusals)
    }

    fn source_within(&self, written: &PolicySource) -> PolicySource {
        let mut source = self.source.clone();
        source.tenants.retain(|id, _| written.tenants.contains_key(id));
        for (id, facts) in &mut source.tenants {
            let (here, there) = (
                retention_at_home(&self.source, facts),
                retention_at_home(written, &written.tenants[id]),
            );
            let shorter = there
                .into_iter()
                .filter(|(class, days)| here.get(class).is_none_or(|longer| days < longer));
            facts.spec.retention.extend(shorter);
        }
        source
    }
}

impl CompiledEdge {
    fn within(&self, other: &Self) -> Result<Self, Vec<Denial>> {
        let mut met = self.clone();
        met.fields.retain(|field| other.fields.contains(field));
        met.purposes.retain(|purpose| other.purposes.contains(purpose));
        for (nothing, rule) in [
            (met.fields.is_empty(), Rule::FieldNotAllowed),
            (met.purposes.is_empty(), Rule::PurposeNotAllowed),
        ] {
            if nothing {
                return Err(vec![
                    self.deny(rule, "nothing of it is allowed by what is written and approved alike"),
                ]);
            }
        }
        if other.expires < met.expires {
            (met.expires, met.ends_with) = (other.expires, other.ends_with);
        }
        met.effective_from = met.effective_from.max(other.effective_from);
        met.pseudonymise |= other.pseudonymise;
        met.onward &= other.onward;
        met.needs_consent |= other.needs_consent;
        Ok(met)
    }
}
