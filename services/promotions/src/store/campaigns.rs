//! Campaigns and their launch.

use jiff::Timestamp;
use meridian_kit::SubjectId;
use meridian_kit::db::{self, TenantTx};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::lock_audience;
use crate::domain::campaign::{NewCampaign, Phase, Segment, Sport};

/// A campaign as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Campaign {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// What the athlete reads first.
    pub title: String,
    /// What the athlete reads then.
    pub body: String,
    /// For whom.
    pub segment: Segment,
    /// Where it is.
    pub phase: Phase,
    /// When it was launched.
    pub launched_at: Option<Timestamp>,
    /// To how many it was delivered.
    pub delivered: i64,
}

/// A campaign whose athletes are being looked through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launching {
    /// Its id.
    pub id: Uuid,
    /// For whom.
    pub segment: Segment,
    /// The last athlete who was looked at.
    pub expanded_to: Option<SubjectId>,
}

const COLUMNS: &str = "c.id, c.name, c.title, c.body, c.sport_type, c.state, c.launched_at, \
    (select count(*) from delivery d where d.campaign = c.id) as delivered";

fn unreadable(column: &str) -> db::Error {
    db::Error::Statement(format!(
        "column {column} holds something that this version does not know"
    ))
}

fn segment(row: &PgRow) -> Result<Segment, db::Error> {
    let sport: Option<String> = row.try_get("sport_type")?;
    let sport = sport
        .map(|text| Sport::parse(&text))
        .transpose()
        .map_err(|_| unreadable("sport_type"))?;
    Ok(sport.into())
}

fn campaign(row: &PgRow) -> Result<Campaign, db::Error> {
    let state: String = row.try_get("state")?;
    let launched_at: Option<jiff_sqlx::Timestamp> = row.try_get("launched_at")?;
    Ok(Campaign {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        title: row.try_get("title")?,
        body: row.try_get("body")?,
        segment: segment(row)?,
        phase: Phase::parse(&state).ok_or_else(|| unreadable("state"))?,
        launched_at: launched_at.map(jiff_sqlx::Timestamp::to_jiff),
        delivered: row.try_get("delivered")?,
    })
}

/// Stores a campaign. `false`: there is one of this name already.
pub async fn insert(tx: &mut TenantTx, id: Uuid, new: &NewCampaign) -> Result<bool, db::Error> {
    let done = sqlx::query(
        "insert into campaign (id, name, title, body, sport_type) values ($1, $2, $3, $4, $5) \
         on conflict on constraint campaign_name do nothing",
    )
    .bind(id)
    .bind(&new.name)
    .bind(&new.title)
    .bind(&new.body)
    .bind(new.segment.sport().map(Sport::as_str))
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A campaign by its id.
pub async fn by_id(tx: &mut TenantTx, id: Uuid) -> Result<Option<Campaign>, db::Error> {
    let query = sqlx::AssertSqlSafe(format!("select {COLUMNS} from campaign c where c.id = $1"));
    sqlx::query(query)
        .bind(id)
        .fetch_optional(tx.conn())
        .await?
        .as_ref()
        .map(campaign)
        .transpose()
}

/// A campaign by its name.
pub async fn by_name(tx: &mut TenantTx, name: &str) -> Result<Option<Campaign>, db::Error> {
    let query = sqlx::AssertSqlSafe(format!("select {COLUMNS} from campaign c where c.name = $1"));
    sqlx::query(query)
        .bind(name)
        .fetch_optional(tx.conn())
        .await?
        .as_ref()
        .map(campaign)
        .transpose()
}

/// The newest campaigns.
pub async fn newest(tx: &mut TenantTx, limit: i64) -> Result<Vec<Campaign>, db::Error> {
    let query = sqlx::AssertSqlSafe(format!(
        "select {COLUMNS} from campaign c order by c.created_at desc, c.id limit $1"
    ));
    sqlx::query(query)
        .bind(limit)
        .fetch_all(tx.conn())
        .await?
        .iter()
        .map(campaign)
        .collect()
}

/// Launches a draft; launching again changes nothing. The delivery part does the rest, now or after a restart.
pub async fn launch(tx: &mut TenantTx, id: Uuid) -> Result<(), db::Error> {
    lock_audience(tx, true).await?;
    sqlx::query("update campaign set state = 'launching', launched_at = now() where id = $1 and state = 'draft'")
        .bind(id)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// A launching campaign that no other replica is at, locked until the transaction ends.
pub async fn next_launching(tx: &mut TenantTx) -> Result<Option<Launching>, db::Error> {
    let row = sqlx::query(
        "select id, sport_type, expanded_to from campaign where state = 'launching' \
         order by launched_at limit 1 for update skip locked",
    )
    .fetch_optional(tx.conn())
    .await?;
    row.map(|row| {
        Ok(Launching {
            id: row.try_get("id")?,
            segment: segment(&row)?,
            expanded_to: row.try_get("expanded_to")?,
        })
    })
    .transpose()
}

/// Notes how far the athletes have been looked through.
pub async fn note_expansion(tx: &mut TenantTx, id: Uuid, to: SubjectId) -> Result<(), db::Error> {
    sqlx::query("update campaign set expanded_to = $2 where id = $1")
        .bind(id)
        .bind(to)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Notes that all have been.
pub async fn finish_expansion(tx: &mut TenantTx, id: Uuid) -> Result<(), db::Error> {
    sqlx::query("update campaign set state = 'launched', expanded_to = null where id = $1")
        .bind(id)
        .execute(tx.conn())
        .await?;
    Ok(())
}
