//! Widening needs another person: what opens an edge, a field or a purpose, keeps data longer or lets a tenant move in is not
//! in force before somebody else than its author has approved exactly that.
//!
//! What is in force of a resource is recorded in its status. The policy is compiled twice, from what is in force and from
//! what is written, and what both allow is carried out ([`CompiledPolicy::within`]): so narrowing never waits, not even in
//! a change that widens as well, and widening always does. A resource of which nothing is recorded is held against what the
//! members have, so that a hub which is rebuilt opens nothing and closes nothing.
//!
//! | module | what it is for |
//! |---|---|
//! | `part` | what of a resource has to be approved |
//! | `decide` | what is in force (pure) |
//! | `people` | who wrote it, who approves it, whether they are enough (pure) |
//! | `held` | what members have in force |
//! | `resource` | what a resource's status says of it |
//!
//! [`CompiledPolicy::within`]: meridian_policy::CompiledPolicy::within

mod decide;
mod held;
mod part;
mod people;
mod resource;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use meridian_policy::{Catalogue, PolicySource, TransferableFields};
use serde_json::{Value, json};

use super::Hub;
use super::gathered::Kept;
use crate::apply::{ApplyError, Purpose};
use crate::manifest::{Kind, ObjectKey, POLICY_APPROVAL, TENANT_DATA_RESIDENCY};
use crate::watch::{Cache, Identity};
use decide::{Decision, Question, Record};
use held::{Held, Sought};
use people::Checked;
use resource::Resource;

pub use people::AUTHORS_ANNOTATION;
pub(crate) use resource::others;
pub use resource::{APPROVED, NEEDS_APPROVAL};

/// The admission policy of the chart that checks who approves, and its binding.
const GUARD: &str = "meridian-approvals";
const GUARDS: [Kind; 2] = [
    admission("ValidatingAdmissionPolicy", "validatingadmissionpolicies"),
    admission("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"),
];

const fn admission(kind: &'static str, plural: &'static str) -> Kind {
    Kind {
        group: "admissionregistration.k8s.io",
        version: "v1",
        kind,
        plural,
        namespaced: false,
    }
}

/// Statuses that are written in one round: what is compiled meanwhile waits for them.
const AT_ONCE: usize = 200;
/// Of these, how many at the same time.
const CONCURRENTLY: usize = 8;
/// How soon what could not be written is written again.
const AGAIN: Duration = Duration::from_secs(1);
/// How soon it is looked again whether approvals are checked.
const UNGUARDED_AGAIN: Duration = Duration::from_secs(10);

/// Whether what widens the policy waits for another person.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Requirement {
    /// It does.
    #[default]
    Required,
    /// What is written is in force.
    NotRequired,
}

/// What the leader knows of approvals.
pub(super) struct Approvals {
    hub: Arc<Hub>,
    fields: TransferableFields,
    resources: BTreeMap<Kind, Kept<Resource>>,
    /// What was decided, until the status says so: by object, with its UID.
    own: BTreeMap<ObjectKey, (String, Record)>,
    decisions: Vec<Decision>,
    checked: Checked,
    /// Nothing is required, and nothing is recorded any more.
    rests: bool,
}

impl Approvals {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self {
            hub,
            fields: Catalogue::embedded().transferable(),
            resources: BTreeMap::new(),
            own: BTreeMap::new(),
            decisions: Vec::new(),
            checked: Checked::new(),
            rests: false,
        }
    }

    /// What is in force of what is written; nothing where that is the same. `cache` is what that was gathered from: of
    /// anything newer it would not be known whether it is what was written.
    pub(super) fn in_force(&mut self, cache: &Cache, written: &PolicySource) -> Option<PolicySource> {
        if self.rests {
            return None;
        }
        for kind in part::KINDS {
            let kept = self.resources.entry(kind).or_default();
            kept.look(cache, cache.identities_of(kind), |object| Resource::of(object, kind));
        }
        self.decisions.clear();
        if self.hub.approval == Requirement::NotRequired {
            return None;
        }
        let mut candidates = Vec::new();
        for (key, resource) in part::KINDS
            .iter()
            .filter_map(|kind| self.resources.get(kind))
            .flat_map(Kept::iter)
        {
            match resource.candidate(key, self.own.get(key)) {
                Some(candidate) => candidates.push(candidate),
                None => drop(self.own.remove(key)),
            }
        }
        if candidates.is_empty() {
            self.own.clear();
            return None;
        }
        let now = Timestamp::now();
        let new = candidates.iter().filter(|candidate| candidate.record.is_none());
        let world = new.clone().any(|candidate| candidate.key.kind != TENANT_DATA_RESIDENCY);
        let tenants: BTreeSet<&str> = new.map(|candidate| candidate.key.name.as_str()).collect();
        let held = if tenants.is_empty() {
            Held::default()
        } else {
            let sought = if world { Sought::All } else { Sought::Of(tenants) };
            Held::of(cache, |member| self.hub.members.seen(member), &sought)
        };
        let (in_force, decisions) = Question {
            written,
            candidates,
            held: &held,
            approvals: &people::counting(cache, &self.checked, now),
            fields: &self.fields,
            now,
        }
        .decide();
        for decision in &decisions {
            if let Some(record) = &decision.record {
                let own = (decision.uid.clone(), record.clone());
                self.own.insert(decision.key.clone(), own);
            }
        }
        self.decisions = decisions;
        (in_force != *written).then_some(in_force)
    }

    /// Writes down what was decided last. After how long it has to be decided again, if anything is left to do.
    pub(super) async fn record(&mut self) -> Option<Duration> {
        if self.hub.approval == Requirement::NotRequired {
            return self.forget().await;
        }
        let again = self.check_approvals().await;
        let now = Timestamp::now();
        let decisions = std::mem::take(&mut self.decisions);
        let mut left = AT_ONCE;
        // What rests on something else is recorded after it: whatever was recorded when this process ends holds by itself.
        for kind in part::KINDS {
            let of_kind = decisions.iter().filter(|decision| decision.key.kind == kind);
            let told: Vec<_> = of_kind
                .filter_map(|decision| {
                    let object = self.hub.cache.get(&decision.key)?;
                    // Another of the same name has nothing in force.
                    let same = object.metadata.uid.as_ref() == Some(&decision.uid);
                    same.then_some(())?;
                    Some((&decision.key, resource::told(&object, decision, now)?))
                })
                .take(left)
                .collect();
            left -= told.len();
            if !self.write(told).await {
                return Some(AGAIN);
            }
            if left == 0 {
                return Some(Duration::ZERO);
            }
        }
        again
    }

    /// Where approvals are not required, nothing is recorded: were they required again later, what is in force by then would
    /// be.
    async fn forget(&mut self) -> Option<Duration> {
        if self.rests {
            return None;
        }
        let recorded = self
            .resources
            .values()
            .flat_map(Kept::iter)
            .filter(|(_, resource)| resource.is_recorded());
        let recorded: Vec<_> = recorded.map(|(key, _)| (key, json!({}))).take(AT_ONCE).collect();
        if recorded.is_empty() {
            self.rests = true;
            self.resources.clear();
            return None;
        }
        let written = self.write(recorded).await;
        Some(if written { Duration::ZERO } else { AGAIN })
    }

    /// Whether all of it was written.
    async fn write(&self, told: Vec<(&ObjectKey, Value)>) -> bool {
        let writes: Vec<_> = told
            .into_iter()
            .map(|(key, status)| write(&self.hub, key, status))
            .collect();
        let written: Vec<bool> = futures::stream::iter(writes)
            .buffer_unordered(CONCURRENTLY)
            .collect()
            .await;
        !written.contains(&false)
    }

    /// Where something waits and somebody has approved something: whether the API server has checked who that was.
    async fn check_approvals(&mut self) -> Option<Duration> {
        let waiting = self.decisions.iter().any(|decision| decision.waiting.is_some());
        let approvals = self.hub.cache.identities_of(POLICY_APPROVAL);
        let is_new = |identity: &Identity| identity.uid.as_ref().is_some_and(|uid| !self.checked.contains(uid));
        if !waiting || !approvals.iter().any(|(_, identity)| is_new(identity)) {
            return None;
        }
        let Some(since) = guarded_since(&self.hub).await else {
            tracing::warn!(
                "approvals do not count: nothing is there that checks who approves, or it cannot be asked for"
            );
            return Some(UNGUARDED_AGAIN);
        };
        let checked = people::checked(&self.hub.cache, since);
        let changed = checked != self.checked;
        self.checked = checked;
        changed.then_some(Duration::ZERO)
    }
}

async fn write(hub: &Hub, key: &ObjectKey, status: Value) -> bool {
    let body = json!({
        "apiVersion": key.kind.api_version(), "kind": key.kind.kind, "metadata": {"name": key.name}, "status": status,
    });
    let params = PatchParams::apply(Purpose::HubApproval.manager()).force();
    let api = hub.applier.api(key);
    let patch = Patch::Apply(&body);
    match hub
        .applier
        .write("approve", key, api.patch_status(&key.name, &params, &patch))
        .await
    {
        Ok(written) => {
            hub.cache.put(key.clone(), written);
            true
        }
        Err(ApplyError::NotLeader { .. }) => true,
        Err(error) if error.is_not_found() => true,
        Err(error) => {
            tracing::warn!(resource = %key, error = %error, "how far it is approved is not written down");
            false
        }
    }
}

/// Since when the API server refuses approvals in somebody else's name; nothing while it does not, or cannot be asked.
async fn guarded_since(hub: &Hub) -> Option<Timestamp> {
    let mut since = Timestamp::MIN;
    for kind in GUARDS {
        let api: Api<DynamicObject> = Api::all_with(hub.applier.client().clone(), &kind.resource());
        let found = tokio::time::timeout(crate::apply::REQUEST_TIMEOUT, api.get_opt(GUARD)).await;
        let object = match found {
            Ok(Ok(object)) => object?,
            Ok(Err(error)) => {
                tracing::warn!(kind = kind.kind, error = %error, "whether approvals are checked is not known");
                return None;
            }
            Err(_) => return None,
        };
        let actions = object.data["spec"]["validationActions"].as_array();
        if actions.is_some_and(|actions| !actions.contains(&json!("Deny"))) {
            return None;
        }
        since = since.max(object.metadata.creation_timestamp.as_ref()?.0);
    }
    Some(since)
}
