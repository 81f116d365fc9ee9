//! Rows that should not be in a region, and what the verifier is to say of them.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use sqlx::Connection as _;

use super::look::Found;
use super::region::Region;
use super::rows::{TABLES, Whose, by_hand, run};

/// A tenant whose home is elsewhere.
const FOREIGN: &str = "tenant-elsewhere";
/// What is no tenant's name. The verifier does not repeat it.
const NO_NAME: &str = "Ada Lovelace, 12 St James Square";
const NOT_REPEATED: &str = "what is no name";
/// A tenant of the region, and an epoch that it was never given.
const AT_HOME: &str = "tenant-7";
const FUTURE: u64 = 99;
/// The edge by which copies come to that tenant, and one by which none do.
const EDGE: &str = "abroad-7.workout-summary.us";
const NO_EDGE: &str = "abroad-elsewhere.workout-summary.us";

/// In which way rows should not be there.
#[derive(Clone, Copy)]
enum Wrong {
    /// Of another region's tenant.
    Foreign,
    /// Of something that is no tenant.
    NoName,
    /// Of an epoch to come.
    Future,
    /// Copied by an edge that is not in force.
    WithoutEdge,
    /// Copied by one that is, and kept too long.
    Expired,
}

/// Which rows: of a service, in a table, in which way wrong, how many.
const SMUGGLED: [(&str, &str, Wrong, u64); 14] = [
    ("telemetry", "chunk", Wrong::Foreign, 7),
    ("telemetry", "chunk", Wrong::Future, 3),
    ("telemetry", "track_summary", Wrong::Foreign, 1),
    ("training", "workout_event", Wrong::Future, 5),
    ("training", "workout_details", Wrong::Foreign, 2),
    ("social", "workout", Wrong::Foreign, 4),
    ("social", "follow", Wrong::NoName, 3),
    ("social", "imported_workout", Wrong::WithoutEdge, 6),
    ("social", "imported_workout", Wrong::Expired, 5),
    ("replicator", "imported_event", Wrong::Expired, 2),
    ("identity", "account", Wrong::Foreign, 1),
    ("consent", "consent_history", Wrong::Future, 2),
    ("consent", "permit", Wrong::NoName, 1),
    ("promotions", "delivery", Wrong::Foreign, 3),
];

impl Wrong {
    fn whose(self) -> Whose {
        let literal = |text: &str| format!("'{text}'");
        let at_home = Whose {
            tenant: literal(AT_HOME),
            epoch: "1".to_owned(),
            edge: literal(EDGE),
            ..Whose::planned()
        };
        match self {
            Self::Foreign => Whose {
                tenant: literal(FOREIGN),
                ..at_home
            },
            Self::NoName => Whose {
                tenant: literal(NO_NAME),
                ..at_home
            },
            Self::Future => Whose {
                epoch: FUTURE.to_string(),
                ..at_home
            },
            Self::WithoutEdge => Whose {
                edge: literal(NO_EDGE),
                ..at_home
            },
            Self::Expired => Whose {
                expires_at: "now() - interval '2 hours'".to_owned(),
                ..at_home
            },
        }
    }

    /// By which check the verifier finds it, and of whom it says that it is.
    fn told(self) -> (&'static str, String) {
        match self {
            Self::Foreign => ("foreign-rows", FOREIGN.to_owned()),
            Self::NoName => ("foreign-rows", NOT_REPEATED.to_owned()),
            Self::Future => ("future-epoch", AT_HOME.to_owned()),
            Self::WithoutEdge => ("copies-without-edge", format!("{NO_EDGE} for {AT_HOME}")),
            Self::Expired => ("expired-copies", EDGE.to_owned()),
        }
    }
}

/// Puts them beside the `there` rows of the region; the answer is what is to be found.
///
/// # Errors
/// When a database refuses.
pub async fn smuggle(region: &Region, there: u64) -> Result<BTreeSet<Found>> {
    let mut found = BTreeSet::new();
    // Their numbers go on after those of every row, and no two of them have the same.
    let mut last = there;
    for (service, name, wrong, count) in SMUGGLED {
        let table = TABLES
            .iter()
            .find(|table| (table.service, table.name) == (service, name));
        let table = table.with_context(|| format!("{service}.{name} is not filled"))?;
        let mut session = by_hand(region, service).await?;
        run(&mut session, table.insert(&wrong.whose(), last, count)).await?;
        session.close().await.context("a session cannot be closed")?;
        last += count;
        let (check, of) = wrong.told();
        found.insert(Found {
            check: check.to_owned(),
            place: format!("{service}.{name}"),
            of: Some(of),
            count,
        });
    }
    Ok(found)
}
