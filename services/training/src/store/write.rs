//! Appending to a workout's stream, with everything that follows from it in the same transaction.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use meridian_kit::event::{Draft, Event};
use meridian_kit::outbox;
use meridian_kit::subject_keys::Sealed;
use meridian_policy::DataClass;
use uuid::Uuid;

use super::{AthleteTx, Store, StoreError, TOPIC, details_place, event_place, summary_place};
use crate::domain::{
    Details, ImportedWorkout, Summary, Version, Workout, WorkoutCommand, WorkoutEvent, WorkoutId, decide, evolve,
    replay,
};

/// The constraint that lets one of two writers through.
const STREAM_VERSION: &str = "workout_event_pkey";

impl Store {
    /// Obeys a command on a workout that is at `expected` (0: it has not started), and returns its summary.
    ///
    /// # Errors
    /// Another writer was first, the workout cannot become that, or the database or keyring failed.
    pub async fn execute(
        &self,
        tx: &mut AthleteTx,
        id: WorkoutId,
        expected: Version,
        command: &WorkoutCommand,
        now: Timestamp,
    ) -> Result<Summary, StoreError> {
        let stream = tx.stream(id).await?;
        let current = stream.iter().fold(Version::default(), |version, _| version.next());
        let mut state = replay(&stream);
        if state.is_none() && !matches!(command, WorkoutCommand::Start(_)) {
            return Err(StoreError::NotFound);
        }
        if current != expected {
            return Err(StoreError::VersionConflict { expected, current });
        }
        let events = decide(id, tx.key.subject().as_uuid(), state.as_ref(), command, now)?;
        for event in &events {
            state = evolve(state, event);
        }
        let Some(workout) = state else {
            return Err(StoreError::NotFound);
        };
        self.record(tx, id, current, &events, &workout, None).await
    }

    /// Records a finished workout made of a recording. Where it is there already (a retry that crossed its first
    /// attempt), nothing is written and what is there is returned.
    ///
    /// # Errors
    /// The database or keyring failed.
    pub async fn import(
        &self,
        mut tx: AthleteTx,
        id: WorkoutId,
        imported: &ImportedWorkout,
    ) -> Result<Option<Summary>, StoreError> {
        let details = Some(&imported.details);
        match self
            .record(
                &mut tx,
                id,
                Version::default(),
                &imported.events,
                &imported.workout,
                details,
            )
            .await
        {
            Ok(summary) => {
                tx.commit().await?;
                Ok(Some(summary))
            }
            Err(StoreError::VersionConflict { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn record(
        &self,
        tx: &mut AthleteTx,
        id: WorkoutId,
        mut version: Version,
        events: &[WorkoutEvent],
        workout: &Workout,
        details: Option<&Details>,
    ) -> Result<Summary, StoreError> {
        for event in events {
            let before = version;
            version = version.next();
            tx.append(id, version, event).await.map_err(|error| match error {
                // Only where there was no summary to lock yet: two first events of one stream.
                StoreError::Database(error) if error.violates(STREAM_VERSION) => StoreError::VersionConflict {
                    expected: before,
                    current: version,
                },
                error => error,
            })?;
            self.announce(tx, id, version, event).await?;
        }
        let summary = Summary::of(workout, version);
        tx.write_summary(&summary).await?;
        let completed = events.iter().find_map(|event| match event {
            WorkoutEvent::Completed(completed) => completed.calories_burned,
            _ => None,
        });
        let from_events = completed.map(|calories| Details {
            calories_burned: Some(calories),
            ..Details::default()
        });
        if let Some(details) = details.or(from_events.as_ref()) {
            tx.write_details(id, details).await?;
        }
        Ok(summary)
    }

    /// Lets other services know, once the transaction has committed.
    async fn announce(
        &self,
        tx: &mut AthleteTx,
        id: WorkoutId,
        version: Version,
        event: &WorkoutEvent,
    ) -> Result<(), StoreError> {
        let draft = Draft {
            kind: event.cloud_type(),
            stream: id.to_string(),
            sequence: u64::from(version.0),
            class: class_of(event),
            epoch: tx.tx.scope().epoch(),
        };
        let announced = Event::sealed(&self.source, draft, &tx.key, &event.payload()?)?;
        outbox::append(&mut tx.tx, TOPIC, &announced).await?;
        Ok(())
    }
}

/// The strictest class among the event's fields; the catalogue (policies/catalogue/training.yaml) has them one by one.
fn class_of(event: &WorkoutEvent) -> DataClass {
    match event {
        WorkoutEvent::Completed(completed) if completed.calories_burned.is_some() => DataClass::Health,
        WorkoutEvent::TagAdded(_) => DataClass::TrainingContent,
        WorkoutEvent::Started(started) if started.title.is_some() => DataClass::TrainingContent,
        WorkoutEvent::Updated(updated) if updated.title.is_some() => DataClass::TrainingContent,
        _ => DataClass::WorkoutSummary,
    }
}

impl AthleteTx {
    /// The workout's events in order, no other writer at it until the end of the transaction. Another athlete's stream
    /// reads as none.
    async fn stream(&mut self, id: WorkoutId) -> Result<Vec<WorkoutEvent>, StoreError> {
        // The second of two writers waits here and then sees what the first has committed, so that it can be told the
        // version; the events' primary key would stop it anyway.
        sqlx::query("select 1 from workout_summary where workout_id = $1 and subject = $2 for update")
            .bind(id.0)
            .bind(self.key.subject())
            .execute(self.tx.conn())
            .await?;
        let rows: Vec<(i32, Sealed)> = sqlx::query_as(
            "select version, sealed from workout_event where stream = $1 and subject = $2 order by version",
        )
        .bind(id.0)
        .bind(self.key.subject())
        .fetch_all(self.tx.conn())
        .await?;
        let mut version = Version::default();
        let mut events = Vec::with_capacity(rows.len());
        for (_, sealed) in rows {
            version = version.next();
            // The place names the version: a stream with a gap or a row in the wrong place does not open.
            events.push(self.key.open_json(&event_place(id, version), &sealed)?);
        }
        Ok(events)
    }

    async fn append(&mut self, id: WorkoutId, version: Version, event: &WorkoutEvent) -> Result<(), StoreError> {
        let sealed = self.key.seal_json(&event_place(id, version), event)?;
        sqlx::query(
            "insert into workout_event (stream, version, event_id, subject, sealed) values ($1, $2, $3, $4, $5)",
        )
        .bind(id.0)
        .bind(i32::try_from(version.0).unwrap_or(i32::MAX))
        .bind(Uuid::now_v7())
        .bind(self.key.subject())
        .bind(sealed)
        .execute(self.tx.conn())
        .await?;
        Ok(())
    }

    async fn write_summary(&mut self, summary: &Summary) -> Result<(), StoreError> {
        let sealed = self.key.seal_json(&summary_place(summary.workout_id), summary)?;
        sqlx::query(
            "insert into workout_summary (workout_id, subject, version, started_at, sealed) values ($1, $2, $3, $4, $5) \
             on conflict (tenant, workout_id) do update set version = excluded.version, sealed = excluded.sealed",
        )
        .bind(summary.workout_id.0)
        .bind(self.key.subject())
        .bind(i32::try_from(summary.version.0).unwrap_or(i32::MAX))
        .bind(summary.start_time.to_sqlx())
        .bind(sealed)
        .execute(self.tx.conn())
        .await?;
        Ok(())
    }

    async fn write_details(&mut self, id: WorkoutId, details: &Details) -> Result<(), StoreError> {
        let sealed = self.key.seal_json(&details_place(id), details)?;
        sqlx::query("insert into workout_details (workout_id, subject, sealed) values ($1, $2, $3)")
            .bind(id.0)
            .bind(self.key.subject())
            .bind(sealed)
            .execute(self.tx.conn())
            .await?;
        Ok(())
    }
}
