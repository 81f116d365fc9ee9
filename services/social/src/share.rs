//! Sharing a workout and following an athlete: what changes here and is told to others.

use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use meridian_kit::SubjectId;
use meridian_kit::auth::Athlete;
use meridian_kit::db::TenantTx;
use meridian_kit::event::{Draft, Event};
use meridian_kit::idempotency::{self, IdempotencyKey, Outcome};
use meridian_kit::outbox;
use meridian_kit::problem::Problem;
use meridian_kit::subject_keys::{Create, KeyScope};
use meridian_policy::DataClass;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use uuid::Uuid;

use crate::Social;
use crate::domain::visibility::Audience;
use crate::domain::workout::{Shown, Status, Summary};
use crate::intake::WORKOUT_SHARED;
use crate::store::{follows, workouts};

/// Where this service tells what happened.
pub const TOPIC: &str = "social.events";
/// Somebody began to follow somebody.
pub const FRIEND_ADDED: &str = "sh.meridian.friend.added.v1";

/// With whom a workout is shared.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShareWith {
    /// Those who follow the athlete.
    Followers,
    /// Every athlete of the organization; where the athlete consented to it, also in other regions.
    Community,
}

impl ShareWith {
    const fn audience(self) -> Audience {
        match self {
            Self::Followers => Audience::Followers,
            Self::Community => Audience::Everyone,
        }
    }
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct Shared {
    workout_id: Uuid,
    audience: ShareWith,
    shared_at: Timestamp,
}

/// The payload of [`FRIEND_ADDED`].
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct FriendAdded {
    /// Who follows.
    pub follower: SubjectId,
    /// Whom.
    pub followed: SubjectId,
}

impl Social {
    /// Shares a finished workout of the athlete's.
    ///
    /// # Errors
    /// 404 for a workout that is not the athlete's or not here yet, 409 for one that is not finished.
    pub async fn share(
        &self,
        athlete: &Athlete,
        workout: Uuid,
        with: ShareWith,
        key: &IdempotencyKey,
        body: &[u8],
    ) -> Result<Response, Problem> {
        let subject_key = self
            .keyring
            .key(&athlete.tenant, &athlete.subject, &KeyScope::Personal, Create::Yes)
            .await?;
        let mut tx = TenantTx::begin(&self.pool, &athlete.scope()).await?;
        let claim = idempotency::begin(&mut tx, &athlete.subject.to_string(), key, body, &subject_key).await?;
        let slot = match claim {
            Outcome::Fresh(slot) => slot,
            Outcome::Repeated(response) => return Ok(response),
        };
        let copy = workouts::find(&mut tx, workout)
            .await?
            .filter(|copy| copy.author == athlete.subject);
        // A finished workout arrives here within moments; who asks sooner asks again.
        let unknown = || {
            let message = "you have no such workout, or it has not arrived here yet; repeat the request in a moment";
            Problem::not_found("no-such-workout", message).retry_after(Duration::from_secs(1))
        };
        let copy = copy
            .filter(|copy| copy.status != Status::Cancelled)
            .ok_or_else(unknown)?;
        if copy.status != Status::Completed {
            return Err(
                Problem::conflict("workout-not-finished", "a workout can be shared when it is completed")
                    .retry_after(Duration::from_secs(1)),
            );
        }
        let at = Timestamp::now();
        let answer = Shared {
            workout_id: workout,
            audience: with,
            shared_at: at,
        };
        if copy.shared == Some(with.audience()) {
            let response = slot.finish(&mut tx, StatusCode::OK, &answer).await?;
            tx.commit().await?;
            return Ok(response);
        }
        let shares = copy.shares.saturating_add(1);
        workouts::share(&mut tx, workout, with.audience(), shares, at).await?;
        // What is for followers is told to nobody: who reads the topic could not tell followers from strangers.
        if with == ShareWith::Community {
            let summary: Summary = subject_key.open_json(&workouts::summary_context(workout), &copy.summary)?;
            let shown = Shown::from(summary);
            let draft = Draft {
                kind: WORKOUT_SHARED,
                stream: workout.to_string(),
                sequence: u64::try_from(shares).unwrap_or_default(),
                class: shown.class(),
                epoch: athlete.epoch,
            };
            let event = Event::sealed(&self.source, draft, &subject_key, &shown)?;
            outbox::append(&mut tx, TOPIC, &event).await?;
        }
        let response = slot.finish(&mut tx, StatusCode::CREATED, &answer).await?;
        tx.commit().await?;
        Ok(response)
    }

    /// Follows somebody. The answer is the same whether or not there is such a person: nobody can be looked for this way.
    ///
    /// # Errors
    /// 400 for oneself; or that it could not be stored.
    pub async fn follow(&self, athlete: &Athlete, followed: SubjectId) -> Result<StatusCode, Problem> {
        if followed == athlete.subject {
            let message = "an athlete cannot follow themselves";
            return Err(Problem::bad_request("follows-self", message).detail("subject", message));
        }
        let key = self
            .keyring
            .key(&athlete.tenant, &athlete.subject, &KeyScope::Personal, Create::Yes)
            .await?;
        let mut tx = TenantTx::begin(&self.pool, &athlete.scope()).await?;
        let begun = follows::follow(&mut tx, athlete.subject, followed).await?;
        if begun {
            let draft = Draft {
                kind: FRIEND_ADDED,
                stream: athlete.subject.to_string(),
                sequence: 1,
                class: DataClass::SocialGraph,
                epoch: athlete.epoch,
            };
            let payload = FriendAdded {
                follower: athlete.subject,
                followed,
            };
            outbox::append(&mut tx, TOPIC, &Event::sealed(&self.source, draft, &key, &payload)?).await?;
        }
        tx.commit().await?;
        Ok(if begun { StatusCode::CREATED } else { StatusCode::OK })
    }
}
