//! FitnessRegion → its member: the `RegionStack`, the placements of its tenants, and whether its lease may be renewed.
//!
//! observe → validate → plan ([`plan`], pure) → apply → status ([`status`]); when it is deleted, [`removal`] comes first

mod cuts;
mod evidence;
mod pace;
mod plan;
mod removal;
mod status;
mod told;

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use kube::api::Patch;
use meridian_crds::{ClusterMember, FitnessRegionSpec};
use meridian_policy::{Denial, JurisdictionSpec, RegionName};
use serde_json::Value;
use tokio::time::Instant;
use tracing::Instrument;

use super::adopt::claim::Holder;
use super::approval::others;
use super::departure::FINALIZER;
use super::lease::Settled;
use super::members::{Health, Member};
use super::residency::LOOK_AGAIN;
use super::{Hub, source, trust};
use crate::apply::{Applied, ApplyError, Purpose, merge_by, observed};
use crate::finalizer;
use crate::manifest::{FITNESS_REGION, NODE, NotAManifest, ObjectKey, SECRET};
use crate::member::MemberError;
use crate::reconcile::{Outcome, Pass};
use crate::trace;
use crate::watch::Cache;

pub(crate) use pace::Pace;
pub(crate) use plan::{CONTENT_ANNOTATION, RegionPlan};
pub(crate) use removal::Removal;
pub(crate) use told::Told;

/// Placements of a region that are written at the same time.
const PLACEMENTS_AT_ONCE: usize = 8;
/// Reason of a region whose member holds tenants that the hub does not know.
const TENANTS_UNKNOWN: &str = "TenantsUnknown";
/// How often it is looked whether an edge of such a tenant has ended: no policy is compiled for that.
const UNKNOWN_AGAIN: Duration = Duration::from_secs(60);
/// Node label by which a cluster's nodes say in which country they stand.
const COUNTRY_LABEL: &str = "meridian.sh/country";

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// The resource itself does not say what is needed.
    #[error("FitnessRegion {region} cannot be read: {cause}")]
    Invalid {
        /// Which one.
        region: String,
        /// What is wrong.
        cause: String,
    },
    /// The member's kubeconfig Secret is missing.
    #[error("region {region}: Secret {secret} has no key {key}; create it with the kubeconfig of cluster {cluster}")]
    NoKubeconfig {
        /// Which region.
        region: String,
        /// Which Secret in the operator's namespace.
        secret: String,
        /// Which key in it.
        key: String,
        /// Of which cluster.
        cluster: String,
    },
    /// The kubeconfig is refused.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// The cluster stands somewhere else than declared.
    #[error("cluster {cluster} of region {region} is declared to be in {declared}, but its node {node} says {found}")]
    Elsewhere {
        /// Which region.
        region: String,
        /// Which cluster.
        cluster: String,
        /// What FitnessRegion says.
        declared: String,
        /// Which node contradicts.
        node: String,
        /// What its label says.
        found: String,
    },
    /// A cluster is declared to be where the region's law does not hold.
    #[error(
        "cluster {cluster} of region {region} is declared to be in {country}, where jurisdiction {jurisdiction} does not hold; \
         name a cluster where it does"
    )]
    OutsideLaw {
        /// Which region.
        region: String,
        /// Which cluster.
        cluster: String,
        /// What FitnessRegion says.
        country: String,
        /// Whose law it is to be under.
        jurisdiction: String,
    },
    /// The member does not answer.
    #[error("cluster {cluster} of region {region} does not answer: {cause}")]
    Unreachable {
        /// Which region.
        region: String,
        /// Which cluster.
        cluster: String,
        /// What came back.
        cause: String,
    },
    /// Another hub writes into the member.
    #[error(
        "cluster {cluster} of region {region} is written by another hub ({hub}), and this one changes nothing there while \
         that one lives; stop one of the two"
    )]
    OtherHub {
        /// Which region.
        region: String,
        /// Which cluster.
        cluster: String,
        /// Identity of the other hub.
        hub: String,
    },
    /// It could not be found out whether another hub writes into the member.
    #[error("cluster {cluster} of region {region} cannot be claimed for this hub: {cause}")]
    Unclaimed {
        /// Which region.
        region: String,
        /// Which cluster.
        cluster: String,
        /// What came back.
        cause: String,
    },
    /// The member holds tenants that the hub does not know, and what it has of them cannot be kept.
    #[error("{0}")]
    TenantsUnknown(String),
    /// The policy has no place for the region.
    #[error("{0}")]
    Policy(Box<Denial>),
    /// A write failed.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A plan was not a manifest.
    #[error(transparent)]
    Plan(#[from] NotAManifest),
}

impl RegionError {
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "Invalid",
            Self::NoKubeconfig { .. } => "KubeconfigMissing",
            Self::Member(_) => "KubeconfigRefused",
            Self::Elsewhere { .. } => "CountryContradicted",
            Self::OutsideLaw { .. } => "CountryOutsideLaw",
            Self::Unreachable { .. } => "MemberUnreachable",
            Self::OtherHub { .. } => "OtherHub",
            Self::Unclaimed { .. } => "MemberUnclaimed",
            Self::TenantsUnknown(_) => TENANTS_UNKNOWN,
            Self::Policy(_) => "PolicyRefused",
            Self::Apply(_) | Self::Plan(_) => "ApplyFailed",
        }
    }

    /// Only a change of a resource can help; trying again cannot.
    const fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Invalid { .. }
                | Self::NoKubeconfig { .. }
                | Self::Member(_)
                | Self::Elsewhere { .. }
                | Self::OutsideLaw { .. }
                | Self::OtherHub { .. }
                | Self::TenantsUnknown(_)
                | Self::Policy(_)
        )
    }
}

/// One pass over a region.
///
/// # Errors
/// What failed, after the status has said so too.
pub async fn reconcile(hub: Arc<Hub>, name: String) -> Result<Pass, RegionError> {
    let key = ObjectKey::cluster(FITNESS_REGION, &name);
    hub.forget_unnamed_members();
    let Some(object) = hub.cache.get(&key) else {
        hub.ledger.forget(&name);
        hub.pace.forget(&name);
        hub.reports.forget(&key);
        return Ok(Pass::of(Outcome::Gone));
    };
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let object = observed(&object);
    trace::about(&object);
    let mut closing = None;
    let (result, held) = if finalizer::is_deleting(&object) {
        if !finalizer::is_held(&object, FINALIZER) {
            hub.ledger.forget(&name);
            return Ok(Pass::of(Outcome::Gone));
        }
        let stacks = hub.stacks();
        closing = removal::to_close(&hub, &name, &object, &stacks);
        match removal::step(&hub, &name, &object, &stacks).await {
            Ok(removal::Step::Gone) => {
                hub.ledger.forget(&name);
                finalizer::release(&hub.applier, &key, &object, FINALIZER).await?;
                tracing::info!(region = %name, "the region is taken out of its member");
                return Ok(Pass::of(Outcome::Gone));
            }
            Ok(removal::Step::Stay(waiting)) => (lay_down(&hub, &name, &uid, &object).await, Some(waiting)),
            Ok(removal::Step::Unlisted(waiting)) => {
                hub.ledger.forget(&name);
                (Ok(Done::leaving(false, Value::Null)), Some(waiting))
            }
            Ok(removal::Step::Removing { waiting, stack, wrote }) => {
                hub.ledger.leave(&name);
                (Ok(Done::leaving(wrote, stack)), Some(waiting))
            }
            Err(error) => {
                let waiting = removal::held_by(&error);
                (Err(error), Some(waiting))
            }
        }
    } else {
        (lay_down(&hub, &name, &uid, &object).await, None)
    };
    if result.is_err() {
        hub.ledger.fail(&name);
    }
    let held = held.map(|held| removal::also_failed(held, result.as_ref().err()));
    let (mut status, due) = status::status(&hub, &name, &object, &result, held.as_ref());
    if let Some(closing) = closing {
        status["closing"] = serde_json::json!(closing);
    }
    // What failed, and what is being deleted, is told at once.
    let later = result.as_ref().ok().filter(|_| held.is_none()).and_then(|done| {
        let step = (&object["status"], &status);
        hub.pace.wait(&name, step, done.is_behind(), Instant::now())
    });
    let told = if later.is_some() {
        Ok(Applied::Unchanged)
    } else {
        let said_before = others(&object["status"]);
        let told = hub.applier.apply_status(&key, &said_before, status.clone()).await;
        tell(&hub, &key, &object, &status, &result).await;
        told
    };
    match result {
        Ok(done) => {
            told?;
            let pass = Pass::of(if done.wrote {
                Outcome::Progressed
            } else {
                done.outcome()
            });
            let due = due.and_then(|at| Duration::try_from(at.duration_since(Timestamp::now())).ok());
            let unknown = done.unknown.is_some().then_some(UNKNOWN_AGAIN);
            // No watch tells when the last pass that works with an older policy has ended.
            let older = (held.is_some() && hub.newest.in_use().len() > 1).then_some(LOOK_AGAIN);
            let again = unknown.into_iter().chain(later).chain(older).chain(due).min();
            Ok(again.map_or(pass, |delay| pass.again(delay)))
        }
        Err(error) if error.is_refusal() => {
            tracing::warn!(region = %name, error = %error, "region refused");
            told?;
            Ok(Pass::of(Outcome::Refused))
        }
        Err(error) => Err(error),
    }
}

/// Tells what is new of a region, and counts it when it is a refusal of the policy.
async fn tell(hub: &Hub, key: &ObjectKey, object: &Value, status: &Value, result: &Result<Done, RegionError>) {
    hub.reports.tell_of_member(key, object, status).await;
    let failed = match result {
        Err(RegionError::Apply(error)) => Some(error),
        _ => None,
    };
    let told = hub.tell(key, object, status, failed).await;
    if let Err(RegionError::Policy(denial)) = result
        && told
    {
        hub.metrics.refused(&denial.rule.to_string());
    }
}

/// What a pass found and did.
struct Done {
    wrote: bool,
    revision: u64,
    stack: Value,
    leaving: bool,
    /// What is the matter with tenants that the hub does not know, when there are any.
    unknown: Option<String>,
}

impl Done {
    /// A pass that took something away, or waits for it to go.
    fn leaving(wrote: bool, stack: Value) -> Self {
        Self {
            wrote,
            revision: stack["spec"]["revision"].as_u64().unwrap_or_default(),
            stack,
            leaving: true,
            unknown: None,
        }
    }

    fn applied(&self) -> u64 {
        self.stack["status"]["appliedRevision"].as_u64().unwrap_or_default()
    }

    /// The region has not applied what is written, or a hub that just came to lead has not looked at it yet: a moment later
    /// there is more to say.
    fn is_behind(&self) -> bool {
        let unseen = self.revision == 0 && !self.leaving;
        unseen || self.applied() != self.revision
    }

    fn outcome(&self) -> Outcome {
        if self.applied() == self.revision && !self.leaving && self.unknown.is_none() {
            Outcome::Steady
        } else {
            Outcome::Waiting
        }
    }
}

/// How often a pass that another change overtook is made anew at once.
const MADE_ANEW: usize = 3;

async fn lay_down(hub: &Hub, name: &str, uid: &str, object: &Value) -> Result<Done, RegionError> {
    for _ in 0..MADE_ANEW {
        match lay_down_once(hub, name, uid, object).await {
            Err(RegionError::Apply(ApplyError::Overtaken { .. })) => {}
            done => return done,
        }
    }
    lay_down_once(hub, name, uid, object).await
}

async fn lay_down_once(hub: &Hub, name: &str, uid: &str, object: &Value) -> Result<Done, RegionError> {
    // observe
    let (region, spec) = parse(name, object)?;
    let (cluster, member) = place(hub, name, &spec).instrument(trace::step("observe")).await?;
    // validate
    stands_where_declared(name, cluster, member.cache())?;
    let Some(compiled) = hub.newest.get().filter(|_| member.is_known()) else {
        // The first compile waits for every member; it triggers this region again. Nobody has looked at what a member that
        // is not listed yet applies, so nothing is renewed for it.
        hub.ledger.fail(name);
        return Ok(Done {
            wrote: false,
            revision: 0,
            stack: Value::Null,
            leaving: false,
            unknown: None,
        });
    };
    let law = compiled.policy.source().jurisdictions.get(&spec.jurisdiction);
    stands_under_its_law(name, &spec, law)?;
    // plan
    let (policy, held) = ((compiled.policy.as_ref(), compiled.told()), member.cache());
    let planned = || RegionPlan::of(&region, uid, object, &hub.cache, policy, held, Timestamp::now());
    let mut plan = trace::step("plan").in_scope(planned)?;
    hub.rotating.saw(name, &plan.existing);
    plan.stack = trust::with_rotation(plan.stack, &region, object, &plan.existing, || hub.stacks())?;
    // apply
    // From here on the member holds something of the region: not before, so that one that never reached it can go.
    let key = ObjectKey::cluster(FITNESS_REGION, name);
    finalizer::hold(&hub.applier, &key, object, FINALIZER).await?;
    // Before any home is taken out of the stack; where there is none, before the placements that say whose home this was.
    let (before, after) = match plan.existing {
        Value::Null => (None, plan.epoch_floor),
        _ => (plan.epoch_floor, None),
    };
    raise_epoch_floor(&member, plan.stack.key(), before).await?;
    // What is on its way to the member is unapplied there from now on, not only when the answer has come.
    if plan.existing["spec"]["revision"] != plan.revision {
        hub.ledger.fail(name);
    }
    let laid = member
        .applier
        .apply_over(Purpose::HubStack, &plan.stack, &plan.existing)
        .await?;
    let mut wrote = laid != Applied::Unchanged;
    raise_epoch_floor(&member, plan.stack.key(), after).await?;
    // A stack is large: it is unpacked again only when it is another one now.
    let stack = if wrote {
        source::stack(held, &region).unwrap_or(Value::Null)
    } else {
        plan.existing.take()
    };
    let place = |placement| member.applier.apply(Purpose::HubPlacement, placement);
    let placements: Vec<_> = plan.placements.iter().map(place).collect();
    let mut applied = futures::stream::iter(placements).buffer_unordered(PLACEMENTS_AT_ONCE);
    while let Some(applied) = applied.try_next().await? {
        wrote |= applied != Applied::Unchanged;
    }
    for (key, placement) in plan.surplus.iter().filter_map(|key| Some((key, held.get(key)?))) {
        if placement.metadata.deletion_timestamp.is_none() {
            member.applier.delete(key, placement.metadata.uid.clone()).await?;
            wrote = true;
        }
    }
    if let Some(denial) = plan.lawless {
        return Err(RegionError::Policy(denial));
    }
    let done = Done {
        wrote,
        revision: plan.revision,
        stack,
        leaving: false,
        unknown: plan.unknown,
    };
    hub.ledger.record(
        name,
        Settled {
            member: cluster.name.clone(),
            serial: compiled.serial,
            written: done.revision,
            applied: done.applied(),
            complete: done.unknown.is_none(),
        },
    );
    Ok(done)
}

/// By a field manager of its own: what another one applies never takes it back.
async fn raise_epoch_floor(member: &Member, key: &ObjectKey, floor: Option<u64>) -> Result<(), ApplyError> {
    let Some(floor) = floor else { return Ok(()) };
    let patch = Patch::Merge(serde_json::json!({"spec": {"epochFloor": floor}}));
    let params = merge_by(Purpose::HubEpochs.manager());
    let api = member.applier.api(key);
    let request = api.patch(&key.name, &params, &patch);
    member.applier.write("raise", key, request).await.map(drop)
}

fn invalid(region: &str, cause: String) -> RegionError {
    RegionError::Invalid {
        region: region.to_owned(),
        cause,
    }
}

/// The region as its FitnessRegion says.
pub(crate) fn parse(name: &str, object: &Value) -> Result<(RegionName, FitnessRegionSpec), RegionError> {
    let region = name
        .parse()
        .map_err(|error| invalid(name, format!("metadata.name: {error}")))?;
    let spec =
        serde_json::from_value(object["spec"].clone()).map_err(|error| invalid(name, format!("spec: {error}")))?;
    Ok((region, spec))
}

/// The region's primary cluster, connected, answering as far as is known, and no other hub's.
async fn place<'a>(
    hub: &Hub,
    name: &str,
    spec: &'a FitnessRegionSpec,
) -> Result<(&'a ClusterMember, Arc<Member>), RegionError> {
    let cluster = named_primary(name, spec)?;
    let member = connect(hub, name, cluster).await?;
    if let Health::Unreachable(cause) = member.health() {
        return Err(RegionError::Unreachable {
            region: name.to_owned(),
            cluster: cluster.name.clone(),
            cause,
        });
    }
    let (region, named) = (name.to_owned(), cluster.name.clone());
    match member.holder() {
        // Until it is known, the member is not: see `Member::is_known`.
        Holder::Us | Holder::Unasked => Ok((cluster, member)),
        Holder::Other(hub) => Err(RegionError::OtherHub {
            region,
            cluster: named,
            hub,
        }),
        Holder::Unknown(cause) => Err(RegionError::Unclaimed {
            region,
            cluster: named,
            cause,
        }),
    }
}

/// The cluster that the region's objects are written into, which there must be.
pub(crate) fn named_primary<'a>(region: &str, spec: &'a FitnessRegionSpec) -> Result<&'a ClusterMember, RegionError> {
    spec.primary()
        .ok_or_else(|| invalid(region, "spec.clusters: one must have the role Primary".to_owned()))
}

async fn connect(hub: &Hub, region: &str, cluster: &ClusterMember) -> Result<Arc<Member>, RegionError> {
    let secret = &cluster.kubeconfig_secret;
    let key = ObjectKey::namespaced(SECRET, &hub.namespace, &secret.name);
    let text = hub
        .cache
        .get(&key)
        .and_then(|object| decoded(&object.data["data"][secret.key.as_str()]));
    let Some(text) = text else {
        hub.members.refuse(&cluster.name);
        hub.newest.source_changed();
        return Err(RegionError::NoKubeconfig {
            region: region.to_owned(),
            secret: format!("{}/{}", hub.namespace, secret.name),
            key: secret.key.clone(),
            cluster: cluster.name.clone(),
        });
    };
    let lying_there = source::regions_in(&hub.cache, &cluster.name);
    let connected = hub.members.ensure(&cluster.name, &text, &lying_there).await;
    if connected.is_err() {
        hub.members.refuse(&cluster.name);
        hub.newest.source_changed();
    }
    Ok(connected?)
}

pub(crate) fn decoded(value: &Value) -> Option<String> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(value.as_str()?).ok()?;
    String::from_utf8(bytes).ok()
}

/// Where a region's law does not hold, nothing of it may be: not its standbys either, which have all that it has. Without the
/// law the policy has no place for the region.
pub(crate) fn stands_under_its_law(
    region: &str,
    spec: &FitnessRegionSpec,
    law: Option<&JurisdictionSpec>,
) -> Result<(), RegionError> {
    let outside = |cluster: &&ClusterMember| law.is_some_and(|law| !law.holds_in(&cluster.country));
    match spec.clusters.iter().find(outside) {
        None => Ok(()),
        Some(cluster) => Err(RegionError::OutsideLaw {
            region: region.to_owned(),
            cluster: cluster.name.clone(),
            country: cluster.country.to_string(),
            jurisdiction: spec.jurisdiction.to_string(),
        }),
    }
}

/// A node that says nothing does not contradict; one that names another country does.
pub(crate) fn stands_where_declared(region: &str, cluster: &ClusterMember, held: &Cache) -> Result<(), RegionError> {
    for (key, node) in held.of_kind(NODE) {
        let label = node
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(COUNTRY_LABEL));
        if let Some(found) = label.filter(|found| found.as_str() != cluster.country.as_str()) {
            return Err(RegionError::Elsewhere {
                region: region.to_owned(),
                cluster: cluster.name.clone(),
                declared: cluster.country.to_string(),
                node: key.name,
                found: found.clone(),
            });
        }
    }
    Ok(())
}
