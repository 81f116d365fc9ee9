//! What must hold after every step: checked at each request when it is sent, and at each change when it is made.

use meridian_policy::PolicyRevision;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

use crate::api::request::{Ask, Verb};
use crate::api::store::{Event, Key};
use crate::api::{Observer, Server, fields};
use crate::planned;
use crate::process::Process;
use crate::world::{WEBHOOK_SECRET, WEBHOOKS, announced, authorities};

const STACKS: &str = "meridian.sh/regionstacks";
const PLACEMENTS: &str = "meridian.sh/tenantplacements";
const INCIDENTS: &str = "meridian.sh/privacyincidents";
const TENANTS: &str = "meridian.sh/tenantdataresidencies";
const LEASES: &str = "coordination.k8s.io/leases";
const POLICY_LEASE: &str = "meridian-policy";
/// What people have asked for so long ago must have reached every part that can be reached.
const KNOWN_AFTER: Duration = Duration::from_secs(60);

/// The cluster of each region.
pub fn cluster(region: &str) -> &'static str {
    if region == "us" { "us" } else { "eu" }
}

#[derive(Default)]
struct Seen {
    broken: Vec<String>,
    /// By server.
    objects: BTreeMap<(&'static str, Key), Arc<Value>>,
    /// By server and region: the policy that is applied.
    applied: BTreeMap<(&'static str, String), Value>,
    epochs: BTreeMap<String, u64>,
    /// Since when a tenant has been there and not deleted.
    alive: BTreeMap<String, Instant>,
    /// When somebody else changed something of the hub's.
    disturbed: BTreeMap<(&'static str, Key), Instant>,
    /// When people have asked the hub for something.
    asked: Option<Instant>,
    /// Changes by roles, signs of life left out.
    writes: Vec<String>,
}

#[derive(Default)]
pub struct Laws(Mutex<Seen>);

impl Laws {
    /// Which laws were broken.
    pub fn broken(&self) -> Vec<String> {
        self.0.lock().unwrap().broken.clone()
    }

    pub fn say(&self, broken: String) {
        self.0.lock().unwrap().broken.push(broken);
    }

    /// What roles have written since this was asked last.
    pub fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().writes)
    }

    /// The server has lost everything.
    pub fn lost(&self, server: &'static str) {
        self.0.lock().unwrap().objects.retain(|(of, _), _| *of != server);
    }
}

impl Observer for Laws {
    fn sent(&self, server: &Server, by: &Process, ask: &Ask) {
        let renews = ask.verb == Verb::Apply && ask.key.name == POLICY_LEASE && ask.manager == "meridian-hub-lease";
        if renews {
            let calm = server.faults.is_calm();
            self.0.lock().unwrap().renewed(server.name, by, calm);
        }
    }

    fn endless(&self) {
        let mut seen = self.0.lock().unwrap();
        let said = "requests without end".to_owned();
        if !seen.broken.contains(&said) {
            seen.broken.push(said);
        }
    }

    fn changed(&self, server: &Server, by: &Process, ask: &Ask, event: &Event) {
        let mut seen = self.0.lock().unwrap();
        let sign_of_life = event.key.resource == LEASES;
        if !sign_of_life && (by.role.starts_with("hub") || by.role.starts_with("region")) {
            let what = fields::difference(event.before.as_deref(), event.after.as_deref());
            seen.writes.push(format!(
                "{} {:?} {} on {}: {what}",
                by.role, ask.verb, event.key, server.name
            ));
        }
        seen.take(server.name, by, ask, event);
    }
}

impl Seen {
    fn breaks(&mut self, what: String) {
        self.broken.push(what);
    }

    fn stacks(&self, server: &str) -> Vec<(Key, Arc<Value>)> {
        let of = self
            .objects
            .iter()
            .filter(|((of, key), _)| *of == server && key.resource == STACKS);
        of.map(|((_, key), stack)| (key.clone(), stack.clone())).collect()
    }

    /// Rule: a lease is renewed only while no revocation is unapplied in that member. `calm`: whatever people have said is
    /// known everywhere within a moment.
    fn renewed(&mut self, server: &'static str, by: &Process, calm: bool) {
        if calm && self.asked.is_none_or(|at| at.elapsed() > Duration::from_secs(3)) {
            self.revokes(server, by);
        }
        for (key, stack) in self.stacks(server) {
            let disturbed = self.disturbed.get(&(server, key.clone()));
            let lately = disturbed.is_some_and(|at| at.elapsed() < Duration::from_secs(40));
            if lately || !stack["metadata"]["deletionTimestamp"].is_null() {
                continue;
            }
            let (written, applied) = (
                without_revision(&stack["spec"]["policy"]),
                self.applied.get(&(server, key.name.clone())),
            );
            if applied.is_some_and(|applied| *applied != written) {
                self.breaks(format!(
                    "{} renews the lease in {server} while {} has not applied revision {}",
                    by.role, key.name, stack["spec"]["revision"]
                ));
            }
        }
    }

    /// What is written in the member and should be no more.
    fn revokes(&mut self, server: &'static str, by: &Process) {
        let all = |server: &str, resource: &str| {
            let of = self
                .objects
                .iter()
                .filter(|((of, key), _)| *of == server && key.resource == resource);
            of.map(|(_, object)| object.clone()).collect()
        };
        let Some(policy) = planned::policy(all) else { return };
        for (key, stack) in self.stacks(server) {
            let Ok(wanted) = policy.for_region(&key.name.parse().unwrap(), PolicyRevision::default()) else {
                continue;
            };
            let wanted = serde_json::to_value(wanted).unwrap_or_default();
            for way in ["homes", "exports", "imports"] {
                let listed = |policy: &Value| policy[way].as_array().cloned().unwrap_or_default();
                let still = listed(&wanted);
                if let Some(more) = listed(&stack["spec"]["policy"])
                    .iter()
                    .find(|item| !still.contains(item))
                {
                    self.breaks(format!(
                        "{} renews the lease in {server} while {} still has, of {way}, {more}",
                        by.role, key.name
                    ));
                }
            }
        }
    }

    fn take(&mut self, server: &'static str, by: &Process, ask: &Ask, event: &Event) {
        let key = &event.key;
        if by.role.starts_with("hub") {
            self.only_the_leader_writes(server, by, ask, key);
            self.nothing_of_a_region_is_elsewhere(server, event);
        } else if server == "hub" {
            self.asked = Some(Instant::now());
        } else if ask.verb.writes() && !ask.status {
            self.disturbed.insert((server, key.clone()), Instant::now());
        }
        if key.resource == TENANTS {
            self.tenant(event);
        }
        if key.name == WEBHOOK_SECRET && server == "hub" {
            self.what_is_served_is_trusted(event);
        }
        if key.resource == STACKS && by.role.starts_with("hub") {
            self.who_is_there_stays(event);
        }
        if key.resource == INCIDENTS && by.role.starts_with("hub") {
            self.an_incident_stays_as_it_was(event);
        }
        match &event.after {
            Some(after) => {
                let applied = |object: &Value| object["status"]["appliedRevision"].as_u64();
                let before = event.before.as_ref().and_then(|before| applied(before));
                if key.resource == STACKS && applied(after) != before {
                    let policy = without_revision(&after["spec"]["policy"]);
                    self.applied.insert((server, key.name.clone()), policy);
                }
                self.objects.insert((server, key.clone()), after.clone());
            }
            None => {
                self.objects.remove(&(server, key.clone()));
                if key.resource == STACKS {
                    self.applied.remove(&(server, key.name.clone()));
                }
            }
        }
        if key.resource == STACKS || key.resource == PLACEMENTS {
            self.one_home_each(by);
        }
    }

    fn only_the_leader_writes(&mut self, server: &'static str, by: &Process, ask: &Ask, key: &Key) {
        if key.resource == LEASES && key.name == "meridian-hub" {
            return;
        }
        let lease = self
            .objects
            .iter()
            .find(|((of, key), _)| *of == "hub" && key.resource == LEASES && key.name == "meridian-hub");
        let holder = lease
            .and_then(|(_, lease)| lease["spec"]["holderIdentity"].as_str())
            .unwrap_or_default()
            .to_owned();
        if !holder.is_empty() && holder != by.role {
            self.breaks(format!(
                "{} has done {:?} {key} on {server} while {holder} leads",
                by.role, ask.verb
            ));
        }
    }

    /// Rule: a region's objects go to that region's clusters only.
    fn nothing_of_a_region_is_elsewhere(&mut self, server: &'static str, event: &Event) {
        let label = event
            .after
            .as_ref()
            .map(|after| after["metadata"]["labels"]["meridian.sh/region"].clone());
        if let Some(region) = label.as_ref().and_then(Value::as_str)
            && (server == "hub" || cluster(region) != server)
        {
            self.breaks(format!("{} of region {region} is written on {server}", event.key));
        }
    }

    /// The hub opens incidents; it changes none and deletes none.
    fn an_incident_stays_as_it_was(&mut self, event: &Event) {
        let Some(before) = &event.before else { return };
        let same = event
            .after
            .as_ref()
            .is_some_and(|after| after["spec"] == before["spec"]);
        if !same {
            self.breaks(format!("the hub has changed what is in {}", event.key));
        }
    }

    /// The webhook shows no certificate whose CA has not been announced before.
    fn what_is_served_is_trusted(&mut self, event: &Event) {
        let (Some(before), Some(after)) = (&event.before, &event.after) else {
            return;
        };
        let configuration = self.objects.iter().find(|((_, key), _)| key.resource == WEBHOOKS);
        let trusted = configuration
            .map(|(_, configuration)| announced(configuration))
            .unwrap_or_default();
        let served = authorities(after).into_iter().next();
        let changed = served != authorities(before).into_iter().next();
        if changed && !served.is_some_and(|served| trusted.contains(&served)) {
            self.breaks("the webhook shows a certificate of a CA that nobody trusts yet".to_owned());
        }
    }

    fn tenant(&mut self, event: &Event) {
        let name = event.key.name.clone();
        let deleting = |object: &Value| !object["metadata"]["deletionTimestamp"].is_null();
        let Some(after) = &event.after else {
            self.alive.remove(&name);
            self.epochs.remove(&name);
            return;
        };
        if deleting(after) {
            self.alive.remove(&name);
        } else {
            self.alive.entry(name.clone()).or_insert_with(Instant::now);
        }
        let epoch = |object: &Value| object["status"]["epoch"].as_u64();
        if let Some(before) = event.before.as_ref().and_then(|before| epoch(before))
            && epoch(after).is_some_and(|now| now < before)
        {
            self.breaks(format!("the epoch of {name} falls below {before} in its status"));
        }
    }

    /// A home that nobody deleted is not taken out of a region, whatever the hub has forgotten.
    fn who_is_there_stays(&mut self, event: &Event) {
        let (Some(before), Some(after)) = (&event.before, &event.after) else {
            return;
        };
        let now: BTreeSet<&str> = homes(after).map(|(tenant, _)| tenant).collect();
        for (tenant, _) in homes(before).filter(|(tenant, _)| !now.contains(tenant)) {
            if self
                .alive
                .get(tenant)
                .is_some_and(|since| since.elapsed() > KNOWN_AFTER)
            {
                self.broken.push(format!(
                    "{tenant} loses its home in {} though nobody deleted it",
                    event.key.name
                ));
            }
        }
    }

    /// Rules: at most one writable home per tenant and epoch; epochs only grow.
    fn one_home_each(&mut self, by: &Process) {
        let mut found: BTreeMap<(String, u64), BTreeSet<String>> = BTreeMap::new();
        for ((_, key), object) in &self.objects {
            let present = object["metadata"]["deletionTimestamp"].is_null();
            if key.resource == STACKS && present {
                for (tenant, epoch) in homes(object) {
                    found
                        .entry((tenant.to_owned(), epoch))
                        .or_default()
                        .insert(key.name.clone());
                }
            }
            let spec = &object["spec"];
            let here = format!("meridian-{}", spec["home"].as_str().unwrap_or_default());
            if key.resource == PLACEMENTS && present && key.namespace == here {
                let epoch = spec["epoch"].as_u64().unwrap_or_default();
                let home = spec["home"].as_str().unwrap_or_default().to_owned();
                found.entry((key.name.clone(), epoch)).or_default().insert(home);
            }
        }
        for ((tenant, epoch), homes) in &found {
            if homes.len() > 1 {
                self.broken
                    .push(format!("{tenant} has the homes {homes:?} with epoch {epoch}"));
            }
        }
        let highest = found.keys().fold(
            BTreeMap::new(),
            |mut highest: BTreeMap<String, u64>, (tenant, epoch)| {
                let known = highest.entry(tenant.clone()).or_default();
                *known = (*known).max(*epoch);
                highest
            },
        );
        for (tenant, epoch) in highest {
            let known = self.epochs.entry(tenant.clone()).or_default();
            if epoch < *known && by.role.starts_with("hub") {
                self.broken
                    .push(format!("the epoch of {tenant} falls from {known} to {epoch}"));
            }
            *known = epoch.max(*known);
        }
    }
}

fn homes(stack: &Value) -> impl Iterator<Item = (&str, u64)> {
    let homes = stack["spec"]["policy"]["homes"].as_array().into_iter().flatten();
    homes.filter_map(|home| Some((home["tenant"].as_str()?, home["epoch"].as_u64()?)))
}

fn without_revision(policy: &Value) -> Value {
    let mut policy = policy.clone();
    if let Some(map) = policy.as_object_mut() {
        map.remove("revision");
    }
    policy
}
