//! Granting and withdrawing: the change, its receipt, its event and its evidence commit together; a withdrawal is answered only when
//! nothing that was permitted before it can start any more.

use std::time::{Duration, Instant};

use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use meridian_kit::SubjectId;
use meridian_kit::auth::Athlete;
use meridian_kit::db::{Scope, TenantTx};
use meridian_kit::event::{Draft, Event};
use meridian_kit::evidence::{self, Entry, Kind};
use meridian_kit::idempotency::{self, IdempotencyKey, Outcome as Claim, Slot};
use meridian_kit::outbox;
use meridian_kit::problem::Problem;
use meridian_kit::subject_keys::{Create, KeyScope, SubjectKey};
use meridian_policy::{DataClass, Purpose};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Consent;
use crate::domain::matter::Matter;
use crate::domain::permit::must_wait;
use crate::domain::receipt::{Circumstances, Receipt};
use crate::domain::standing::{Action, Outcome, Standing, State, apply};
use crate::store;

/// The compacted topic: the last state of each subject's purpose and class.
pub const TOPIC: &str = "consent.state";
/// How soon a waiting withdrawal looks at the permits again: most deliveries are done in a moment, and many withdrawals that
/// wait at once must not keep the database busy.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LONGEST_LOOK: Duration = Duration::from_millis(100);

/// A consent was given.
pub const CONSENT_GRANTED: &str = "sh.meridian.consent.granted.v1";
/// A consent was taken back.
pub const CONSENT_WITHDRAWN: &str = "sh.meridian.consent.withdrawn.v1";

/// The payload of [`CONSENT_GRANTED`] and [`CONSENT_WITHDRAWN`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConsentChanged {
    /// What for.
    pub purpose: String,
    /// Of what data.
    pub class: String,
    /// From 1, for this purpose and class.
    pub version: u64,
}

/// A request to change a consent.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// Of what.
    pub matter: Matter,
    /// How.
    pub action: Action,
    /// To recognize a repetition.
    pub key: &'a IdempotencyKey,
    /// The request's body.
    pub body: &'a [u8],
}

/// A change that was begun: nobody else changes anything of the subject, or opens a permit, until its transaction ends.
pub(crate) struct Begun {
    pub(crate) key: SubjectKey,
    pub(crate) tx: TenantTx,
    pub(crate) slot: Slot,
}

/// Where a receipt is sealed.
pub(crate) fn receipt_context(id: Uuid) -> String {
    format!("consent.receipt:{id}")
}

/// The stream of a subject's purpose and class, which is also its key on the compacted topic. It says nothing to who does
/// not know all three.
fn stream(subject: SubjectId, matter: Matter) -> Uuid {
    Uuid::new_v5(
        &subject.as_uuid(),
        format!("{}/{}", matter.purpose(), matter.class()).as_bytes(),
    )
}

impl Consent {
    /// Grants or withdraws.
    ///
    /// # Errors
    /// When it could not be stored; or, for a withdrawal, when it was stored and could not be confirmed yet.
    pub async fn change(&self, athlete: &Athlete, change: Change<'_>) -> Result<Response, Problem> {
        let response = self.store_change(athlete, change).await?;
        // Also for a repetition and for what was withdrawn before: an earlier request may still be waiting.
        if change.action == Action::Withdraw {
            let begun = Instant::now();
            self.until_nothing_can_start(&athlete.scope(), athlete.subject, Some(change.matter.purpose()), begun)
                .await?;
            self.metrics.withdrawal_wait.observe(begun.elapsed().as_secs_f64());
        }
        Ok(response)
    }

    async fn store_change(&self, athlete: &Athlete, change: Change<'_>) -> Result<Response, Problem> {
        let Begun { key, mut tx, slot } = match self.begin(athlete, change.key, change.body).await? {
            Ok(begun) => begun,
            Err(repeated) => return Ok(repeated),
        };
        let before = store::current(&mut tx, athlete.subject, change.matter).await?;
        let (status, receipt) = match (apply(before.map(|current| current.standing), change.action), before) {
            (Outcome::Unchanged(_), Some(current)) => {
                let sealed = store::receipt(&mut tx, athlete.subject, current.receipt_id).await?;
                let sealed = sealed.ok_or_else(|| Problem::not_found("no-such-receipt", "the receipt is gone"))?;
                (
                    StatusCode::OK,
                    key.open_json(&receipt_context(current.receipt_id), sealed)?,
                )
            }
            (Outcome::Changed(standing) | Outcome::Unchanged(standing), before) => {
                let replaces = before.map(|current| current.receipt_id);
                let receipt = self
                    .record(&mut tx, athlete, &key, change.matter, standing, replaces)
                    .await?;
                (StatusCode::CREATED, receipt)
            }
        };
        let response = slot.finish(&mut tx, status, &receipt).await?;
        tx.commit().await?;
        self.metrics.changed(receipt.state);
        Ok(response)
    }

    /// Begins a change at the subject's gate, or gives the answer to the request that this one repeats.
    pub(crate) async fn begin(
        &self,
        athlete: &Athlete,
        key: &IdempotencyKey,
        body: &[u8],
    ) -> Result<Result<Begun, Response>, Problem> {
        let subject_key = self
            .keyring
            .key(&athlete.tenant, &athlete.subject, &KeyScope::Personal, Create::Yes)
            .await?;
        let mut tx = TenantTx::begin(&self.pool, &athlete.scope()).await?;
        let claim = idempotency::begin(&mut tx, &athlete.subject.to_string(), key, body, &subject_key).await?;
        let slot = match claim {
            Claim::Fresh(slot) => slot,
            Claim::Repeated(response) => {
                tx.rollback().await?;
                return Ok(Err(response));
            }
        };
        store::lock_gate(&mut tx, athlete.subject).await?;
        Ok(Ok(Begun {
            key: subject_key,
            tx,
            slot,
        }))
    }

    async fn record(
        &self,
        tx: &mut TenantTx,
        athlete: &Athlete,
        key: &SubjectKey,
        matter: Matter,
        standing: Standing,
        replaces: Option<Uuid>,
    ) -> Result<Receipt, Problem> {
        let policy = self.feed.current();
        let home = policy.home(&athlete.tenant).ok_or_else(|| {
            Problem::unavailable(
                "tenant-arriving",
                "the tenant's placement is just changing; repeat the request",
            )
        })?;
        let id = Uuid::now_v7();
        let at = Timestamp::now();
        let around = Circumstances {
            subject: athlete.subject,
            organization: home.organization.clone(),
            tenant: athlete.tenant.clone(),
            jurisdiction: policy.jurisdiction.clone(),
            at,
        };
        let receipt = Receipt::of(id, replaces, matter, standing, around);
        let sealed = key.seal_json(&receipt_context(id), &receipt)?;
        store::record(tx, athlete.subject, matter, standing, at, (id, &sealed)).await?;
        let entry = evidence::entry_of(tx, Kind::ConsentChange);
        let mut entry = Entry {
            purpose: Some(matter.purpose().to_string()),
            class: Some(matter.class().to_string()),
            rule: Some(standing.state.as_str().to_owned()),
            revision: Some(policy.revision.0),
            ..entry
        };
        evidence::commit_to(&mut entry, [key]).map_err(|error| Problem::internal(&error))?;
        evidence::append(tx, &entry).await?;
        let stream = stream(athlete.subject, matter).to_string();
        let kind = match standing.state {
            State::Granted => CONSENT_GRANTED,
            State::Withdrawn => CONSENT_WITHDRAWN,
        };
        let draft = Draft {
            kind,
            stream: stream.clone(),
            sequence: standing.version,
            class: DataClass::Consent,
            epoch: athlete.epoch,
        };
        let payload = ConsentChanged {
            purpose: matter.purpose().to_string(),
            class: matter.class().to_string(),
            version: standing.version,
        };
        let event = Event::sealed(&self.source, draft, key, &payload)?;
        outbox::append_keyed(tx, TOPIC, &stream, &event).await?;
        Ok(receipt)
    }

    /// Returns when no delivery to the subject for this purpose, or for any, can start any more. `since` is no earlier than the
    /// commit of what forbids it, so that each permit that could be open was opened before it.
    pub(crate) async fn until_nothing_can_start(
        &self,
        scope: &Scope,
        subject: SubjectId,
        purpose: Option<Purpose>,
        since: Instant,
    ) -> Result<(), Problem> {
        let mut pause = FIRST_LOOK;
        loop {
            let open = self.has_open_permit(scope, subject, purpose).await.map_err(|error| {
                tracing::warn!(%error, "a withdrawal, an objection or a restriction is stored and could not be confirmed");
                let message = "the change is stored; repeat the request to have it confirmed";
                Problem::unavailable("withdrawal-unconfirmed", message)
            })?;
            if !must_wait(open, since.elapsed()) {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_LOOK);
        }
    }

    async fn has_open_permit(
        &self,
        scope: &Scope,
        subject: SubjectId,
        purpose: Option<Purpose>,
    ) -> Result<bool, meridian_kit::db::Error> {
        let mut tx = TenantTx::begin(&self.pool, scope).await?;
        let open = store::has_open(&mut tx, subject, purpose).await?;
        tx.commit().await?;
        Ok(open)
    }
}
