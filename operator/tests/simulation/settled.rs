//! Whether the world is as planned, and until when it is awaited.

use meridian_policy::{CompiledPolicy, PolicyRevision, RegionPolicy};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

use crate::api::Server;
use crate::laws::cluster;
use crate::planned;
use crate::world::{REGIONS, STACKS, SYSTEM, TENANTS, WEBHOOK_SECRET, WEBHOOKS, World, announced, authorities};

const INCIDENTS: &str = "meridian.sh/privacyincidents";
const PLACEMENTS: &str = "meridian.sh/tenantplacements";

/// Nothing, or what is not as planned.
pub type Look = Result<(), String>;

impl World {
    /// What is not as planned; nothing when all is.
    pub fn differs(&self) -> Option<String> {
        self.look().err()
    }

    fn look(&self) -> Look {
        let all = |server: &str, resource: &str| {
            let server = if server == "hub" {
                &self.hub
            } else {
                &self.members[server]
            };
            let objects = server.store().all(resource).into_iter();
            objects.map(|(_, object)| object).collect()
        };
        let policy = planned::policy(all).ok_or("what there is cannot be gathered")?;
        self.manifests_are_applied()?;
        let regions = self.hub.store().all(REGIONS);
        for (key, object) in regions {
            self.region_is_as_planned(&key.name, &object, &policy)?;
        }
        self.tenants_are_told(&policy)?;
        if self.hub_runs() {
            self.incidents_are_looked_at()?;
            self.webhook_is_trusted()?;
        }
        self.nothing_is_left_over()
    }

    fn manifests_are_applied(&self) -> Look {
        for ((resource, name), manifest) in self.manifests.lock().unwrap().iter() {
            let object = self.get(resource, name);
            let object = object.ok_or_else(|| format!("{resource} {name} is not there"))?;
            if object["spec"] != manifest["spec"] {
                return Err(format!("{resource} {name} is not as it was applied"));
            }
        }
        Ok(())
    }

    fn region_is_as_planned(&self, name: &str, object: &Value, policy: &CompiledPolicy) -> Look {
        let conditions = &object["status"]["conditions"];
        if !object["metadata"]["deletionTimestamp"].is_null() {
            return Err(format!("region {name} is still being deleted: {conditions}"));
        }
        let stack = self.stack(name);
        let stack = stack.ok_or_else(|| format!("there is no stack of {name}: {conditions}"))?;
        let revision = stack["spec"]["revision"].as_u64().unwrap_or_default();
        let planned = policy
            .for_region(&name.parse().unwrap(), PolicyRevision(revision))
            .unwrap();
        if stack["spec"]["policy"] != json!(planned) {
            return Err(format!(
                "the policy of {name} is {}\nand not {}\nas {} says",
                stack["spec"]["policy"],
                json!(planned),
                object["status"]
            ));
        }
        if stack["status"]["appliedRevision"] != revision || object["status"]["appliedRevision"] != revision {
            return Err(format!(
                "revision {revision} of {name} is not applied or not told: {}",
                object["status"]
            ));
        }
        let mut told = conditions.as_array().into_iter().flatten();
        if !told.any(|found| found["type"] == "Ready" && found["status"] == "True") {
            return Err(format!("{name} is not said to be ready: {conditions}"));
        }
        self.placements_are_as_planned(name, &planned)
    }

    fn placements_are_as_planned(&self, name: &str, planned: &RegionPolicy) -> Look {
        let at_home = planned.homes.iter();
        let imported = planned.imports.iter();
        let epochs: BTreeMap<String, Value> = at_home
            .map(|home| (home.tenant.to_string(), json!(home.epoch)))
            .chain(imported.map(|edge| (edge.tenant.to_string(), Value::Null)))
            .collect();
        let space = format!("meridian-{name}");
        let placed = self.members[cluster(name)].store().all(PLACEMENTS).into_iter();
        let placed: BTreeMap<String, Arc<Value>> = placed
            .filter(|(key, _)| key.namespace == space)
            .map(|(key, value)| (key.name, value))
            .collect();
        if placed.keys().ne(epochs.keys()) {
            return Err(format!(
                "{name} has the placements {:?} and not {:?}",
                placed.keys(),
                epochs.keys()
            ));
        }
        for (tenant, placement) in placed {
            let epoch = &placement["spec"]["epoch"];
            if !epochs[&tenant].is_null() && *epoch != epochs[&tenant] {
                return Err(format!("{tenant} is placed in {name} with epoch {epoch}"));
            }
        }
        Ok(())
    }

    /// Of those whose home there is.
    fn tenants_are_told(&self, policy: &CompiledPolicy) -> Look {
        let tenants = self.hub.store().all(TENANTS);
        for (key, object) in tenants {
            let home = object["spec"]["home"]["region"].as_str().unwrap_or_default();
            if self.get(REGIONS, home).is_none() {
                continue;
            }
            let edges = policy.edges().filter(|edge| edge.tenant.as_str() == key.name).count();
            let status = &object["status"];
            let is_told = status["edgesAllowed"] == edges && status["epoch"].is_u64();
            if !object["metadata"]["deletionTimestamp"].is_null() || !is_told {
                return Err(format!("tenant {} has {edges} edges, and is {status}", key.name));
            }
        }
        Ok(())
    }

    /// Neither one that is missing or not looked at, nor one too many.
    fn incidents_are_looked_at(&self) -> Look {
        let all = self.hub.store().all(INCIDENTS);
        let looked_at: BTreeSet<String> = all
            .iter()
            .filter(|(_, incident)| incident["status"]["phase"].is_string())
            .map(|(key, _)| key.name.clone())
            .collect();
        let wanted = self.incidents.lock().unwrap().clone();
        if looked_at == wanted && all.len() == wanted.len() {
            return Ok(());
        }
        Err(format!(
            "of {wanted:?} there are looked at {looked_at:?}, of {} in all",
            all.len()
        ))
    }

    fn webhook_is_trusted(&self) -> Look {
        let secret = self.hub.store().get("/secrets", SYSTEM, WEBHOOK_SECRET);
        let secret = secret.ok_or("the webhook has no certificate")?;
        let trusted = authorities(&secret);
        let asked = secret["metadata"]["annotations"]["meridian.sh/rotate"].is_string();
        let replaced = self.replaced.lock().unwrap().clone();
        let stale = replaced.is_some_and(|old| trusted.contains(&old));
        let configuration = self.get(WEBHOOKS, "meridian").unwrap_or_default();
        let same = announced(&configuration) == trusted;
        if trusted.len() == 1 && secret["data"]["next.crt"].is_null() && same && !asked && !stale {
            return Ok(());
        }
        Err(format!(
            "the webhook's CA is being rotated: {} are trusted",
            trusted.len()
        ))
    }

    /// No stack of a region that is gone; and each cluster that has a region has had a lease.
    fn nothing_is_left_over(&self) -> Look {
        let named = |name: &str| self.get(REGIONS, name).is_some();
        for (cluster, member) in &self.members {
            let mut stacks = member.store().all(STACKS).into_iter();
            if let Some((key, _)) = stacks.find(|(key, _)| !named(&key.name)) {
                return Err(format!("{cluster} still has a stack of {}", key.name));
            }
            let lease = policy_lease(member);
            if lease.is_none_or(|lease| lease["spec"]["renewTime"].is_null()) && named(cluster) {
                return Err(format!("the lease in {cluster} was never renewed"));
            }
        }
        Ok(())
    }

    /// Until all is as planned.
    pub async fn settles(&self) -> Result<(), String> {
        self.mend();
        until_as_planned(|second| {
            self.apply_what_is_missing();
            if second >= 300 && second % 60 == 0 {
                self.let_go_by_hand();
                self.forget_whom_nobody_has();
                self.take_away_what_nobody_has();
            }
            self.is_lawful()?;
            Ok(self.differs())
        })
        .await
    }

    /// The same, and so it stays while what was seen late may still be told: a watch that failed begins anew only after its
    /// back-off, and a region of which one kind is not known yet counts as silent until then.
    async fn stays_settled(&self) -> Result<(), String> {
        let mut differs = None;
        for _ in 0..4 {
            self.settles().await?;
            sleep(Duration::from_secs(15)).await;
            differs = self.differs();
            if differs.is_none() {
                return Ok(());
            }
        }
        Err(format!("it does not stay as planned: {}", differs.unwrap_or_default()))
    }

    /// The same; then nothing is written for as long.
    pub async fn converges(&self, and_rests: Duration) -> Result<(), String> {
        self.stays_settled().await?;
        self.laws.take_writes();
        let before = self.renewals();
        sleep(and_rests).await;
        if let Some((cluster, _)) = self.renewals().into_iter().find(|one| before.contains(one)) {
            return Err(format!(
                "the lease in {cluster} was not renewed for {} s",
                and_rests.as_secs()
            ));
        }
        nothing_written(&self.laws.take_writes())?;
        if let Some(differs) = self.differs() {
            return Err(format!("it had converged, and then: {differs}"));
        }
        self.is_lawful()
    }

    /// The version of each cluster's lease, where a region lies.
    fn renewals(&self) -> Vec<(String, String)> {
        let version = |member: &Server| {
            let lease = policy_lease(member)?;
            Some(lease["metadata"]["resourceVersion"].as_str()?.to_owned())
        };
        let clusters = self.members.iter();
        clusters
            .filter(|(cluster, _)| self.get(REGIONS, cluster).is_some())
            .filter_map(|(cluster, member)| Some(((*cluster).to_owned(), version(member)?)))
            .collect()
    }

    pub fn is_lawful(&self) -> Result<(), String> {
        nothing_broken(&self.laws.broken())
    }
}

/// Until nothing differs, by looking once a second. The longest back-off is a minute, and a deletion takes several passes of
/// several objects.
pub async fn until_as_planned(mut differs: impl FnMut(u32) -> Result<Option<String>, String>) -> Look {
    let mut left = None;
    for second in 0..600 {
        sleep(Duration::from_secs(1)).await;
        left = differs(second)?;
        if left.is_none() {
            return Ok(());
        }
    }
    Err(format!("it does not converge: {}", left.unwrap_or_default()))
}

/// Of what has converged.
pub fn nothing_written(writes: &[String]) -> Look {
    if writes.is_empty() {
        return Ok(());
    }
    Err(format!("nothing had to change, and yet there was written: {writes:#?}"))
}

/// Of the laws that always hold.
pub fn nothing_broken(broken: &[String]) -> Look {
    if broken.is_empty() {
        return Ok(());
    }
    Err(format!("broken: {broken:#?}"))
}

fn policy_lease(member: &Server) -> Option<Arc<Value>> {
    let store = member.store();
    store.get("coordination.k8s.io/leases", SYSTEM, "meridian-policy")
}
