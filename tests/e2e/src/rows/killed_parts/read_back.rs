//! Everything that was acknowledged, found again through the API and in the tables, and nothing besides.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reqwest::StatusCode;
use uuid::Uuid;

use super::writers::{People, SAMPLES, Written, text};
use crate::athlete::{Athlete, expect, login};
use crate::world::{Site, until};

const ARRIVES: Duration = Duration::from_secs(30);

impl Written {
    /// Finds all of it through the API and in the tables, and nothing besides; says how much it is.
    pub async fn read_back(&self, site: &Site, people: &People) -> Result<String> {
        let athlete = &people.athlete;
        self.accounts_are_there(site).await.context("accounts")?;
        self.consents_are_there(site, athlete).await.context("consents")?;
        self.workouts_are_there(site, athlete).await.context("workouts")?;
        self.batches_are_there(site, athlete).await.context("batches")?;
        self.follows_are_there(site, athlete).await.context("follows")?;
        self.campaigns_are_there(site, people).await.context("campaigns")?;
        Ok(format!(
            "{} accounts, {} consents, {} workouts, {} batches, {} follows, {} campaigns",
            self.accounts.len(),
            self.receipts.len(),
            self.workouts.len(),
            self.batches,
            self.follows.len(),
            self.campaigns.len()
        ))
    }

    /// Each logs in and has the profile that was acknowledged, from as many events as there were writes; social heard of
    /// each through Kafka.
    async fn accounts_are_there(&self, site: &Site) -> Result<()> {
        for account in &self.accounts {
            let token = login(site, site.tenant, &account.email, &account.password).await?;
            let request = site.http.get(format!("{}/api/v1/me", site.url)).bearer_auth(token);
            let me = expect(request, StatusCode::OK, "GET /api/v1/me").await?;
            let same = me["subject"] == account.subject.as_str() && me["bio"] == account.bio.as_str();
            ensure!(
                same && me["version"] == account.version,
                "an account reads back differently"
            );
        }
        let subjects: Vec<&str> = self.accounts.iter().map(|account| account.subject.as_str()).collect();
        let subjects = list(&subjects);
        let events = format!("select count(*), count(distinct stream) from user_event where stream in ({subjects})");
        let expected: u64 = self.accounts.iter().map(|account| account.version).sum();
        same(site, "identity", &events, format!("{expected}|{}", self.accounts.len())).await?;
        let heard = format!("select count(*) from person where subject in ({subjects})");
        arrives(site, "social", &heard, self.accounts.len()).await
    }

    /// The history has each receipt that was given out, in that order, and no other.
    async fn consents_are_there(&self, site: &Site, athlete: &Athlete) -> Result<()> {
        let (mut history, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = athlete.get(site, &format!("/api/v1/consents/history{cursor}")).await?;
            for entry in page["history"].as_array().context("a history")? {
                history.push(text(entry, "receipt_id")?);
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("?cursor={next}"),
                None => break,
            }
        }
        history.reverse();
        ensure!(
            history == self.receipts,
            "{} receipts were given out, the history has {}, or others",
            self.receipts.len(),
            history.len()
        );
        Ok(())
    }

    /// Each is completed at the version that was acknowledged; social heard of each through Kafka.
    async fn workouts_are_there(&self, site: &Site, athlete: &Athlete) -> Result<()> {
        for (id, version) in &self.workouts {
            let summary = athlete.get(site, &format!("/api/v1/workouts/{id}/summary")).await?;
            let complete = summary["status"] == "completed" && summary["distance_meters"] == 250.0;
            ensure!(
                complete && summary["version"] == *version,
                "a workout reads back as {summary}"
            );
        }
        let events = format!(
            "select stream, count(*) from workout_event where subject = '{}' group by stream order by stream",
            athlete.subject
        );
        let streams: Vec<String> = self
            .workouts
            .iter()
            .map(|(id, version)| format!("{id}|{version}"))
            .collect();
        same(site, "training", &events, streams.join("\n")).await?;
        let heard = format!(
            "select count(*) from workout where author = '{}' and status = 'completed'",
            athlete.subject
        );
        arrives(site, "social", &heard, self.workouts.len()).await
    }

    async fn batches_are_there(&self, site: &Site, athlete: &Athlete) -> Result<()> {
        until(ARRIVES, "all acknowledged batches in the database", || async {
            let stored = stored_batches(site, self.track).await?;
            if stored < self.batches {
                bail!("{stored} of {} are stored", self.batches);
            }
            Ok(Some(()))
        })
        .await?;
        let sql = format!(
            "select count(*), count(distinct batch_id), sum(count) from chunk where track_id = '{}'",
            self.track
        );
        let samples = self.batches * SAMPLES;
        same(site, "telemetry", &sql, format!("{0}|{0}|{samples}", self.batches)).await?;
        let track = athlete.get(site, &format!("/api/v1/tracks/{}", self.track)).await?;
        let points = track["points"].as_array().context("a track has points")?;
        let times: BTreeSet<i64> = points.iter().filter_map(|point| point["t"].as_i64()).collect();
        ensure!(
            points.len() == samples && times.len() == samples,
            "{samples} samples acknowledged, {} read back at {} moments",
            points.len(),
            times.len()
        );
        Ok(())
    }

    async fn follows_are_there(&self, site: &Site, athlete: &Athlete) -> Result<()> {
        let answer = athlete.get(site, "/api/v1/follows").await?;
        let shown = answer["follows"].as_array().context("a list of follows")?;
        let shown: Vec<String> = shown
            .iter()
            .map(|follow| text(follow, "subject"))
            .collect::<Result<_>>()?;
        ensure!(
            shown.len() == self.follows.len(),
            "{} of {} follows",
            shown.len(),
            self.follows.len()
        );
        ensure!(
            shown.into_iter().collect::<BTreeSet<_>>() == self.follows,
            "other follows than were made"
        );
        Ok(())
    }

    async fn campaigns_are_there(&self, site: &Site, people: &People) -> Result<()> {
        for (id, title) in &self.campaigns {
            let request = site.http.get(format!("{}/api/v1/campaigns/{id}", site.url));
            let request = request.bearer_auth(&people.marketing.token);
            let campaign = expect(request, StatusCode::OK, "GET /api/v1/campaigns/{id}").await?;
            ensure!(
                campaign["title"] == title.as_str(),
                "a campaign reads back as {campaign}"
            );
        }
        let sql = format!(
            "select count(*) from campaign where name like 'kept-{}-%'",
            self.track.simple()
        );
        same(site, "promotions", &sql, self.campaigns.len()).await
    }
}

/// Batches of the track in the database.
pub async fn stored_batches(site: &Site, track: Uuid) -> Result<usize> {
    let sql = format!("select count(*) from chunk where track_id = '{track}'");
    let count = site.count("telemetry", &sql).await?;
    usize::try_from(count).context("a count")
}

async fn same(site: &Site, database: &str, sql: &str, expected: impl Display) -> Result<()> {
    let (got, expected) = (site.query(database, sql).await?, expected.to_string());
    ensure!(
        got == expected,
        "acknowledged were {expected:?}, {database}'s tables have {got:?}"
    );
    Ok(())
}

/// Waits until consumers have what producers were told is kept.
async fn arrives(site: &Site, database: &str, sql: &str, expected: usize) -> Result<()> {
    until(ARRIVES, "all events at their consumer", || async {
        same(site, database, sql, expected).await.map(Some)
    })
    .await
}

fn list(ids: &[&str]) -> String {
    let quoted: Vec<String> = ids.iter().map(|id| format!("'{id}'")).collect();
    quoted.join(",")
}
