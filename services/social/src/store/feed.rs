//! The lines of a feed. What may be seen is decided twice: here, so that few rows are read, and by
//! [`crate::domain::visibility`] on each row, which has the last word.

use jiff::Timestamp;
use jiff_sqlx::{Timestamp as SqlTimestamp, ToSqlx as _};
use meridian_kit::SubjectId;
use meridian_kit::db::{Error, TenantTx};
use meridian_kit::subject_keys::Sealed;
use sqlx::FromRow;
use uuid::Uuid;

use crate::domain::cursor::Cursor;
use crate::domain::visibility::{Audience, Relation, Settings};

/// A workout of this region.
#[derive(Clone, Debug)]
pub struct LocalLine {
    /// Where it is in the feed.
    pub place: Cursor,
    /// Whose.
    pub author: SubjectId,
    /// What the viewer is to the author.
    pub relation: Relation,
    /// Who may see what.
    pub settings: Settings,
    /// Sealed.
    pub summary: Sealed,
    /// Sealed; none: the author is not known yet.
    pub name: Option<Sealed>,
}

/// A copy from another region.
#[derive(Clone, Debug)]
pub struct ImportedLine {
    /// Where it is in the feed.
    pub place: Cursor,
    /// The exporting region.
    pub origin: String,
    /// The edge.
    pub edge: String,
    /// The author as the exporter names them here.
    pub author: SubjectId,
    /// Sealed by the exporter.
    pub payload: Sealed,
}

#[derive(FromRow)]
struct LocalRow {
    workout_id: Uuid,
    feed_at: SqlTimestamp,
    author: SubjectId,
    follows: bool,
    shared: Option<String>,
    visibility: Option<String>,
    workouts: Option<String>,
    profile: Option<String>,
    summary: Sealed,
    name: Option<Sealed>,
}

/// Which workouts of this region.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Selection {
    /// Of those whom the viewer follows, and the viewer's own.
    Following,
    /// Of everybody.
    Community,
}

const LOCAL: &str = "select w.workout_id, w.feed_at, w.author, f.follower is not null as follows, w.shared, w.visibility, \
     p.workouts, p.profile, w.summary, p.name \
     from workout w \
     left join person p on p.subject = w.author \
     left join follow f on f.followed = w.author and f.follower = $1 \
     where w.status = 'completed' and (w.feed_at, w.workout_id) < ($2, $3) \
     and case $5 \
       when 'following' then w.author = $1 or (f.follower is not null \
         and coalesce(w.shared, w.visibility, p.workouts, 'only-me') in ('everyone', 'followers')) \
       else coalesce(w.shared, w.visibility, p.workouts, 'only-me') = 'everyone' end \
     order by w.feed_at desc, w.workout_id desc limit $4";

const IMPORTED: &str = "select id, feed_at, origin, edge, author, payload from imported_workout \
     where edge = any($1) and expires_at > clock_timestamp() and (feed_at, id) < ($2, $3) \
     order by feed_at desc, id desc limit $4";

fn before(cursor: Option<Cursor>) -> (SqlTimestamp, Uuid) {
    // Later than any line can be, and still within what PostgreSQL can hold.
    let end = Timestamp::MAX;
    cursor.map_or((end.to_sqlx(), Uuid::max()), |cursor| (cursor.at.to_sqlx(), cursor.id))
}

fn audience(word: Option<String>) -> Option<Audience> {
    // A word that is not understood counts as the narrowest.
    word.map(|word| word.parse().unwrap_or_default())
}

/// Workouts of this region that the viewer may see, newest first.
///
/// # Errors
/// When the database cannot be reached.
pub async fn local(
    tx: &mut TenantTx,
    viewer: SubjectId,
    selection: Selection,
    cursor: Option<Cursor>,
    limit: i64,
) -> Result<Vec<LocalLine>, Error> {
    let (at, id) = before(cursor);
    let rows: Vec<LocalRow> = sqlx::query_as(LOCAL)
        .bind(viewer)
        .bind(at)
        .bind(id)
        .bind(limit)
        .bind(match selection {
            Selection::Following => "following",
            Selection::Community => "community",
        })
        .fetch_all(tx.conn())
        .await?;
    let line = |row: LocalRow| LocalLine {
        place: Cursor {
            at: row.feed_at.to_jiff(),
            id: row.workout_id,
        },
        author: row.author,
        relation: match (row.author == viewer, row.follows) {
            (true, _) => Relation::Author,
            (false, true) => Relation::Follower,
            (false, false) => Relation::Stranger,
        },
        settings: Settings {
            shared: audience(row.shared),
            visibility: audience(row.visibility),
            workouts: audience(row.workouts),
            profile: audience(row.profile),
        },
        summary: row.summary,
        name: row.name,
    };
    Ok(rows.into_iter().map(line).collect())
}

/// Copies that came over these edges and have not expired, newest first.
///
/// # Errors
/// When the database cannot be reached.
pub async fn imported(
    tx: &mut TenantTx,
    edges: &[String],
    cursor: Option<Cursor>,
    limit: i64,
) -> Result<Vec<ImportedLine>, Error> {
    let (at, id) = before(cursor);
    let rows: Vec<(Uuid, SqlTimestamp, String, String, SubjectId, Sealed)> = sqlx::query_as(IMPORTED)
        .bind(edges)
        .bind(at)
        .bind(id)
        .bind(limit)
        .fetch_all(tx.conn())
        .await?;
    let line = |(id, at, origin, edge, author, payload): (Uuid, SqlTimestamp, String, String, SubjectId, Sealed)| {
        ImportedLine {
            place: Cursor { at: at.to_jiff(), id },
            origin,
            edge,
            author,
            payload,
        }
    };
    Ok(rows.into_iter().map(line).collect())
}
