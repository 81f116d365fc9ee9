//! A feed: lines from the store, each judged once more, opened with its subject's key, and merged by time.

use jiff::Timestamp;
use meridian_kit::SubjectId;
use meridian_kit::auth::Athlete;
use meridian_kit::db::TenantTx;
use meridian_kit::problem::Problem;
use meridian_kit::subject_keys::{KeyRequest, KeyScope, SubjectKey};
use meridian_policy::{RegionPolicy, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::Social;
use crate::domain::cursor::Cursor;
use crate::domain::workout::{Shown, Summary};
use crate::intake::Name;
use crate::store::feed::{self, ImportedLine, LocalLine, Selection};
use crate::store::{people, workouts};

/// Lines of a page.
pub const PAGE: usize = 50;

/// Which feed.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Of those whom the athlete follows, and the athlete's own.
    #[default]
    Following,
    /// Of everybody who shows theirs to everybody, other regions included.
    Community,
}

/// A page.
#[derive(Debug, Serialize)]
pub struct Page {
    items: Vec<Item>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A line.
#[derive(Debug, Serialize)]
pub struct Item {
    id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<Author>,
    /// The region that it came from, when that is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    workout: Value,
}

/// Whose it is, where that may be seen.
#[derive(Debug, Serialize)]
pub struct Author {
    subject: SubjectId,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_name: Option<String>,
}

enum Line {
    Local(LocalLine),
    Imported(ImportedLine),
}

impl Line {
    fn place(&self) -> Cursor {
        match self {
            Self::Local(line) => line.place,
            Self::Imported(line) => line.place,
        }
    }

    fn key(&self, tenant: &TenantId) -> Option<KeyRequest> {
        let (subject, scope) = match self {
            Self::Local(line) => (line.author, KeyScope::Personal),
            Self::Imported(line) => (line.author, KeyScope::Import(line.edge.parse().ok()?)),
        };
        Some(KeyRequest {
            tenant: tenant.clone(),
            subject,
            scope,
            create: false,
        })
    }

    /// Nothing where it may not be seen or cannot be opened: an erased author's, an edge's whose key is gone.
    fn item(&self, key: &SubjectKey) -> Option<Item> {
        match self {
            Self::Local(line) => local_item(line, key),
            Self::Imported(line) => imported_item(line, key),
        }
    }
}

fn local_item(line: &LocalLine, key: &SubjectKey) -> Option<Item> {
    if !line.settings.may_see(line.relation) {
        return None;
    }
    let summary: Summary = key
        .open_json(&workouts::summary_context(line.place.id), &line.summary)
        .ok()?;
    let author = line.settings.may_see_author(line.relation).then(|| {
        let sealed = line.name.as_ref();
        let name: Option<Name> =
            sealed.and_then(|sealed| key.open_json(&people::name_context(line.author), sealed).ok());
        let (first_name, last_name) = name.map_or((None, None), |name| (Some(name.first_name), Some(name.last_name)));
        Author {
            subject: line.author,
            first_name,
            last_name,
        }
    });
    let workout = serde_json::to_value(Shown::from(summary)).ok()?;
    Some(Item {
        id: line.place.id,
        author,
        origin: None,
        workout,
    })
}

fn imported_item(line: &ImportedLine, key: &SubjectKey) -> Option<Item> {
    // The exporter sealed it as the event's payload: these fields crossed the border, and no other are shown.
    let context = format!("event:{}", line.place.id);
    let workout: Map<String, Value> = key.open_json(&context, &line.payload).ok()?;
    Some(Item {
        id: line.place.id,
        author: None,
        origin: Some(line.origin.clone()),
        workout: Value::Object(workout),
    })
}

/// The edges whose copies may be shown to this tenant at this moment. A cut edge is not served from the moment that the
/// policy says so, however long the purge takes.
fn edges_served(policy: &RegionPolicy, tenant: &TenantId, now: Timestamp) -> Vec<String> {
    let served = policy
        .imports
        .iter()
        .filter(|edge| edge.importer_tenant == *tenant && edge.lawful_at(now).is_ok());
    served.map(|edge| edge.id.to_string()).collect()
}

impl Social {
    /// A page of a feed.
    ///
    /// # Errors
    /// When it cannot be read, or the keyring cannot be asked.
    pub async fn feed(&self, athlete: &Athlete, scope: Scope, cursor: Option<Cursor>) -> Result<Page, Problem> {
        // One more than a page, to know whether there is a next one.
        let limit = i64::try_from(PAGE + 1).unwrap_or(i64::MAX);
        let mut tx = TenantTx::begin(&self.pool, &athlete.scope()).await?;
        let selection = match scope {
            Scope::Following => Selection::Following,
            Scope::Community => Selection::Community,
        };
        let local = feed::local(&mut tx, athlete.subject, selection, cursor, limit).await?;
        let mut lines: Vec<Line> = local.into_iter().map(Line::Local).collect();
        if scope == Scope::Community {
            let edges = edges_served(&self.feed.current(), &athlete.tenant, Timestamp::now());
            let imported = feed::imported(&mut tx, &edges, cursor, limit).await?;
            lines.extend(imported.into_iter().map(Line::Imported));
        }
        tx.commit().await?;
        lines.sort_by_key(|line| std::cmp::Reverse((line.place().at, line.place().id)));
        let more = lines.len() > PAGE;
        lines.truncate(PAGE);
        let next_cursor = lines.last().filter(|_| more).map(|line| line.place().to_string());
        Ok(Page {
            items: self.open(&athlete.tenant, lines).await?,
            next_cursor,
        })
    }

    async fn open(&self, tenant: &TenantId, lines: Vec<Line>) -> Result<Vec<Item>, Problem> {
        let (lines, requests): (Vec<Line>, Vec<KeyRequest>) = lines
            .into_iter()
            .filter_map(|line| line.key(tenant).map(|key| (line, key)))
            .unzip();
        let keys = self.keyring.keys(requests).await?;
        Ok(lines
            .iter()
            .zip(keys)
            .filter_map(|(line, key)| line.item(&key.ok()?))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(expires: &str) -> RegionPolicy {
        serde_json::from_value(serde_json::json!({
            "region": "us", "jurisdiction": "us", "revision": 1, "public_url": "https://us.example",
            "issuer": "https://us.example", "countries_served": ["US"], "homes": [], "directory": [], "peers": [],
            "exports": [], "retention": {}, "imports": [{
                "id": "stride-eu.workout-summary.us", "tenant": "stride-eu", "organization": "stride", "from": "eu", "to": "us",
                "exporter": "stride-europe", "importer": "stride-america",
                "importer_tenant": "stride-us", "class": "workout-summary", "purposes": ["cross-border-sharing"],
                "fields": ["sport_type"], "mechanism": "SCC", "instrument": "scc-2021", "effective_from": "2026-01-01T00:00:00Z",
                "expires": expires, "ends_with": "mechanism-expired", "pseudonymise": true, "onward": false,
                "needs_consent": true, "framework": "GDPR", "rule": "listed", "epoch": 1,
            }],
        }))
        .expect("a policy")
    }

    #[test]
    fn only_lawful_edges_to_this_tenant_are_served() {
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        let lawful = policy("2027-01-01T00:00:00Z");
        assert_eq!(
            edges_served(&lawful, &"stride-us".parse().unwrap(), now),
            ["stride-eu.workout-summary.us"]
        );
        assert!(edges_served(&lawful, &"other-us".parse().unwrap(), now).is_empty());
        assert!(edges_served(&policy("2026-06-01T00:00:00Z"), &"stride-us".parse().unwrap(), now).is_empty());
    }
}
