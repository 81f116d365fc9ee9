//! Which hub writes into a member: one at a time.
//!
//! A hub writes its identity and a sign of life beside the policy lease, every 5 s, whether or not it renews that. While
//! another hub's signs go on, this one writes nothing there. A hub that was rebuilt from its manifests looks like any other
//! hub: only that the old one is silent tells them apart, so it takes over when it has seen the last sign unchanged for
//! 20 s on its own clock. The holder counts from *before* its last sign was sent, and stops before the 20 s are over by more
//! than one request may take. The resource version makes two takers' writes exclude each other.
//!
//! The identity is the UID of the Lease by which the hub's replicas elect their leader: they share it, it lasts as long as
//! the hub's etcd, and no right is needed to read it that the hub does not have.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, ObjectMeta, Patch, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use crate::apply::{REQUEST_TIMEOUT, merge_by};
use crate::election::Leadership;
use crate::hub::lease::NAME;

/// Annotation of the policy lease with the identity of the hub that writes into the member.
pub const HUB_ANNOTATION: &str = "meridian.sh/hub";
/// Annotation with that hub's last sign of life; only ever compared for equality: it is another machine's clock.
pub const SEEN_ANNOTATION: &str = "meridian.sh/hub-seen";
/// How long another hub's sign of life counts.
pub const VALID: Duration = Duration::from_secs(20);
/// How long this hub writes after its own.
const WRITES_FOR: Duration = Duration::from_secs(15);
const SIGN_EVERY: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Tries when others write the same Lease at the same time.
const TRIES: u32 = 5;
const MANAGER: &str = "meridian-hub-claim";

/// Who writes into a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody has looked yet.
    Unasked,
    /// It could not be found out; why.
    Unknown(String),
    /// This hub.
    Us,
    /// Another one, by its identity.
    Other(String),
}

/// A hub that claims members.
#[derive(Clone, Debug)]
pub struct Claimant {
    /// Its identity.
    pub hub: String,
    /// The operator's namespace in the members.
    pub namespace: String,
}

/// The hub's identity: the UID of the Lease that elects its leader.
///
/// # Errors
/// When the Lease cannot be read for as long as whoever has just taken it may lead.
pub async fn identity(
    client: &Client,
    namespace: &str,
    lease: &str,
    leadership: &Leadership,
) -> Result<String, ClaimError> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    loop {
        let error = match tokio::time::timeout(REQUEST_TIMEOUT, leases.get(lease)).await {
            Ok(Ok(lease)) => return Ok(lease.uid().unwrap_or_default()),
            Ok(Err(error)) => ClaimError::Api(error),
            Err(_) => ClaimError::Silent,
        };
        if !leadership.may_write() {
            return Err(error);
        }
        tracing::warn!(resource = lease, error = %error, "the hub's identity is asked for again");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Why a member, or the hub's own identity, could not be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// What the API server answered.
    #[error("the lease could not be read or written: {0}")]
    Api(#[from] kube::Error),
    /// It did not.
    #[error("the lease could not be read: no answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Silent,
    /// Only the chart makes it.
    #[error("there is no Lease {NAME}, and this hub may not make it; install the chart there")]
    Missing,
    /// Others write it all the time.
    #[error("the policy lease is being written by others; it is tried again")]
    Contended,
    /// Somebody else leads.
    #[error("this replica does not hold the role's lease")]
    NotLeader,
}

/// One member's claim. Clones share it.
#[derive(Clone)]
pub struct Claim {
    claimant: Claimant,
    hub: Leadership,
    member: Leadership,
    holder: Arc<Mutex<Holder>>,
}

impl Claim {
    /// Writes are refused until [`Claim::keep`] has found that they may go on.
    #[must_use]
    pub fn new(claimant: Claimant, hub: &Leadership) -> Self {
        Self {
            claimant,
            hub: hub.clone(),
            member: hub.within(),
            holder: Arc::new(Mutex::new(Holder::Unasked)),
        }
    }

    /// The answer that writers into this member ask.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        self.member.clone()
    }

    /// Who writes there, as of the last look.
    #[must_use]
    pub fn holder(&self) -> Holder {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Claims the member, and keeps the claim while no other hub does. `tell` hears when the holder is another one.
    pub async fn keep(self, client: Client, tell: impl Fn() + Send) {
        let leases: Api<Lease> = Api::namespaced(client, &self.claimant.namespace);
        let mut sight = Sight::default();
        loop {
            let sent = Instant::now();
            let holder = match tokio::time::timeout(REQUEST_TIMEOUT, self.attempt(&leases, &mut sight)).await {
                Ok(Ok(None)) => {
                    self.member.grant(sent + WRITES_FOR);
                    Holder::Us
                }
                Ok(Ok(Some(other))) => {
                    self.member.revoke();
                    Holder::Other(other)
                }
                Ok(Err(error)) => self.unless_held(error.to_string()),
                Err(_) => self.unless_held(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())),
            };
            let pause = if holder == Holder::Us { SIGN_EVERY } else { LOOK_EVERY };
            if self.is_now(holder) {
                tell();
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// A sign that could not be given ends nothing before its time.
    fn unless_held(&self, cause: String) -> Holder {
        if self.member.may_write() {
            Holder::Us
        } else {
            Holder::Unknown(cause)
        }
    }

    fn is_now(&self, holder: Holder) -> bool {
        let mut known = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *known != holder;
        if changed {
            tracing::info!(state = ?holder, "who writes into a member has changed");
        }
        *known = holder;
        changed
    }

    /// One try: nobody, when the member is ours afterwards, or the other hub.
    async fn attempt(&self, leases: &Api<Lease>, sight: &mut Sight) -> Result<Option<String>, ClaimError> {
        for _ in 0..TRIES {
            let current = leases.get_opt(NAME).await?;
            let mark = current.as_ref().and_then(Mark::of);
            let unchanged = sight.of(mark.as_ref(), Instant::now());
            if let Some(other) = other(mark, &self.claimant.hub, unchanged) {
                return Ok(Some(other));
            }
            let Some(_writing) = self.hub.begin_write() else {
                return Err(ClaimError::NotLeader);
            };
            let is_missing = current.is_none();
            match self.sign(leases, current).await {
                Ok(_) => return Ok(None),
                Err(kube::Error::Api(status)) if is_missing && status.is_forbidden() => {
                    return Err(ClaimError::Missing);
                }
                Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ClaimError::Contended)
    }

    async fn sign(&self, leases: &Api<Lease>, current: Option<Lease>) -> Result<Lease, kube::Error> {
        let now = format!("{:.6}", Timestamp::now());
        let annotations = [(HUB_ANNOTATION, self.claimant.hub.clone()), (SEEN_ANNOTATION, now)];
        let Some(current) = current else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(NAME.to_owned()),
                    annotations: Some(annotations.map(|(name, value)| (name.to_owned(), value)).into()),
                    ..ObjectMeta::default()
                },
                spec: None,
            };
            let params = PostParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PostParams::default()
            };
            return leases.create(&params, &lease).await;
        };
        let [(hub, ours), (seen, now)] = annotations;
        let version = current.resource_version();
        let patch = json!({"metadata": {"resourceVersion": version, "annotations": {hub: ours, seen: now}}});
        let params = merge_by(MANAGER);
        leases.patch(NAME, &params, &Patch::Merge(patch)).await
    }
}

/// What a Lease says of who writes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    hub: String,
    seen: String,
}

impl Mark {
    fn of(lease: &Lease) -> Option<Self> {
        let annotations = lease.metadata.annotations.as_ref()?;
        Some(Self {
            hub: annotations.get(HUB_ANNOTATION)?.clone(),
            seen: annotations.get(SEEN_ANNOTATION).cloned().unwrap_or_default(),
        })
    }
}

/// The mark as last seen, and since when it has not changed.
#[derive(Debug, Default)]
struct Sight(Option<(Option<Mark>, Instant)>);

impl Sight {
    /// For how long this mark has been seen.
    fn of(&mut self, mark: Option<&Mark>, now: Instant) -> Duration {
        match &self.0 {
            Some((known, since)) if known.as_ref() == mark => now.saturating_duration_since(*since),
            _ => {
                self.0 = Some((mark.cloned(), now));
                Duration::ZERO
            }
        }
    }
}

/// The other hub that has the member; none when it is there to be taken.
fn other(mark: Option<Mark>, ours: &str, unchanged: Duration) -> Option<String> {
    mark.filter(|mark| mark.hub != ours && unchanged < VALID)
        .map(|mark| mark.hub)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(hub: &str, seen: &str) -> Mark {
        Mark {
            hub: hub.to_owned(),
            seen: seen.to_owned(),
        }
    }

    #[test]
    fn another_hub_has_the_member_until_its_last_sign_has_been_seen_for_its_whole_time() {
        let theirs = || Some(mark("theirs", "1"));
        let almost = VALID - Duration::from_millis(1);
        assert_eq!(other(theirs(), "ours", almost).as_deref(), Some("theirs"));
        assert_eq!(other(theirs(), "ours", VALID), None);
    }

    #[test]
    fn a_member_that_nobody_claims_or_that_is_ours_is_taken_at_once() {
        assert_eq!(other(None, "ours", Duration::ZERO), None);
        assert_eq!(other(Some(mark("ours", "1")), "ours", Duration::ZERO), None);
    }

    #[test]
    fn a_new_sign_is_timed_anew_and_a_first_look_times_nothing() {
        let (base, mut sight) = (Instant::now(), Sight::default());
        let at = |second| base + Duration::from_secs(second);
        let (first, second) = (mark("theirs", "1"), mark("theirs", "2"));
        assert_eq!(sight.of(Some(&first), at(0)), Duration::ZERO);
        assert_eq!(sight.of(Some(&first), at(19)), Duration::from_secs(19));
        assert_eq!(sight.of(Some(&second), at(20)), Duration::ZERO);
        assert_eq!(sight.of(Some(&second), at(25)), Duration::from_secs(5));
    }

    #[test]
    fn a_holder_has_stopped_before_another_hub_may_begin() {
        assert!(WRITES_FOR + REQUEST_TIMEOUT < VALID);
        assert!(SIGN_EVERY * 2 + REQUEST_TIMEOUT < WRITES_FOR);
    }
}
