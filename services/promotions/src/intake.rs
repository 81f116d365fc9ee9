//! What others tell: consents from consent.state, kinds of sport from training.events.

use std::collections::BTreeSet;
use std::sync::Arc;

use meridian_kit::SubjectId;
use meridian_kit::db::TenantTx;
use meridian_kit::event::Event;
use meridian_kit::kafka::{Failure, Handled, Handler};
use meridian_kit::subject_keys::{self, Create, KeyScope, Keyring};
use serde::Deserialize;
use tokio::sync::Notify;

use crate::domain::audience::{Heard, Matter};
use crate::domain::campaign::Sport;
use crate::store::audience::{self, StoredAthlete};

/// Topics that are read.
pub const TOPICS: &[&str] = &["consent.state", "training.events"];
const GRANTED: &str = "sh.meridian.consent.granted.v1";
const WITHDRAWN: &str = "sh.meridian.consent.withdrawn.v1";
const WORKOUT_STARTED: &str = "sh.meridian.workout.started.v1";
/// Kinds of sport kept of one athlete.
const MOST_SPORTS: usize = 64;

/// The handler of both topics.
#[derive(Debug)]
pub struct Intake {
    /// Subject keys.
    pub keyring: Keyring,
    /// Told when there may be something to deliver.
    pub wake: Arc<Notify>,
}

#[derive(Deserialize)]
struct ConsentChanged {
    purpose: String,
    class: String,
}

#[derive(Deserialize)]
struct WorkoutStarted {
    sport_type: String,
}

/// Where an athlete's kinds of sport are sealed.
pub(crate) fn sports_context(subject: SubjectId) -> String {
    format!("promotions.athlete.sports:{subject}")
}

impl Handler for Intake {
    async fn handle(&self, event: &Event, tx: &mut TenantTx) -> Result<Handled, Failure> {
        let handled = match event.kind.as_str() {
            GRANTED => self.consent(event, tx, true).await,
            WITHDRAWN => self.consent(event, tx, false).await,
            WORKOUT_STARTED => self.workout(event, tx).await,
            _ => return Ok(Handled::Ignored),
        };
        match handled {
            Err(Refused::Erased) => {
                audience::forget(tx, event.data_subject).await?;
                Ok(Handled::Done)
            }
            Err(Refused::Failed(failure)) => Err(failure),
            Ok(handled) => Ok(handled),
        }
    }
}

enum Refused {
    /// The subject was erased: nothing of theirs may be kept.
    Erased,
    Failed(Failure),
}

impl From<subject_keys::Error> for Refused {
    fn from(error: subject_keys::Error) -> Self {
        match error {
            subject_keys::Error::KeyDestroyed => Self::Erased,
            error => Self::Failed(error.into()),
        }
    }
}

impl From<meridian_kit::db::Error> for Refused {
    fn from(error: meridian_kit::db::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl Intake {
    async fn consent(&self, event: &Event, tx: &mut TenantTx, granted: bool) -> Result<Handled, Refused> {
        let changed: ConsentChanged = event.open(&self.keyring).await?;
        let Some(matter) = Matter::of(&changed.purpose, &changed.class) else {
            return Ok(Handled::Ignored);
        };
        let subject = event.data_subject;
        let mut athlete = audience::lock(tx, subject).await?;
        let heard = match matter {
            Matter::Promotion => &mut athlete.promotion,
            Matter::Workouts => &mut athlete.workouts,
        };
        let version = i64::try_from(event.sequence).unwrap_or(i64::MAX);
        let Some(newer) = heard.take(version, granted) else {
            return Ok(Handled::Ignored);
        };
        *heard = newer;
        if !granted {
            // Kinds of sport are kept for campaigns only: without either consent they have no purpose.
            athlete.sealed_sports = None;
            let taken_back = audience::take_back(tx, subject, matter).await?;
            tracing::info!(tenant = %event.tenant, count = taken_back, "deliveries were taken back after a withdrawal");
        }
        audience::store(tx, subject, &athlete).await?;
        if athlete.promotion.granted {
            audience::ask_about(tx, subject, matter == Matter::Promotion, &[]).await?;
        }
        self.wake.notify_one();
        Ok(Handled::Done)
    }

    async fn workout(&self, event: &Event, tx: &mut TenantTx) -> Result<Handled, Refused> {
        let subject = event.data_subject;
        // Before anything of the workout is looked at: without consent it is none of our business.
        if !audience::keeps_workouts(tx, subject).await? {
            return Ok(Handled::Ignored);
        }
        let started: WorkoutStarted = event.open(&self.keyring).await?;
        let Ok(sport) = Sport::parse(&started.sport_type) else {
            return Ok(Handled::Ignored);
        };
        let mut athlete = audience::lock(tx, subject).await?;
        if !(keeps(athlete.promotion, athlete.workouts)) {
            return Ok(Handled::Ignored);
        }
        let mut sports = self.sports(event, &athlete).await?;
        if sports.len() >= MOST_SPORTS || !sports.insert(sport.clone()) {
            return Ok(Handled::Ignored);
        }
        let key = self
            .keyring
            .key(&event.tenant, &subject, &KeyScope::Personal, Create::No)
            .await?;
        athlete.sealed_sports = Some(key.seal_json(&sports_context(subject), &sports)?.into_bytes());
        audience::store(tx, subject, &athlete).await?;
        audience::ask_about(tx, subject, false, &[sport]).await?;
        self.wake.notify_one();
        Ok(Handled::Done)
    }

    async fn sports(&self, event: &Event, athlete: &StoredAthlete) -> Result<BTreeSet<Sport>, Refused> {
        let Some(sealed) = &athlete.sealed_sports else {
            return Ok(BTreeSet::new());
        };
        let subject = event.data_subject;
        let key = self
            .keyring
            .key(&event.tenant, &subject, &KeyScope::Personal, Create::No)
            .await?;
        Ok(key.open_json(&sports_context(subject), sealed)?)
    }
}

fn keeps(promotion: Heard, workouts: Heard) -> bool {
    promotion.granted && workouts.granted
}
