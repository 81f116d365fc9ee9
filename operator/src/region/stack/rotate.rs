//! Rotation of the region's CA: takes the next step of [`secrets::rotation`] when everybody who has to has seen the last.
//!
//! Peers say so by applying a policy with the new bundle, which the hub tells in `spec.trustedBy`. Nobody says it for what
//! runs here: certificates reach pods with the kubelet's next look at their Secrets. So each step also stands for a while
//! ([`PAUSE_ANNOTATION`]), counted on the leader's own clock from when it saw everything written and acknowledged; a new
//! leader counts anew.
//!
//! A peer that does not answer holds the rotation, and costs nothing by it: the old CA goes on. Only when that one is about
//! to end the rotation goes on without it, and nothing is transferred to or from that peer until it has been told.

use super::secrets::rotation::{Step, missing};
use super::secrets::{self, Authorities, Authority, REGION_CA, Secrets};
use super::validate::Stack;
use super::{StackError, Stacks};
use crate::apply::{Purpose, observed};
use crate::conditions::Observation;
use crate::manifest::{Manifest, ObjectKey, SECRET};
use crate::rotation::{PAUSE_ANNOTATION, ROTATE_ANNOTATION, pause};
use jiff::Timestamp;
use kube::api::DynamicObject;
use meridian_policy::RegionName;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The condition that is there while a rotation is under way.
pub const ROTATING: &str = "AuthorityRotating";

/// What a RegionStack says of rotation.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Tells one request from another.
    request: Option<String>,
    pause: Duration,
    /// The digest of the bundle that each peer applies.
    told: BTreeMap<RegionName, String>,
}

impl Asked {
    /// Reads it off the RegionStack.
    #[must_use]
    pub fn of(object: &Value) -> Self {
        let annotation = |name: &str| object["metadata"]["annotations"][name].as_str();
        Self {
            request: annotation(ROTATE_ANNOTATION).map(crate::rotation::digest),
            pause: pause(annotation(PAUSE_ANNOTATION), REGION_CA),
            told: BTreeMap::deserialize(&object["spec"]["trustedBy"]).unwrap_or_default(),
        }
    }
}

/// A state of the rotation, and since when this leader has seen everything of it written and acknowledged.
#[derive(Debug, Default)]
pub struct Standing(Option<(String, Instant)>);

impl Standing {
    /// For how long it has stood; nothing while it does not.
    fn look(&mut self, state: Option<String>) -> Option<Duration> {
        self.0 = state.map(|state| match self.0.take() {
            Some((known, since)) if known == state => (known, since),
            _ => (state, Instant::now()),
        });
        self.0.as_ref().map(|(_, since)| since.elapsed())
    }
}

/// What a pass did about the CA.
#[derive(Clone, Debug, Default)]
pub struct Rotated {
    /// How many writes.
    pub written: usize,
    /// When to look again.
    pub again: Option<Duration>,
    /// What is under way.
    pub condition: Option<Observation>,
}

impl Stacks {
    /// Takes the step that is due. `ready`: everything that the last one asks for is written, and runs.
    pub(super) async fn rotate(
        &self,
        stack: &Stack,
        asked: &Asked,
        secrets: &Secrets,
        ready: bool,
    ) -> Result<Rotated, StackError> {
        let (stored, now) = (&secrets.authorities, Timestamp::now());
        let missing = match &stored.next {
            Some(_) => missing(
                stack.policy.peers.iter().map(|peer| &peer.region),
                &asked.told,
                &stored.bundle(),
            ),
            None => vec![],
        };
        let held = !missing.is_empty() && !stored.issuing.is_ending(now);
        let state = (ready && !held).then(|| secrets::digest(&stored.data()));
        let stood = self.kept.standing().look(state);
        let stands = stood.is_some_and(|stood| stood >= asked.pause);
        let step = match ready || stored.has_expired(now) {
            true => stored.step(asked.request.as_deref(), stands, now),
            false => Step::Wait,
        };
        let Some(sentence) = sentence(step) else {
            let left = stood.map(|stood| asked.pause.saturating_sub(stood));
            return Ok(Rotated {
                written: 0,
                again: left.filter(|_| stored.is_rotating()),
                condition: stored.is_rotating().then(|| under_way(&missing, stored.next.is_some())),
            });
        };
        let after = stored.after(step, &stack.region, asked.request.as_deref(), || {
            Authority::new(&stack.region, now)
        });
        let data = after.map_err(secrets::SecretsError::from)?;
        let key = ObjectKey::namespaced(SECRET, &stack.namespace(), REGION_CA);
        // Nobody else has changed it since it was read: a CA that somebody trusts already must not be written over.
        let seen = self.applier.cache().get(&key);
        let same = |seen: &DynamicObject| {
            let read = Authorities::read(&stack.region, &secrets::content(&observed(seen)));
            read.is_ok_and(|read| read.data() == stored.data())
        };
        let Some(seen) = seen.filter(|seen| same(seen)) else {
            return Ok(Rotated::default());
        };
        let mut body = secrets::manifest(stack, REGION_CA, "kubernetes.io/tls", &data);
        body["metadata"]["resourceVersion"] = json!(seen.metadata.resource_version);
        self.applier
            .apply(Purpose::RegionSecrets, &Manifest::new(body)?)
            .await?;
        tracing::info!(resource = %key, "{sentence}");
        self.tell_of_rotation(stack, sentence).await;
        Ok(Rotated {
            written: 1,
            again: None,
            condition: (step != Step::Retire).then(|| under_way(&missing, step == Step::Stage)),
        })
    }
}

const fn sentence(step: Step) -> Option<&'static str> {
    Some(match step {
        Step::Wait => return None,
        Step::Replace => "the region's CA had expired and is made anew",
        Step::Stage => "rotation of the region's CA: a new one is trusted beside the old one",
        Step::Promote => "rotation of the region's CA: certificates are issued by the new one",
        Step::Retire => "rotation of the region's CA: the old one is trusted no more",
    })
}

fn under_way(missing: &[RegionName], staged: bool) -> Observation {
    let rotating = |reason, message: String| Observation::new(ROTATING, true, reason, message);
    if !missing.is_empty() {
        let names: Vec<_> = missing.iter().map(RegionName::as_str).collect();
        let message = format!("the new CA issues nothing before {} trust it", names.join(", "));
        return rotating("PeersNotTold", message);
    }
    match staged {
        true => rotating(
            "Staged",
            "a new CA is trusted beside the old one, and is about to issue".to_owned(),
        ),
        false => rotating(
            "Issuing",
            "certificates are issued by the new CA; the old one is still trusted".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_only_while_the_same_state_is_seen() {
        let mut standing = Standing::default();
        let state = |name: &str| Some(name.to_owned());
        standing.look(state("a"));
        let since = standing.0.clone();
        standing.look(state("a"));
        assert_eq!(standing.0, since, "it goes on");
        assert_eq!(standing.look(None), None);
        standing.look(state("a"));
        assert_ne!(standing.0, since, "it begins anew");
        let since = standing.0.clone();
        standing.look(state("b"));
        assert_ne!(standing.0, since);
    }

    #[test]
    fn what_a_stack_says_of_rotation_is_read_and_an_older_hub_says_nothing() {
        let asked = Asked::of(
            &json!({"metadata": {"annotations": {ROTATE_ANNOTATION: "1", PAUSE_ANNOTATION: "3"}},
            "spec": {"trustedBy": {"us": "abc"}}}),
        );
        assert_eq!(asked.pause, Duration::from_secs(3));
        assert_eq!(asked.told.len(), 1);
        let other = Asked::of(&json!({"metadata": {"annotations": {ROTATE_ANNOTATION: "2"}}}));
        assert!(other.told.is_empty() && other.request.is_some() && other.request != asked.request);
    }

    #[test]
    fn who_holds_a_rotation_is_named() {
        let held = under_way(&["uk".parse().unwrap(), "us".parse().unwrap()], true);
        assert_eq!(held.reason, "PeersNotTold");
        assert!(held.message.contains("uk, us"));
    }
}
