//! From a launched campaign to deliveries: look through the athletes, ask for each permit, write the delivery down inside
//! the permit's window, once.
//!
//! All state is in the database: whatever dies, another process goes on from there. A delivery that was committed is never
//! made again (unique per campaign and athlete), one that was not is asked for anew.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use meridian_kit::SubjectId;
use meridian_kit::client::ClientError;
use meridian_kit::db::{self, Pool, Scope, TenantTx};
use meridian_kit::event::{Draft, Event, EventSource};
use meridian_kit::outbox;
use meridian_kit::residency::Homes;
use meridian_kit::subject_keys::{self, Create, KeyRequest, KeyScope, Keyring};
use meridian_policy::DataClass;
use prometheus_client::metrics::counter::Counter;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::domain::audience::{Athlete, Heard, needed};
use crate::domain::campaign::Sport;
use crate::domain::pace::pause;
use crate::intake::sports_context;
use crate::permits::{Answer, Permit, Permits};
use crate::store::audience::{self, Attempt};
use crate::store::{campaigns, deliveries};

/// Where our events go.
pub const TOPIC: &str = "promotions.events";
/// A promotion is in an athlete's inbox.
pub const PROMOTION_DELIVERED: &str = "sh.meridian.promotion.delivered.v1";
/// Athletes looked through in one transaction.
const CHUNK: usize = 500;
/// Deliveries taken at once, and tried side by side.
const TAKEN: i64 = 64;
const SIDE_BY_SIDE: usize = 4;
/// How long a taken delivery is ours: longer than an attempt takes. If two processes try one after all, one finds it done.
const HOLD: Duration = Duration::from_secs(8);
/// How often to look when nobody woke us: for what other processes left, and for pauses that ended.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The payload of [`PROMOTION_DELIVERED`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotionDelivered {
    /// The campaign.
    pub campaign_id: Uuid,
    /// The delivery.
    pub delivery_id: Uuid,
}

/// Why a delivery was not tried to its end. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The database.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The consent service gave no clear answer, which means no for now.
    #[error("the consent service gave no answer, so nothing is delivered: {0}")]
    Consent(#[from] ClientError),
    /// The subject's key.
    #[error(transparent)]
    Keys(#[from] subject_keys::Error),
    /// The permit's window ended first.
    #[error("the permit ran out before the delivery was written; it is asked for again")]
    TooLate,
}

/// Counters of deliveries.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Written down.
    pub delivered: Counter,
    /// Refused by the consent service.
    pub refused: Counter,
    /// To be tried again.
    pub postponed: Counter,
}

/// The delivering part of the service.
#[derive(Debug, Clone)]
pub struct Deliverer {
    /// The database.
    pub pool: Pool,
    /// Tenants at home here.
    pub homes: Homes,
    /// Subject keys.
    pub keyring: Keyring,
    /// The consent service.
    pub permits: Permits,
    /// Who our events come from.
    pub source: EventSource,
    /// Woken when there may be something to do.
    pub wake: Arc<Notify>,
    /// What happened.
    pub counts: Counts,
}

impl Deliverer {
    /// Delivers until the process is told to stop.
    pub async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let mut busy = false;
            for scope in self.homes.scopes() {
                let round = stop.run_until_cancelled(self.round(&scope)).await;
                match round {
                    None => return,
                    Some(Ok(did_something)) => busy |= did_something,
                    Some(Err(error)) => {
                        tracing::warn!(tenant = %scope.tenant(), %error, "a round of deliveries failed; trying again");
                    }
                }
            }
            if !busy {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
        }
    }

    /// One step for one tenant. Whether there was anything to do.
    async fn round(&self, scope: &Scope) -> Result<bool, DeliveryError> {
        let expanded = self.expand(scope).await?;
        let mut tx = TenantTx::begin(&self.pool, scope).await?;
        let attempts = audience::take_due(&mut tx, TAKEN, HOLD).await?;
        tx.commit().await?;
        let tried = !attempts.is_empty();
        futures::stream::iter(attempts)
            .for_each_concurrent(
                SIDE_BY_SIDE,
                |attempt| async move { self.attempt(scope, attempt).await },
            )
            .await;
        Ok(expanded || tried)
    }

    /// Looks through the next athletes of a launching campaign.
    async fn expand(&self, scope: &Scope) -> Result<bool, DeliveryError> {
        let mut tx = TenantTx::begin(&self.pool, scope).await?;
        let Some(launching) = campaigns::next_launching(&mut tx).await? else {
            tx.rollback().await?;
            return Ok(false);
        };
        let limit = i64::try_from(CHUNK).unwrap_or(i64::MAX);
        let found = audience::reachable(&mut tx, launching.expanded_to, limit).await?;
        let sports = self.sports_of(scope, &found).await?;
        let granted = |granted| Heard { version: 1, granted };
        let candidates: Vec<SubjectId> = found
            .iter()
            .zip(sports)
            .filter(|((_, workouts, _), sports)| {
                let athlete = Athlete {
                    promotion: granted(true),
                    workouts: granted(*workouts),
                    sports: sports.clone(),
                };
                athlete.is_candidate(&launching.segment)
            })
            .map(|((subject, ..), _)| *subject)
            .collect();
        audience::ask_for(&mut tx, launching.id, &candidates).await?;
        match found.last().filter(|_| found.len() == CHUNK) {
            Some((last, ..)) => campaigns::note_expansion(&mut tx, launching.id, *last).await?,
            None => campaigns::finish_expansion(&mut tx, launching.id).await?,
        }
        tx.commit().await?;
        Ok(true)
    }

    /// The kinds of sport of each; none where they cannot be opened any more.
    async fn sports_of(
        &self,
        scope: &Scope,
        found: &[(SubjectId, bool, Option<Vec<u8>>)],
    ) -> Result<Vec<BTreeSet<Sport>>, DeliveryError> {
        let request = |subject: SubjectId| KeyRequest {
            tenant: scope.tenant().clone(),
            subject,
            scope: KeyScope::Personal,
            create: false,
        };
        let sealed = found.iter().filter(|(.., sealed)| sealed.is_some());
        let mut keys = self
            .keyring
            .keys(sealed.map(|(subject, ..)| request(*subject)).collect())
            .await?
            .into_iter();
        found
            .iter()
            .map(|(subject, _, sealed)| {
                let Some(sealed) = sealed else {
                    return Ok(BTreeSet::new());
                };
                match keys.next() {
                    Some(Ok(key)) => Ok(key.open_json(&sports_context(*subject), sealed)?),
                    // Erased meanwhile.
                    Some(Err(subject_keys::Error::KeyDestroyed | subject_keys::Error::KeyAbsent)) | None => {
                        Ok(BTreeSet::new())
                    }
                    Some(Err(error)) => Err(error.into()),
                }
            })
            .collect()
    }

    async fn attempt(&self, scope: &Scope, attempt: Attempt) {
        let error = match self.deliver(scope, &attempt).await {
            Ok(()) => return,
            Err(error) => error,
        };
        self.counts.postponed.inc();
        tracing::warn!(tenant = %scope.tenant(), %error, attempt = attempt.attempts, "a delivery was postponed");
        let put_back = async {
            let mut tx = TenantTx::begin(&self.pool, scope).await?;
            audience::put_back(&mut tx, &attempt, pause(attempt.attempts)).await?;
            tx.commit().await
        };
        // If this fails as well, the delivery is due again when its hold ends.
        if let Err(error) = put_back.await {
            tracing::warn!(tenant = %scope.tenant(), %error, "a postponed delivery waits for the end of its hold");
        }
    }

    async fn deliver(&self, scope: &Scope, attempt: &Attempt) -> Result<(), DeliveryError> {
        let delivery = delivery_id(attempt.campaign, attempt.subject);
        // Everything that may take time comes before the permit.
        let key = match self
            .keyring
            .key(scope.tenant(), &attempt.subject, &KeyScope::Personal, Create::No)
            .await
        {
            Ok(key) => key,
            Err(subject_keys::Error::KeyDestroyed) => return self.forget(scope, attempt.subject).await,
            Err(error) => return Err(error.into()),
        };
        let draft = Draft {
            kind: PROMOTION_DELIVERED,
            stream: delivery.to_string(),
            sequence: 1,
            class: DataClass::Promotion,
            epoch: scope.epoch(),
        };
        let payload = PromotionDelivered {
            campaign_id: attempt.campaign,
            delivery_id: delivery,
        };
        let event = Event::sealed(&self.source, draft, &key, &payload)?;
        let matters = needed(&attempt.segment);
        match self
            .permits
            .open(scope.tenant(), attempt.subject, delivery, matters)
            .await?
        {
            Answer::Refused => {
                self.counts.refused.inc();
                let mut tx = TenantTx::begin(&self.pool, scope).await?;
                audience::drop_refused(&mut tx, attempt).await?;
                tx.commit().await?;
                Ok(())
            }
            Answer::Permitted(permit) => {
                // After a failure the commit may still be under way: then the permit is left to run out, and a withdrawal
                // waits for that.
                if self.write(scope, attempt, delivery, &permit, &event).await? {
                    self.counts.delivered.inc();
                }
                self.permits.close(permit).await;
                Ok(())
            }
        }
    }

    /// Writes the delivery down, inside the permit's window or not at all. `false`: it was there already.
    async fn write(
        &self,
        scope: &Scope,
        attempt: &Attempt,
        delivery: Uuid,
        permit: &Permit,
        event: &Event,
    ) -> Result<bool, DeliveryError> {
        let left = || permit.window.left(Instant::now()).ok_or(DeliveryError::TooLate);
        let in_time = left()?;
        let written = async {
            let mut tx = TenantTx::begin(&self.pool, scope).await?;
            deliveries::limit_time(&mut tx, left()?).await?;
            let new = deliveries::record(&mut tx, delivery, attempt.campaign, attempt.subject).await?;
            if new {
                outbox::append(&mut tx, TOPIC, event).await?;
            }
            // The last moment at which it can still not have happened.
            left()?;
            tx.commit().await?;
            Ok(new)
        };
        tokio::time::timeout(in_time, written)
            .await
            .map_err(|_| DeliveryError::TooLate)?
    }

    async fn forget(&self, scope: &Scope, subject: SubjectId) -> Result<(), DeliveryError> {
        let mut tx = TenantTx::begin(&self.pool, scope).await?;
        audience::forget(&mut tx, subject).await?;
        Ok(tx.commit().await?)
    }
}

/// One campaign's delivery to one athlete always has the same id, so that a repeated attempt is recognised everywhere.
#[must_use]
pub fn delivery_id(campaign: Uuid, subject: SubjectId) -> Uuid {
    Uuid::new_v5(&campaign, subject.as_uuid().as_bytes())
}
