//! What one pass leaves for the next. A pass that finds nothing to do is by far the most frequent one: each change of any
//! object in the region asks for one. It must not render a hundred objects and verify a dozen certificates anew.
//!
//! Nothing here decides: the plan is kept while its input is equal, secrets while they are the very observations that
//! were looked at.

use super::observe;
use super::plan::foundation::{self, POLICY};
use super::plan::{Material, Plan, components, plan};
use super::rotate::Standing;
use super::secrets::{Credential, REGION_CA, Secrets, SecretsError, Server, Wanted, ensure};
use super::validate::{self, Stack, namespace};
use crate::apply::{self, Applier};
use crate::manifest::{CONFIG_MAP, Manifest, NotAManifest, ObjectKey, REGION_STACK, SECRET};
use crate::watch::Cache;
use jiff::Timestamp;
use kube::api::DynamicObject;
use meridian_policy::{RegionName, RegionPolicy};
use serde_json::Value;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the last pass left. Clones share it.
#[derive(Clone, Default)]
pub struct Kept(Arc<Mutex<Left>>, Arc<Mutex<Standing>>);

#[derive(Default)]
struct Left {
    stack: Option<(Arc<DynamicObject>, Arc<Value>)>,
    asked: Option<Asked>,
    held: Option<(Arc<DynamicObject>, Option<RegionPolicy>)>,
    policy: Option<(String, RegionPolicy, Manifest)>,
    plan: Option<(Stack, Material, Arc<Plan>)>,
    secrets: Option<Looked>,
}

/// The policy that a stack asks for, with the fields of its spec that say so.
struct Asked {
    revision: Value,
    told: Value,
    policy: Result<RegionPolicy, String>,
}

/// Secrets that were all there and not due.
struct Looked {
    wanted: (Vec<Credential>, Vec<Wanted>, Server),
    seen: Vec<Arc<DynamicObject>>,
    found: Secrets,
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, Left> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The RegionStack of a region.
    #[must_use]
    pub fn stack(&self, cache: &Cache, region: &str) -> Option<Arc<Value>> {
        let seen = cache.get(&ObjectKey::cluster(REGION_STACK, region))?;
        let mut left = self.lock();
        let known = left.stack.take().filter(|(known, _)| Arc::ptr_eq(known, &seen));
        let (_, stack) = left
            .stack
            .insert(known.unwrap_or_else(|| (seen.clone(), Arc::new(apply::observed(&seen)))));
        Some(stack.clone())
    }

    /// The policy that a RegionStack asks for. Its status changes far more often than that, and reading it is most of what
    /// there is to read of a stack.
    ///
    /// # Errors
    /// Why it is not understood.
    pub fn asked(&self, spec: &Value) -> Result<RegionPolicy, String> {
        let (revision, told) = (&spec["revision"], &spec["policy"]);
        let mut left = self.lock();
        let known = left.asked.take();
        let known = known.filter(|known| (&known.revision, &known.told) == (revision, told));
        let asked = left.asked.insert(known.unwrap_or_else(|| {
            Asked {
                revision: revision.clone(),
                told: told.clone(),
                policy: validate::policy(spec)
                    .inspect_err(|error| tracing::error!(%error, "a policy is not understood, and not taken")),
            }
        }));
        asked.policy.clone()
    }

    /// The policy that was in force when it was last written down.
    #[must_use]
    pub fn held_policy(&self, cache: &Cache, region: &RegionName) -> Option<RegionPolicy> {
        let seen = cache.get(&ObjectKey::namespaced(CONFIG_MAP, &namespace(region), POLICY))?;
        let mut left = self.lock();
        let known = left.held.take().filter(|(known, _)| Arc::ptr_eq(known, &seen));
        let (_, held) = left
            .held
            .insert(known.unwrap_or_else(|| (seen.clone(), observe::written_policy(&seen))));
        held.clone()
    }

    /// The ConfigMap that holds the policy in force.
    ///
    /// # Errors
    /// Never: see [`Manifest::new`].
    pub fn policy(&self, stack: &Stack) -> Result<Manifest, NotAManifest> {
        if let Some((uid, policy, known)) = &self.lock().policy
            && (uid, policy) == (&stack.uid, &stack.policy)
        {
            return Ok(known.clone());
        }
        let made = Manifest::new(foundation::policy(stack))?;
        self.lock().policy = Some((stack.uid.clone(), stack.policy.clone(), made.clone()));
        Ok(made)
    }

    /// For how long the rotation of the CA has been where it is.
    pub(super) fn standing(&self) -> MutexGuard<'_, Standing> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plan of a stack.
    ///
    /// # Errors
    /// See [`plan`].
    pub fn plan(&self, stack: &Stack, material: &Material) -> Result<Arc<Plan>, NotAManifest> {
        if let Some((of, with, known)) = &self.lock().plan
            && (of, with) == (stack, material)
        {
            return Ok(known.clone());
        }
        let made = Arc::new(plan(stack, material)?);
        self.lock().plan = Some((stack.clone(), material.clone(), made.clone()));
        Ok(made)
    }

    /// The secrets of a stack; made or renewed where that is due.
    ///
    /// # Errors
    /// See [`ensure`].
    pub async fn secrets(&self, applier: &Applier, stack: &Stack, now: Timestamp) -> Result<Secrets, SecretsError> {
        let wanted = (
            components::credentials(stack),
            components::certificates(stack),
            Server::of(stack),
        );
        let seen = observed(applier, stack, &wanted);
        if let (Some(looked), Some(seen)) = (&self.lock().secrets, &seen)
            && looked.wanted == wanted
            && now < looked.found.next_renewal
            && same(&looked.seen, seen)
        {
            return Ok(looked.found.clone());
        }
        let found = ensure(applier, stack, now).await?;
        self.lock().secrets = seen.filter(|_| found.written == 0).map(|seen| Looked {
            wanted,
            seen,
            found: found.clone(),
        });
        Ok(found)
    }
}

/// Every secret as it is observed now; nothing when one is missing.
fn observed(
    applier: &Applier,
    stack: &Stack,
    (credentials, certificates, _): &(Vec<Credential>, Vec<Wanted>, Server),
) -> Option<Vec<Arc<DynamicObject>>> {
    let space = stack.namespace();
    let credentials = credentials.iter().map(Credential::secret);
    let certificates = certificates.iter().map(|wanted| wanted.secret.clone());
    std::iter::once(REGION_CA.to_owned())
        .chain(credentials)
        .chain(certificates)
        .map(|name| applier.cache().get(&ObjectKey::namespaced(SECRET, &space, &name)))
        .collect()
}

fn same(left: &[Arc<DynamicObject>], right: &[Arc<DynamicObject>]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(left, right)| Arc::ptr_eq(left, right))
}

#[cfg(test)]
mod tests {
    use super::super::validate::example;
    use super::*;

    #[test]
    fn the_plan_is_kept_while_its_input_is_equal_and_made_anew_when_it_is_not() {
        let (kept, material) = (Kept::default(), Material::default());
        let first = kept.plan(&example(), &material).unwrap();
        assert!(Arc::ptr_eq(&first, &kept.plan(&example(), &material).unwrap()));
        let mut other = example();
        other.images.meridian = "meridian:2".to_owned();
        let second = kept.plan(&other, &material).unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        assert_eq!(second.keys(), plan(&other, &material).unwrap().keys());
    }

    #[test]
    fn an_equal_observation_is_not_the_same_one() {
        let secret = || Arc::new(DynamicObject::new("a", &SECRET.resource()));
        let one = secret();
        let alone = std::slice::from_ref(&one);
        assert!(same(alone, alone));
        assert!(!same(alone, &[secret()]));
        assert!(!same(alone, &[one.clone(), one.clone()]));
    }
}
