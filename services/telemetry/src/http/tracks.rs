//! `GET /api/v1/tracks/{track_id}`: a track, its chunks merged by time.

use std::collections::HashMap;

use axum::extract::State;
use meridian_kit::auth::Athlete;
use meridian_kit::db::TenantTx;
use meridian_kit::problem::{Json, Path, Problem, Query};
use meridian_kit::subject_keys::{Create, Error as KeyError, KeyRequest, KeyScope, Sealed, SubjectKey};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::App;
use super::files::summary_context;
use super::wire::SampleOut;
use crate::domain::chunk;
use crate::domain::retention::Month;
use crate::domain::sample::Sample;
use crate::domain::summary::Summary;
use crate::ingest::chunk_context;
use crate::store::{self, StoredChunk};

/// Most samples of one answer.
const MAX_PAGE: usize = 50_000;
/// Chunks that are opened at a time.
const SOME: usize = 32;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// Samples from this moment on, ms since 1970-01-01 UTC.
    from: Option<i64>,
    /// About how many; all samples of the last moment come along.
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct Track {
    track_id: Uuid,
    /// Samples stored, of the whole track.
    samples: u64,
    /// True when every sample that was acknowledged before this request is among them. A batch is acknowledged before it
    /// is stored, so a read may come a moment too early; false says that it did, or that it cannot be known.
    complete: bool,
    points: Vec<SampleOut>,
    /// Where to go on, as `from`.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<i64>,
    /// Of recorded files.
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<Summary>,
}

/// The athlete's own track; of anybody else's, and of none, the same answer.
pub(super) async fn read(
    State(app): State<App>,
    athlete: Athlete,
    Path(track): Path<Uuid>,
    Query(page): Query<Page>,
) -> Result<Json<Track>, Problem> {
    let limit = page.limit.unwrap_or(MAX_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        let message = format!("a page has 1 to {MAX_PAGE} samples");
        return Err(
            Problem::bad_request("invalid-query", "a query parameter does not fit; see details").detail_allowed(
                "limit",
                [format!("1..={MAX_PAGE}")],
                message,
            ),
        );
    }
    if page.from.is_some_and(|from| {
        !(Sample {
            time_ms: from,
            ..Sample::default()
        })
        .has_plausible_time()
    }) {
        let message = "`from` is in milliseconds since 1970";
        return Err(
            Problem::bad_request("invalid-query", "a query parameter does not fit; see details")
                .detail("from", message),
        );
    }
    let _room = app.admission.read().await?;
    let mut tx = TenantTx::begin(&app.pool, &athlete.scope()).await?;
    let totals = store::summary(&mut tx, athlete.subject, track).await?;
    tx.commit().await?;
    // Asked before the chunks are read: what was acknowledged before this question is then among them. Where a file says
    // how many samples it has, that says it better.
    let settled = match &totals {
        Some(_) => false,
        None => app.backlog.batches().await.is_ok_and(|batches| batches == 0),
    };
    let mut tx = TenantTx::begin(&app.pool, &athlete.scope()).await?;
    let samples = store::stored_samples(&mut tx, athlete.subject, track).await?;
    let chunks = store::track(&mut tx, athlete.subject, track, page.from).await?;
    tx.commit().await?;
    if samples == 0 && totals.is_none() {
        return Err(Problem::not_found(
            "no-such-track",
            "there is no such track of yours; a fresh one may take a moment",
        ));
    }
    let complete = totals.as_ref().map_or(settled, |totals| samples >= totals.samples);
    let summary = match totals {
        Some(totals) => {
            let key = app
                .keyring
                .key(&athlete.tenant, &athlete.subject, &KeyScope::Personal, Create::No)
                .await?;
            Some(key.open_json(&summary_context(athlete.subject, track), &totals.sealed)?)
        }
        None => None,
    };
    let keys = keys(&app, &athlete, &chunks).await?;
    let mut page = Merge::new(page.from.unwrap_or(i64::MIN), limit);
    for (index, some) in chunks.chunks(SOME).enumerate() {
        let mut tx = TenantTx::begin(&app.pool, &athlete.scope()).await?;
        let sealed = store::sealed(&mut tx, athlete.subject, track, some).await?;
        tx.commit().await?;
        let sealed: Vec<_> = some
            .iter()
            .filter_map(|chunk| {
                let context = chunk_context(athlete.subject, track, chunk.batch);
                Some((
                    context,
                    sealed.get(&chunk.batch)?.clone(),
                    keys.get(&chunk.month)?.clone(),
                ))
            })
            .collect();
        let opening = move || {
            sealed
                .iter()
                .map(|(context, sealed, key)| open(context, sealed, key))
                .collect::<Result<Vec<_>, _>>()
        };
        let opened = tokio::task::spawn_blocking(opening)
            .await
            .map_err(|error| Problem::internal(&error))??;
        page.add(opened.into_iter().flatten());
        if page.is_final_before(chunks.get((index + 1) * SOME).map(|next| next.first_ms)) {
            break;
        }
    }
    let (points, next) = page.finish();
    Ok(Json(Track {
        track_id: track,
        samples,
        complete,
        points: points.iter().map(SampleOut::from).collect(),
        next,
        summary,
    }))
}

/// Keys of the months that the chunks are of. A month whose key is destroyed has expired, and its rows are about to go.
async fn keys(app: &App, athlete: &Athlete, chunks: &[StoredChunk]) -> Result<HashMap<Month, SubjectKey>, Problem> {
    let mut months: Vec<Month> = chunks.iter().map(|chunk| chunk.month).collect();
    months.sort();
    months.dedup();
    let request = |month: &Month| KeyRequest {
        tenant: athlete.tenant.clone(),
        subject: athlete.subject,
        scope: KeyScope::Location {
            year: month.year,
            month: month.month,
        },
        create: false,
    };
    let answers = app.keyring.keys(months.iter().map(request).collect()).await?;
    let mut keys = HashMap::with_capacity(months.len());
    for (month, answer) in months.into_iter().zip(answers) {
        match answer {
            Ok(key) => {
                keys.insert(month, key);
            }
            Err(KeyError::KeyDestroyed | KeyError::KeyAbsent) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(keys)
}

fn open(context: &str, sealed: &Sealed, key: &SubjectKey) -> Result<Vec<Sample>, Problem> {
    let packed = key.open(context, sealed)?;
    chunk::decode(&packed).map_err(|error| Problem::internal(&error))
}

/// The first `limit` samples from `from` on, in order of time, out of chunks that come by their first sample. It holds
/// at most twice as many, whatever the chunks are.
struct Merge {
    from: i64,
    limit: usize,
    samples: Vec<Sample>,
    /// How many samples there may be before those after the page are left out.
    full_at: usize,
    /// Samples after the page were left out.
    more: bool,
}

impl Merge {
    fn new(from: i64, limit: usize) -> Self {
        Self {
            from,
            limit,
            samples: Vec::new(),
            full_at: 2 * limit + 1000,
            more: false,
        }
    }

    fn add(&mut self, samples: impl Iterator<Item = Sample>) {
        let from = self.from;
        for sample in samples.filter(|sample| sample.time_ms >= from) {
            self.samples.push(sample);
            if self.samples.len() >= self.full_at {
                self.cut();
                // Not at the next one again: a single moment may be longer than the page.
                self.full_at = self.samples.len() + self.limit + 1000;
            }
        }
    }

    /// Keeps whole moments: a page never ends between two samples of one.
    fn cut(&mut self) {
        // Stable: samples of one moment keep the order of their batch.
        self.samples.sort_by_key(|sample| sample.time_ms);
        let Some(last) = self.samples.get(self.limit - 1).map(|sample| sample.time_ms) else {
            return;
        };
        let end = self.samples.partition_point(|sample| sample.time_ms <= last);
        self.more |= end < self.samples.len();
        self.samples.truncate(end);
    }

    /// Whether chunks that begin at `next` or later cannot change the page. There are more samples then.
    fn is_final_before(&mut self, next: Option<i64>) -> bool {
        let Some(next) = next else { return false };
        self.cut();
        let last = self.samples.get(self.limit - 1).map(|sample| sample.time_ms);
        let is_final = last.is_some_and(|last| last < next);
        self.more |= is_final;
        is_final
    }

    /// The page, and where to go on.
    fn finish(mut self) -> (Vec<Sample>, Option<i64>) {
        self.cut();
        let last = self.samples.last().map(|sample| sample.time_ms);
        let next = last.filter(|_| self.more).map(|last| last + 1);
        (self.samples, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(times: &[i64]) -> Vec<Sample> {
        times
            .iter()
            .map(|time_ms| Sample {
                time_ms: *time_ms,
                ..Sample::default()
            })
            .collect()
    }

    fn page(from: i64, limit: usize, chunks: &[&[i64]]) -> (Vec<Sample>, Option<i64>) {
        let mut page = Merge::new(from, limit);
        for (index, chunk) in chunks.iter().enumerate() {
            page.add(at(chunk).into_iter());
            if page.is_final_before(chunks.get(index + 1).map(|next| next[0])) {
                break;
            }
        }
        page.finish()
    }

    #[test]
    fn a_page_ends_with_a_whole_moment() {
        assert_eq!(page(0, 2, &[&[1, 2, 2, 2, 3]]), (at(&[1, 2, 2, 2]), Some(3)));
        assert_eq!(page(0, 2, &[&[1, 2]]), (at(&[1, 2]), None));
        assert_eq!(page(0, 3, &[&[1]]), (at(&[1]), None));
        assert_eq!(page(3, 9, &[&[1, 2, 3, 4]]), (at(&[3, 4]), None));
    }

    #[test]
    fn overlapping_chunks_are_merged_before_a_page_ends() {
        assert_eq!(page(0, 2, &[&[1, 9], &[2, 3]]), (at(&[1, 2]), Some(3)));
        assert_eq!(page(0, 2, &[&[1, 2], &[2, 3], &[4]]), (at(&[1, 2, 2]), Some(3)));
        assert_eq!(page(0, 2, &[&[1, 2], &[3, 4]]), (at(&[1, 2]), Some(3)));
    }

    #[test]
    fn a_page_is_held_in_bounded_memory() {
        let mut page = Merge::new(0, 10);
        page.add((0..1_000_000).rev().map(|time_ms| Sample {
            time_ms,
            ..Sample::default()
        }));
        assert!(page.samples.capacity() < 4096, "{}", page.samples.capacity());
        assert_eq!(page.finish(), (at(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), Some(10)));
    }
}
