//! What other services tell: training about workouts, identity about athletes, the replicator about copies.

use std::sync::Arc;

use jiff::Timestamp;
use meridian_kit::SubjectId;
use meridian_kit::db::TenantTx;
use meridian_kit::event::Event;
use meridian_kit::kafka::{Failure, Handled, Handler};
use meridian_kit::subject_keys::{Create, Error as KeyError, KeyScope, Keyring, Sealed, SubjectKey};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::domain::visibility::Audience;
use crate::domain::workout::{Status, Summary};
use crate::store::imports::{self, NewImport};
use crate::store::{people, workouts};

/// The topics that this service reads, each in the group of its name.
pub const TOPICS: &[&str] = &["training.events", "identity.events", "imports.events"];

/// A workout that was shared, here or in another region.
pub const WORKOUT_SHARED: &str = "sh.meridian.workout.shared.v1";
const IMPORT_PURGED: &str = "sh.meridian.import.purged.v1";

/// Takes in events.
#[derive(Clone, Debug)]
pub struct Intake {
    keyring: Keyring,
    /// Rung when a purge was carried out and is to be acknowledged.
    purged: Arc<Notify>,
}

#[derive(Deserialize)]
struct Started {
    workout_id: Uuid,
    sport_type: String,
    start_time: Timestamp,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    visibility: Option<Audience>,
}

#[derive(Deserialize)]
struct Updated {
    workout_id: Uuid,
    #[serde(default)]
    current_distance_meters: Option<f64>,
    #[serde(default)]
    title: Option<String>,
}

#[derive(Deserialize)]
struct Completed {
    workout_id: Uuid,
    end_time: Timestamp,
    duration_sec: u32,
    distance_meters: f64,
    #[serde(default)]
    ascent_meters: Option<f64>,
}

#[derive(Deserialize)]
struct Cancelled {
    workout_id: Uuid,
}

#[derive(Deserialize)]
struct UserFacts {
    first_name: String,
    last_name: String,
    privacy: Privacy,
}

#[derive(Deserialize)]
struct Privacy {
    profile: Audience,
    workouts: Audience,
}

/// A name, as it is sealed.
#[derive(Clone, Deserialize, serde::Serialize)]
pub struct Name {
    /// Given name.
    pub first_name: String,
    /// Family name.
    pub last_name: String,
}

impl Intake {
    /// With the keys of subjects.
    #[must_use]
    pub fn new(keyring: Keyring, purged: Arc<Notify>) -> Self {
        Self { keyring, purged }
    }

    async fn key(&self, event: &Event) -> Result<SubjectKey, KeyError> {
        self.keyring
            .key(&event.tenant, &event.data_subject, &KeyScope::Personal, Create::No)
            .await
    }

    async fn started(&self, event: &Event, tx: &mut TenantTx) -> Result<Handled, Failure> {
        let Some((key, told)) = self.open::<Started>(event).await? else {
            return Ok(Handled::Ignored);
        };
        let summary = Summary {
            sport_type: told.sport_type,
            start_time: Some(told.start_time),
            title: told.title,
            ..Summary::default()
        };
        let sealed = key.seal_json(&workouts::summary_context(told.workout_id), &summary)?;
        let at = told.start_time;
        let version = version(event);
        workouts::begin(
            tx,
            told.workout_id,
            event.data_subject,
            version,
            told.visibility,
            at,
            &sealed,
        )
        .await?;
        Ok(Handled::Done)
    }

    async fn updated(&self, event: &Event, tx: &mut TenantTx) -> Result<Handled, Failure> {
        let Some((key, told)) = self.open::<Updated>(event).await? else {
            return Ok(Handled::Ignored);
        };
        self.advance(event, tx, &key, told.workout_id, None, |summary| {
            summary.title = told.title.or(summary.title.take());
            summary.distance_meters = told.current_distance_meters.or(summary.distance_meters);
        })
        .await
    }

    async fn completed(&self, event: &Event, tx: &mut TenantTx) -> Result<Handled, Failure> {
        let Some((key, told)) = self.open::<Completed>(event).await? else {
            return Ok(Handled::Ignored);
        };
        let ended = Some((Status::Completed, told.end_time));
        self.advance(event, tx, &key, told.workout_id, ended, |summary| {
            summary.distance_meters = Some(told.distance_meters);
            summary.duration_sec = Some(told.duration_sec);
            summary.ascent_meters = told.ascent_meters;
        })
        .await
    }

    async fn cancelled(&self, event: &Event, tx: &mut TenantTx) -> Result<Handled, Failure> {
        let Some((key, told)) = self.open::<Cancelled>(event).await? else {
            return Ok(Handled::Ignored);
        };
        let ended = Some((Status::Cancelled, event.time));
        self.advance(event, tx, &key, told.workout_id, ended, |summary| {
            *summary = Summary::default()
        })
        .await
    }

    async fn advance(
        &self,
        event: &Event,
        tx: &mut TenantTx,
        key: &SubjectKey,
        workout: Uuid,
        ended: Option<(Status, Timestamp)>,
        change: impl FnOnce(&mut Summary),
    ) -> Result<Handled, Failure> {
        // A subject's events come in order, so the beginning is here, unless it was before this service's time.
        let Some(copy) = workouts::find(tx, workout).await? else {
            return Ok(Handled::Ignored);
        };
        if copy.author != event.data_subject || copy.version >= version(event) {
            return Ok(Handled::Ignored);
        }
        let context = workouts::summary_context(workout);
        let mut summary: Summary = key.open_json(&context, &copy.summary)?;
        change(&mut summary);
        let at = ended.map(|(_, at)| at).or(summary.start_time).unwrap_or(event.time);
        let status = ended.map_or(copy.status, |(status, _)| status);
        let sealed = key.seal_json(&context, &summary)?;
        workouts::advance(tx, workout, version(event), status, at, &sealed).await?;
        Ok(Handled::Done)
    }

    async fn person(&self, event: &Event, tx: &mut TenantTx) -> Result<Handled, Failure> {
        let Some((key, told)) = self.open::<UserFacts>(event).await? else {
            return Ok(Handled::Ignored);
        };
        let subject = event.data_subject;
        let name = Name {
            first_name: told.first_name,
            last_name: told.last_name,
        };
        let sealed: Sealed = key.seal_json(&people::name_context(subject), &name)?;
        let Privacy { profile, workouts } = told.privacy;
        people::learn(tx, subject, version(event), profile, workouts, &sealed).await?;
        Ok(Handled::Done)
    }

    /// Kept as it came: the key is the exporter's lease, which may be away just now, and is needed only to show it.
    async fn imported(&self, event: &Event, tx: &mut TenantTx) -> Result<Handled, Failure> {
        let (Some(origin), Some(edge), Some(expires)) = (&event.origin, &event.edge, event.expires) else {
            return Err(Failure::Dead("a copy without origin, edge or expiry".to_owned()));
        };
        if event.key_scope != KeyScope::Import(edge.clone()) {
            return Err(Failure::Dead(
                "a copy that is sealed under another key than its edge's".to_owned(),
            ));
        }
        if expires <= Timestamp::now() {
            return Ok(Handled::Ignored);
        }
        let author = event.data_subject;
        let import = NewImport {
            id: event.id,
            origin,
            edge,
            expires,
            author,
            day: event.time,
            payload: event.sealed_payload(),
        };
        imports::keep(tx, &import).await?;
        Ok(Handled::Done)
    }

    async fn purged(&self, event: &Event, tx: &mut TenantTx) -> Result<Handled, Failure> {
        let Some(edge) = &event.edge else {
            return Err(Failure::Dead("a purge without an edge".to_owned()));
        };
        let count = imports::purge(tx, edge, event.id).await?;
        tracing::info!(edge = %edge, count, "the copies of an edge are deleted");
        // After the commit; a ring too early finds nothing, and the acknowledging looks again by itself.
        self.purged.notify_one();
        Ok(Handled::Done)
    }

    /// Nothing, where the subject was erased meanwhile.
    async fn open<T: DeserializeOwned>(&self, event: &Event) -> Result<Option<(SubjectKey, T)>, Failure> {
        let key = match self.key(event).await {
            Ok(key) => key,
            Err(KeyError::KeyDestroyed) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let told = event.open_with(&key)?;
        Ok(Some((key, told)))
    }
}

fn version(event: &Event) -> i64 {
    i64::try_from(event.sequence).unwrap_or(i64::MAX)
}

/// Whether a subject may be in question at all: the replicator's notices name nobody.
fn names_someone(subject: SubjectId) -> bool {
    !subject.as_uuid().is_nil()
}

impl Handler for Intake {
    async fn handle(&self, event: &Event, tx: &mut TenantTx) -> Result<Handled, Failure> {
        match event.kind.as_str() {
            IMPORT_PURGED => self.purged(event, tx).await,
            _ if !names_someone(event.data_subject) => Ok(Handled::Ignored),
            // Whatever else comes over an edge has no place here.
            WORKOUT_SHARED if event.origin.is_some() => self.imported(event, tx).await,
            _ if event.origin.is_some() => Ok(Handled::Ignored),
            "sh.meridian.workout.started.v1" => self.started(event, tx).await,
            "sh.meridian.workout.updated.v1" => self.updated(event, tx).await,
            "sh.meridian.workout.completed.v1" => self.completed(event, tx).await,
            "sh.meridian.workout.cancelled.v1" => self.cancelled(event, tx).await,
            "sh.meridian.user.registered.v1" | "sh.meridian.user.profile-updated.v1" => self.person(event, tx).await,
            _ => Ok(Handled::Ignored),
        }
    }
}
