//! `kubectl meridian approve`: what a change that waits would open, and the word of whoever asks for it.
//!
//! It takes two calls: the first one says what would open and by which digest, the second one approves that digest and no
//! other, so that nobody approves what they have not read.

use std::fmt;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::Client;
use kube::api::{Api, DynamicObject, PostParams};
use meridian_crds::WaitingChange;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{CHANGES, PluginError, REFUSED};
use crate::manifest::{FITNESS_REGION, JURISDICTION, Kind, ObjectKey, PARTY, POLICY_APPROVAL, TENANT_DATA_RESIDENCY};

/// How long an approval counts, where the hub does not take it up at once.
const VALID: SignedDuration = SignedDuration::from_hours(24);
/// How long it is waited for the hub.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The kinds, with their short names.
const KINDS: [(Kind, &str); 4] = [
    (JURISDICTION, "jur"),
    (PARTY, "party"),
    (FITNESS_REGION, "fr"),
    (TENANT_DATA_RESIDENCY, "tdr"),
];

/// What is asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The kind of the resource, in any of its names.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The digest of the change that is approved; none: nothing is, yet.
    pub digest: Option<String>,
}

impl Asked {
    pub(super) fn key(&self) -> Result<ObjectKey, PluginError> {
        let asked = self.kind.to_lowercase();
        let names =
            |(kind, short): &(Kind, &str)| [kind.kind.to_lowercase(), kind.plural.to_owned(), (*short).to_owned()];
        let found = KINDS.iter().find(|kind| names(kind).contains(&asked));
        let known = || KINDS.map(|(kind, _)| kind.kind).join(", ");
        let (kind, _) = found.ok_or_else(|| {
            PluginError::Word(format!(
                "nothing of kind '{}' is approved; there are: {}",
                self.kind,
                known()
            ))
        })?;
        Ok(ObjectKey::cluster(*kind, &self.name))
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Nothing waits: what is written is in force, or approvals are not required.
    NothingWaits,
    /// A change waits, and nothing was approved.
    Waits,
    /// The approval was not given.
    Refused,
    /// The approval was given, and is not enough, or not seen by the hub yet.
    Approved,
    /// The change is in force.
    InForce,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApproveReport {
    /// In one word.
    pub outcome: Outcome,
    /// Of which resource.
    pub resource: String,
    /// What is to be known or done.
    pub message: String,
    /// The change, while it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<WaitingChange>,
}

impl ApproveReport {
    fn new(key: &ObjectKey, outcome: Outcome, message: impl Into<String>, waiting: Option<WaitingChange>) -> Self {
        Self {
            outcome,
            resource: key.to_string(),
            message: message.into(),
            waiting,
        }
    }

    /// The exit code.
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self.outcome {
            Outcome::NothingWaits | Outcome::InForce => 0,
            Outcome::Waits | Outcome::Approved => CHANGES,
            Outcome::Refused => REFUSED,
        }
    }
}

impl fmt::Display for ApproveReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(waiting) = &self.waiting {
            writeln!(
                f,
                "{} generation {} would open {}:",
                self.resource, waiting.generation, waiting.opens_count
            )?;
            waiting.opens.iter().try_for_each(|opens| writeln!(f, "  + {opens}"))?;
            let people = |names: &[String], nobody: &str| {
                if names.is_empty() {
                    nobody.to_owned()
                } else {
                    names.join(", ")
                }
            };
            writeln!(
                f,
                "  written by:  {}",
                people(&waiting.written_by, "not known: two people have to approve")
            )?;
            writeln!(f, "  approved by: {}", people(&waiting.approved_by, "nobody yet"))?;
        }
        writeln!(f, "{}", self.message)
    }
}

/// What can be said without asking anybody; nothing where the change is to be approved now.
pub(super) fn answered(
    key: &ObjectKey,
    object: &Value,
    digest: Option<&str>,
) -> Result<WaitingChange, Box<ApproveReport>> {
    let Some(waiting) = waiting(object) else {
        let message = "nothing waits for an approval";
        return Err(Box::new(ApproveReport::new(key, Outcome::NothingWaits, message, None)));
    };
    let refuse = |message: String| {
        Box::new(ApproveReport::new(
            key,
            Outcome::Refused,
            message,
            Some(waiting.clone()),
        ))
    };
    if object["metadata"]["generation"] != waiting.generation {
        let message = "it was changed since, and the hub has not looked at that yet; ask again".to_owned();
        return Err(refuse(message));
    }
    match digest {
        None => {
            let (kind, name) = (key.kind.kind.to_lowercase(), &key.name);
            let message = format!(
                "To approve it: kubectl meridian approve {kind} {name} --digest {}",
                waiting.digest
            );
            Err(Box::new(ApproveReport::new(
                key,
                Outcome::Waits,
                message,
                Some(waiting),
            )))
        }
        Some(digest) if digest != waiting.digest => Err(refuse(format!(
            "another change waits by now, with the digest {}: read what it opens",
            waiting.digest
        ))),
        Some(_) => Ok(waiting),
    }
}

fn waiting(object: &Value) -> Option<WaitingChange> {
    Deserialize::deserialize(&object["status"]["approval"]["waiting"]).ok()
}

/// Approves it as whoever asks, and waits a little for what the hub says.
pub(super) async fn approve(
    client: &Client,
    key: &ObjectKey,
    change: WaitingChange,
) -> Result<ApproveReport, PluginError> {
    let user = who(client).await?;
    if change.written_by.contains(&user) {
        let message = format!("you ({user}) wrote it: another person approves it");
        return Ok(ApproveReport::new(key, Outcome::Refused, message, Some(change)));
    }
    let approval = json!({
        "apiVersion": POLICY_APPROVAL.api_version(), "kind": POLICY_APPROVAL.kind,
        "metadata": {"generateName": format!("{}-", key.name)},
        "spec": {
            "kind": key.kind.kind, "name": key.name, "digest": change.digest, "approver": user,
            "expires": Timestamp::now() + VALID,
        },
    });
    let approval: DynamicObject = serde_json::from_value(approval)?;
    let approvals: Api<DynamicObject> = Api::all_with(client.clone(), &POLICY_APPROVAL.resource());
    let written = approvals.create(&PostParams::default(), &approval).await;
    written.map_err(|error| unwritten(&error))?;
    let resources: Api<DynamicObject> = Api::all_with(client.clone(), &key.kind.resource());
    let began = Instant::now();
    loop {
        let object = resources.get(&key.name).await.map_err(|error| unwritten(&error))?;
        let waiting = waiting(&json!({"status": object.data["status"]}));
        match waiting {
            None => {
                return Ok(ApproveReport::new(
                    key,
                    Outcome::InForce,
                    "approved, and in force",
                    None,
                ));
            }
            Some(other) if other.digest != change.digest => {
                let message = "approved; meanwhile another change waits";
                return Ok(ApproveReport::new(key, Outcome::Approved, message, Some(other)));
            }
            Some(waiting) if waiting.approved_by.contains(&user) => {
                let message = "approved; another person has to approve it, too";
                return Ok(ApproveReport::new(key, Outcome::Approved, message, Some(waiting)));
            }
            Some(waiting) if began.elapsed() > PATIENCE => {
                let message = format!(
                    "approved, and the hub has not taken it up within {} s: see whether the hub runs, and whether the \
                     ValidatingAdmissionPolicy meridian-approvals is there, without which no approval counts",
                    PATIENCE.as_secs()
                );
                return Ok(ApproveReport::new(key, Outcome::Approved, message, Some(waiting)));
            }
            Some(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

async fn who(client: &Client) -> Result<String, PluginError> {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let review = reviews
        .create(&PostParams::default(), &SelfSubjectReview::default())
        .await;
    let review = review.map_err(|error| unwritten(&error))?;
    let user = review
        .status
        .and_then(|status| status.user_info)
        .and_then(|user| user.username);
    user.ok_or_else(|| PluginError::Approval("the API server does not say who you are".to_owned()))
}

fn unwritten(error: &kube::Error) -> PluginError {
    PluginError::Approval(match error {
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(of: char) -> String {
        format!("sha256:{}", of.to_string().repeat(64))
    }

    fn tenant() -> ObjectKey {
        ObjectKey::cluster(TENANT_DATA_RESIDENCY, "stride-eu")
    }

    fn object(generation: i64) -> Value {
        json!({"metadata": {"generation": generation}, "status": {"approval": {"waiting": {
            "generation": 4, "digest": digest('a'), "opensCount": 1, "writtenBy": ["ada"],
            "opens": ["edge stride-eu.workout-summary.us widens: expires from 2035 to 2036"],
        }}}})
    }

    fn refusal(generation: i64, digest: Option<&str>) -> ApproveReport {
        *answered(&tenant(), &object(generation), digest).unwrap_err()
    }

    #[test]
    fn a_kind_is_known_by_all_its_names() {
        for kind in ["TenantDataResidency", "tenantdataresidencies", "tdr"] {
            let asked = Asked {
                kind: kind.to_owned(),
                name: "stride-eu".to_owned(),
                digest: None,
            };
            assert_eq!(asked.key().unwrap(), tenant());
        }
    }

    #[test]
    fn without_a_digest_it_is_said_what_would_open_and_nothing_is_approved() {
        let report = refusal(4, None);
        assert_eq!(report.outcome, Outcome::Waits);
        insta::assert_snapshot!(report.to_string());
    }

    #[test]
    fn a_digest_approves_what_was_read_and_no_change_since() {
        assert!(answered(&tenant(), &object(4), Some(&digest('a'))).is_ok());
        assert!(refusal(4, Some(&digest('b'))).message.contains("another change waits"));
        assert!(refusal(5, Some(&digest('a'))).message.contains("changed since"));
        let nothing = answered(&tenant(), &json!({}), None).unwrap_err();
        assert_eq!((nothing.outcome, nothing.code()), (Outcome::NothingWaits, 0));
    }
}
