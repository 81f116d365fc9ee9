//! Objecting and restricting: the change and its evidence commit together, and it is answered only when nothing that it
//! forbids can start any more. Lifting a limit is answered at once.

use std::time::Instant;

use axum::response::Response;
use http::StatusCode;
use jiff::{Timestamp, Unit};
use meridian_kit::auth::Athlete;
use meridian_kit::db::TenantTx;
use meridian_kit::evidence::{self, Entry, Kind};
use meridian_kit::idempotency::IdempotencyKey;
use meridian_kit::problem::Problem;
use meridian_kit::subject_keys::SubjectKey;

use crate::Consent;
use crate::change::Begun;
use crate::domain::limit::{Limit, LimitAction, LimitStanding};
use crate::store::{self, LimitEntry};

/// A request to change a limit.
#[derive(Clone, Copy, Debug)]
pub struct LimitChange<'a> {
    /// Which.
    pub limit: Limit,
    /// How.
    pub action: LimitAction,
    /// To recognize a repetition.
    pub key: &'a IdempotencyKey,
    /// The request's body.
    pub body: &'a [u8],
}

/// What evidence says of a change.
const fn told(limit: Limit, standing: LimitStanding) -> &'static str {
    match (limit, standing.in_force) {
        (Limit::Objection(_) | Limit::Restriction, true) => limit.rule().as_str(),
        (Limit::Objection(_), false) => "objection-lifted",
        (Limit::Restriction, false) => "restriction-lifted",
    }
}

impl Consent {
    /// Sets or lifts a limit.
    ///
    /// # Errors
    /// When it could not be stored; or, where it was set, when it was stored and could not be confirmed yet.
    pub async fn change_limit(&self, athlete: &Athlete, change: LimitChange<'_>) -> Result<Response, Problem> {
        let response = self.store_limit(athlete, change).await?;
        // Also for a repetition and for what was set before: an earlier request may still be waiting.
        if change.action == LimitAction::Set {
            let begun = Instant::now();
            self.until_nothing_can_start(&athlete.scope(), athlete.subject, change.limit.purpose(), begun)
                .await?;
            self.metrics.withdrawal_wait.observe(begun.elapsed().as_secs_f64());
        }
        Ok(response)
    }

    async fn store_limit(&self, athlete: &Athlete, change: LimitChange<'_>) -> Result<Response, Problem> {
        let LimitChange { limit, action, .. } = change;
        let Begun { key, mut tx, slot } = match self.begin(athlete, change.key, change.body).await? {
            Ok(begun) => begun,
            Err(repeated) => return Ok(repeated),
        };
        let (before, changed_at) = store::limit(&mut tx, athlete.subject, limit).await?;
        let (status, standing, changed_at) = match before.after(action) {
            None => (StatusCode::OK, before, changed_at),
            Some(standing) => {
                let now = Timestamp::now();
                // As the database keeps it: the same is said when it is asked for again.
                let at = now.round(Unit::Microsecond).unwrap_or(now);
                store::record_limit(&mut tx, athlete.subject, limit, standing, at).await?;
                self.tell_limit(&mut tx, &key, limit, standing).await?;
                (StatusCode::CREATED, standing, Some(at))
            }
        };
        let entry = LimitEntry::of(limit, standing, changed_at);
        let response = slot.finish(&mut tx, status, &entry).await?;
        tx.commit().await?;
        if status == StatusCode::CREATED {
            self.metrics.limit_changed(told(limit, standing));
        }
        Ok(response)
    }

    async fn tell_limit(
        &self,
        tx: &mut TenantTx,
        key: &SubjectKey,
        limit: Limit,
        standing: LimitStanding,
    ) -> Result<(), Problem> {
        let mut entry = Entry {
            purpose: limit.purpose().map(|purpose| purpose.to_string()),
            rule: Some(told(limit, standing).to_owned()),
            revision: Some(self.feed.current().revision.0),
            ..evidence::entry_of(tx, Kind::ConsentChange)
        };
        evidence::commit_to(&mut entry, [key]).map_err(|error| Problem::internal(&error))?;
        evidence::append(tx, &entry).await?;
        Ok(())
    }
}
