//! The policy lease: while the hub renews it in a member, that member's transfers may go on.
//!
//! It is renewed only while the newest compiled policy has been written into the member and the member says that it
//! applies it; so a revocation that a member has not applied yet ends all of its transfers within the lease's duration.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::changed::Concerned;
use super::members::Members;
use super::source;
use crate::apply::Purpose;
use crate::manifest::{LEASE, ObjectKey};
use crate::watch::Cache;

/// Name of the Lease in the operator's namespace of a member. The member's chart creates it.
pub const NAME: &str = "meridian-policy";
/// How often it is renewed.
pub const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How often it is looked whether one may be. While policies change one after the other, a member is settled for moments: one
/// that is missed would end its transfers.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How soon one that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a renewal is valid, in seconds.
pub const VALID_SECONDS: i32 = 20;
/// Annotation with the revision that the renewal vouches for.
pub const REVISION_ANNOTATION: &str = "meridian.sh/revision";

/// What the last pass over a region found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The member cluster that holds the region.
    pub member: String,
    /// Serial number of the compiled policy that the pass worked with.
    pub serial: u64,
    /// Revision that is written in the member.
    pub written: u64,
    /// Revision that the member says it applies.
    pub applied: u64,
    /// The pass went well, with a policy that knows every tenant which the member holds.
    pub complete: bool,
}

/// What is known of every region. Clones share it.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    settled: BTreeMap<String, Settled>,
    /// Regions whose edges are all closed, and that are being taken out of their member.
    leaving: BTreeSet<String>,
    /// The newest policy that concerned everybody.
    everybody: u64,
    /// By region: the newest policy that concerned it.
    concerned: BTreeMap<String, u64>,
}

impl Entries {
    /// The policy that a pass over the region must have worked with: the newest, or an older one from which it does not
    /// differ for this region.
    fn wanted(&self, region: &str) -> u64 {
        self.everybody
            .max(self.concerned.get(region).copied().unwrap_or_default())
    }
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A policy is about to be the newest: no lease is renewed for whom it concerns until a pass has worked with it.
    pub fn expect(&self, serial: u64, concerned: &Concerned) {
        let mut entries = self.lock();
        match concerned {
            Concerned::Everybody => entries.everybody = serial,
            Concerned::Only { regions, .. } => {
                let each = regions.iter().map(|region| (region.to_string(), serial));
                entries.concerned.extend(each);
            }
        }
    }

    /// A pass over a region ended.
    pub fn record(&self, region: &str, settled: Settled) {
        let mut entries = self.lock();
        entries.leaving.remove(region);
        entries.settled.insert(region.to_owned(), settled);
    }

    /// A region's pass failed: nothing is renewed for its cluster, whatever becomes of others in it.
    pub fn fail(&self, region: &str) {
        if let Some(settled) = self.lock().settled.get_mut(region) {
            settled.complete = false;
        }
    }

    /// A region is gone, or nothing is known of it: nothing is renewed for it, nor for others in its cluster while it is
    /// there.
    pub fn forget(&self, region: &str) {
        let mut entries = self.lock();
        entries.leaving.remove(region);
        entries.settled.remove(region);
    }

    /// A region that has nothing to revoke any more is being taken out of its member: others in its cluster do not wait.
    pub fn leave(&self, region: &str) {
        let mut entries = self.lock();
        entries.settled.remove(region);
        entries.leaving.insert(region.to_owned());
    }

    /// Of the members that are due. `lying_in`: the regions that have this cluster. A cluster may hold several and has one
    /// lease: every one of them must be settled, and one of which nothing is known is not.
    fn renewable(&self, is_due: impl Fn(&str) -> bool, lying_in: impl Fn(&str) -> BTreeSet<String>) -> Vec<Settled> {
        let ledger = self.lock();
        let mut by_member: BTreeMap<&str, &Settled> = BTreeMap::new();
        for settled in ledger.settled.values() {
            by_member.entry(&settled.member).or_insert(settled);
        }
        by_member.retain(|member, _| is_due(member));
        let is_settled = |region: &String| {
            let settled = ledger.settled.get(region);
            let may_renew = settled.is_some_and(|settled| may_renew(settled, ledger.wanted(region)));
            may_renew || ledger.leaving.contains(region)
        };
        by_member.retain(|member, _| {
            let mut recorded = ledger.settled.iter().filter(|(_, settled)| settled.member == *member);
            // What lies there is looked for last: that takes longest.
            recorded.all(|(region, _)| is_settled(region)) && lying_in(member).iter().all(is_settled)
        });
        by_member.into_values().cloned().collect()
    }
}

/// Whether the lease may be renewed: the pass saw the policy that is wanted there, that knows every tenant which the member
/// holds, and the member applies what it wrote.
#[must_use]
pub fn may_renew(settled: &Settled, wanted_serial: u64) -> bool {
    settled.serial >= wanted_serial && settled.complete && settled.applied == settled.written
}

/// Renews the leases of all members that are settled, until shutdown.
///
/// # Errors
/// None of its own: a lease that cannot be renewed is logged, and ends.
pub async fn renew(
    hub: Cache,
    members: Members,
    ledger: Ledger,
    namespace: String,
    identity: String,
    shutdown: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut renewals = Renewals::default();
    // A member that answers slowly keeps no other waiting.
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some((member, renewed)) = under_way.next() => {
                renewals.ended(member, renewed, Instant::now());
                continue;
            }
            _ = ticks.tick() => {}
        }
        let now = Instant::now();
        let is_due = |member: &str| renewals.is_due(member, now);
        for settled in ledger.renewable(is_due, |member| source::homes_of(&hub, member)) {
            renewals.began(settled.member.clone());
            let (members, namespace, identity) = (&members, &namespace, &identity);
            under_way.push(async move {
                let renewed = renew_one(members, namespace, identity, &settled).await;
                (settled.member, renewed.then_some(now))
            });
        }
    }
    while under_way.next().await.is_some() {}
    Ok(())
}

/// When each member's lease is due; nothing while a renewal is under way.
#[derive(Debug, Default)]
struct Renewals(BTreeMap<String, Option<Instant>>);

impl Renewals {
    fn is_due(&self, member: &str, now: Instant) -> bool {
        match self.0.get(member) {
            None => true,
            Some(due) => due.is_some_and(|due| now >= due),
        }
    }

    fn began(&mut self, member: String) {
        self.0.insert(member, None);
    }

    /// `renewed`: when that was begun; nothing when it failed.
    fn ended(&mut self, member: String, renewed: Option<Instant>, now: Instant) {
        let due = renewed.map_or(now + AGAIN, |began| began + RENEW_EVERY);
        self.0.insert(member, Some(due));
    }
}

/// Whether it was renewed.
async fn renew_one(members: &Members, namespace: &str, identity: &str, settled: &Settled) -> bool {
    let Some(member) = members.get(&settled.member) else {
        return false;
    };
    let key = ObjectKey::namespaced(LEASE, namespace, NAME);
    let body = renewal(namespace, identity, settled.written, Timestamp::now());
    let params = PatchParams::apply(Purpose::HubLease.manager()).force();
    let patch = Patch::Apply(&body);
    let api = member.applier.api(&key);
    let request = api.patch(NAME, &params, &patch);
    let written = member.applier.write("renew", &key, request).await;
    if let Err(error) = &written {
        tracing::warn!(member = %settled.member, error = %error, "policy lease not renewed; its transfers end with it");
    }
    written.is_ok()
}

fn renewal(namespace: &str, identity: &str, revision: u64, now: Timestamp) -> Value {
    json!({
        "apiVersion": LEASE.api_version(), "kind": LEASE.kind,
        "metadata": {
            "name": NAME, "namespace": namespace,
            "annotations": { REVISION_ANNOTATION: revision.to_string() },
        },
        "spec": {
            "holderIdentity": identity,
            "leaseDurationSeconds": VALID_SECONDS,
            "renewTime": format!("{now:.6}"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(member: &str, serial: u64, written: u64, applied: u64) -> Settled {
        Settled {
            member: member.to_owned(),
            serial,
            written,
            applied,
            complete: true,
        }
    }

    /// Of clusters in which nothing lies but what is recorded.
    fn renewable(ledger: &Ledger) -> Vec<Settled> {
        ledger.renewable(|_| true, |_| BTreeSet::new())
    }

    #[test]
    fn a_member_that_has_not_applied_what_was_written_is_not_renewed() {
        assert!(may_renew(&settled("eu", 3, 7, 7), 3));
        assert!(!may_renew(&settled("eu", 3, 8, 7), 3));
    }

    #[test]
    fn a_pass_that_saw_an_older_policy_renews_nothing() {
        assert!(!may_renew(&settled("eu", 2, 7, 7), 3));
    }

    #[test]
    fn a_policy_that_does_not_know_every_tenant_there_renews_nothing() {
        let incomplete = Settled {
            complete: false,
            ..settled("eu", 3, 7, 7)
        };
        assert!(!may_renew(&incomplete, 3));
    }

    #[test]
    fn one_unsettled_region_holds_back_the_lease_of_its_whole_cluster() {
        let ledger = Ledger::default();
        ledger.record("de", settled("eu", 1, 1, 1));
        ledger.record("fr", settled("eu", 1, 2, 1));
        ledger.record("us", settled("us", 1, 1, 1));
        let members: Vec<_> = renewable(&ledger).into_iter().map(|settled| settled.member).collect();
        assert_eq!(members, ["us"]);
    }

    #[test]
    fn a_region_whose_pass_failed_holds_back_the_lease_of_its_whole_cluster() {
        let ledger = Ledger::default();
        ledger.record("de", settled("eu", 1, 1, 1));
        ledger.record("fr", settled("eu", 1, 1, 1));
        ledger.fail("fr");
        assert!(renewable(&ledger).is_empty());
        ledger.forget("fr");
        assert_eq!(renewable(&ledger).len(), 1);
    }

    #[test]
    fn a_region_of_which_nothing_is_known_holds_back_the_lease_of_its_whole_cluster_until_it_leaves() {
        let ledger = Ledger::default();
        ledger.record("de", settled("eu", 1, 1, 1));
        let both = |_: &str| BTreeSet::from(["de".to_owned(), "fr".to_owned()]);
        assert!(ledger.renewable(|_| true, both).is_empty());
        ledger.record("fr", settled("eu", 1, 1, 1));
        assert_eq!(ledger.renewable(|_| true, both).len(), 1);
        ledger.forget("fr");
        assert!(ledger.renewable(|_| true, both).is_empty());
        ledger.leave("fr");
        assert_eq!(ledger.renewable(|_| true, both).len(), 1);
    }

    #[test]
    fn a_new_leader_renews_nothing_before_it_has_looked_at_every_region_of_a_cluster() {
        let ledger = Ledger::default();
        let lying_in = |member: &str| {
            let regions: &[&str] = if member == "eu" { &["de", "fr"] } else { &["us"] };
            regions.iter().map(|region| (*region).to_owned()).collect()
        };
        ledger.record("de", settled("eu", 1, 1, 1));
        ledger.fail("fr");
        ledger.record("us", settled("us", 1, 1, 1));
        assert_eq!(ledger.renewable(|_| true, lying_in), [settled("us", 1, 1, 1)]);
        ledger.record("fr", settled("eu", 1, 1, 1));
        assert_eq!(ledger.renewable(|_| true, lying_in).len(), 2);
    }

    #[test]
    fn a_new_policy_holds_back_whom_it_concerns_until_their_pass_has_seen_it() {
        let ledger = Ledger::default();
        for region in ["eu", "us"] {
            ledger.record(region, settled(region, 1, 1, 1));
        }
        let renewed = || -> Vec<String> { renewable(&ledger).into_iter().map(|settled| settled.member).collect() };
        let regions = BTreeSet::from(["eu".parse().unwrap()]);
        let tenants = BTreeSet::new();
        ledger.expect(2, &Concerned::Only { regions, tenants });
        assert_eq!(renewed(), ["us"]);
        ledger.record("eu", settled("eu", 2, 2, 2));
        assert_eq!(renewed(), ["eu", "us"]);
        ledger.expect(3, &Concerned::Everybody);
        assert!(renewed().is_empty());
    }

    #[test]
    fn a_member_that_was_not_settled_when_it_was_due_is_due_until_it_is() {
        let (ledger, mut renewals, began) = (Ledger::default(), Renewals::default(), Instant::now());
        let mut renewed = |settled: Settled, seconds: u64| {
            ledger.record("eu", settled);
            let now = began + Duration::from_secs(seconds);
            let renewable = ledger.renewable(|member| renewals.is_due(member, now), |_| BTreeSet::new());
            for settled in &renewable {
                renewals.ended(settled.member.clone(), Some(now), now);
            }
            renewable.len()
        };
        assert_eq!(renewed(settled("eu", 1, 1, 1), 0), 1, "at once");
        assert_eq!(renewed(settled("eu", 1, 1, 1), 4), 0, "not before it is due");
        assert_eq!(renewed(settled("eu", 2, 2, 1), 5), 0, "what is written is not applied");
        assert_eq!(renewed(settled("eu", 2, 2, 2), 6), 1, "and then it is");
        assert_eq!(renewed(settled("eu", 2, 2, 2), 10), 0);
        assert_eq!(renewed(settled("eu", 2, 2, 2), 11), 1);
    }

    #[test]
    fn no_renewal_is_begun_beside_another_and_one_that_failed_is_tried_again_soon() {
        let (mut renewals, began) = (Renewals::default(), Instant::now());
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        assert!(renewals.is_due("eu", at(0)));
        renewals.began("eu".to_owned());
        assert!(!renewals.is_due("eu", at(60)), "it is under way");
        renewals.ended("eu".to_owned(), None, at(4));
        assert!(!renewals.is_due("eu", at(4)) && renewals.is_due("eu", at(5)));
        renewals.ended("eu".to_owned(), Some(at(5)), at(8));
        assert!(!renewals.is_due("eu", at(9)) && renewals.is_due("eu", at(10)));
        assert!(renewals.is_due("us", at(0)));
    }

    #[test]
    fn a_renewal_is_written_in_the_form_that_the_api_server_keeps() {
        let body = renewal(
            "meridian-system",
            "hub-0",
            4,
            "2026-11-21T10:00:00.123456Z".parse().unwrap(),
        );
        assert_eq!(body["spec"]["renewTime"], "2026-11-21T10:00:00.123456Z");
        assert_eq!(body["metadata"]["annotations"][REVISION_ANNOTATION], "4");
    }
}
