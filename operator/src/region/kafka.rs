//! The operator at the region's Kafka: it comes under its own certificate, and keeps the access control lists as
//! [`stack::plan::access`](super::stack::plan::access) has them.

use super::identity::Identity;
use super::stack::plan::{access, kafka};
use super::stack::{observe, reference, validate::namespace};
use crate::events::{Events, Reason};
use crate::manifest::{CONFIG_MAP, KAFKA_CLUSTER, ObjectKey};
use crate::watch::Cache;
use meridian_kit::kafka::{Access, AccessError, Acl, BROKER, Broker, Kafka};
use meridian_kit::tls::{Tls, TlsError};
use meridian_policy::RegionName;
use std::collections::BTreeSet;
use std::time::Duration;

const CLIENT: &str = "meridian-region-operator";
const PORT: u16 = 9094;
/// How often the lists are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The first pause after a look that failed; the broker of a new region is not there yet.
const SOON: Duration = Duration::from_secs(1);

/// How the operator comes to the region's Kafka.
#[derive(Clone)]
pub struct Reach {
    identity: Identity,
    brokers: Option<String>,
}

impl Reach {
    /// To the region's own broker, or in clear to `brokers` for an operator outside the cluster (tests).
    #[must_use]
    pub fn new(identity: Identity, brokers: Option<String>) -> Self {
        Self { identity, brokers }
    }

    /// Makes clients; waits until the operator has a certificate.
    ///
    /// # Errors
    /// When the certificate cannot be used.
    pub async fn kafka(&self) -> Result<Kafka, TlsError> {
        if let Some(brokers) = &self.brokers {
            return Ok(Kafka::plain(brokers, "", CLIENT));
        }
        let tls = self.identity.tls().await?;
        Ok(Kafka::mutual(&tls, &[broker(tls.region())], "", CLIENT))
    }
}

fn broker(region: &RegionName) -> Broker {
    Broker {
        host: format!("{BROKER}.{}.svc", namespace(region)),
        port: PORT,
    }
}

/// What was put right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Corrected {
    /// What nobody planned, and is gone.
    pub removed: BTreeSet<Acl>,
    /// What was missing, and is there.
    pub added: BTreeSet<Acl>,
}

impl Corrected {
    fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }

    fn sentence(&self) -> String {
        let said = |what: &str, acls: &BTreeSet<Acl>| {
            let acls: Vec<String> = acls.iter().map(ToString::to_string).collect();
            (!acls.is_empty()).then(|| format!("{what}: {}", acls.join(", ")))
        };
        let parts = [said("taken away", &self.removed), said("put back", &self.added)];
        parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }
}

/// Makes the lists of a broker those that are planned. Rights that nobody planned go first.
///
/// # Errors
/// When the broker cannot be reached, or refuses.
pub async fn correct(tls: &Tls, broker: &Broker) -> Result<Corrected, AccessError> {
    let mut lists = Access::connect(tls, broker).await?;
    let (planned, there) = (access::acls(), lists.list().await?);
    let corrected = Corrected {
        removed: there.difference(&planned).cloned().collect(),
        added: planned.difference(&there).cloned().collect(),
    };
    if !corrected.removed.is_empty() {
        lists.remove(&corrected.removed).await?;
    }
    if !corrected.added.is_empty() {
        lists.add(&corrected.added).await?;
    }
    Ok(corrected)
}

/// Keeps the lists of the region's own broker as planned, as long as it is polled. Only the leader does it.
pub(super) async fn keep_access(identity: Identity, cache: Cache, events: Events) {
    let (mut pause, mut kept) = (SOON, false);
    loop {
        match look(&identity, &cache).await {
            Ok(None) => {}
            Ok(Some((region, corrected))) => {
                report(&cache, &events, &region, &corrected, kept).await;
                (pause, kept) = (LOOK_EVERY, true);
            }
            Err(error) => {
                tracing::warn!(error = %error, "who may do what in Kafka is not known to be as planned; looking again");
                pause = if kept { LOOK_EVERY } else { (pause * 2).min(LOOK_EVERY) };
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// One look; nothing where the region has no Kafka yet, neither ours nor Strimzi's.
async fn look(identity: &Identity, cache: &Cache) -> Result<Option<(RegionName, Corrected)>, AccessError> {
    let tls = identity.tls().await?;
    let region = tls.region().clone();
    let there = [(CONFIG_MAP, kafka::CONFIG), (KAFKA_CLUSTER, kafka::NAME)]
        .map(|(kind, name)| ObjectKey::namespaced(kind, &namespace(&region), name));
    if there.iter().all(|key| cache.get(key).is_none()) {
        return Ok(None);
    }
    let corrected = correct(&tls, &broker(&region)).await?;
    Ok(Some((region, corrected)))
}

/// Says what was put right. The lists of a new region are no news.
async fn report(cache: &Cache, events: &Events, region: &RegionName, corrected: &Corrected, kept: bool) {
    if corrected.is_empty() {
        return;
    }
    let sentence = corrected.sentence();
    if !kept && corrected.removed.is_empty() {
        tracing::info!(region = %region, "Kafka knows who may do what");
        return;
    }
    tracing::warn!(region = %region, reason = sentence, "who may do what in Kafka was changed by somebody, and was put right");
    let uid =
        observe::stack(cache, region.as_str()).and_then(|stack| stack["metadata"]["uid"].as_str().map(str::to_owned));
    let stack = reference(region.as_str(), &uid.unwrap_or_default());
    events.report(&stack, Reason::AccessCorrected, &sentence).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_kit::kafka::{Operation, Resource};

    #[test]
    fn what_was_put_right_is_said_in_words() {
        let acl = |component| Acl::allow(component, Operation::Read, Resource::Topic("social.events".to_owned()));
        let corrected = Corrected {
            removed: [acl("training")].into(),
            added: [acl("replicator")].into(),
        };
        assert_eq!(
            corrected.sentence(),
            "taken away: User:training may Read Topic(\"social.events\"); put back: User:replicator may Read Topic(\"social.events\")"
        );
    }
}
