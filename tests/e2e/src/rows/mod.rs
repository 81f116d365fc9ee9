//! The rows: each a promise, proved against the parts themselves.

mod consent_before_promotion;
mod cut_edge;
mod cut_off;
mod foreign_gateway;
mod frozen;
mod hub_lost;
mod killed_parts;
mod nowhere_else;
mod operations;
mod real_ride;
mod refused_policy;
mod scaled_ingest;
mod shared_workout;
mod walk;

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::world::{World, until};

/// A promise.
pub struct Row {
    /// As the README's table numbers it.
    pub number: u8,
    /// In a sentence.
    pub promise: &'static str,
}

/// What became of it.
pub enum Outcome {
    /// It holds; what was seen.
    Proved(String),
    /// It could not be tried on this machine; why.
    #[expect(dead_code, reason = "rows that need what a machine may lack say so by this")]
    Skipped(String),
}

/// Every row, in order.
pub const ALL: [Row; 18] = [
    Row {
        number: 1,
        promise: "An EU athlete's profile text, positions and heart rates are in eu and nowhere in us or on the hub",
    },
    Row {
        number: 2,
        promise: "An EU athlete at the us gateway is sent home, and only with a valid token told where home is",
    },
    Row {
        number: 3,
        promise: "Every record of a FIT file is stored once, reads back value by value, and makes a workout with totals",
    },
    Row {
        number: 4,
        promise: "No promotion before consent, one after it, none once a withdrawal is acknowledged",
    },
    Row {
        number: 5,
        promise: "A shared workout reaches us with the edge's fields alone, and without consent not at all",
    },
    Row {
        number: 6,
        promise: "A removed edge stops the next delivery; us's copies are gone from tables, feed and topic, as both sides acknowledge",
    },
    Row {
        number: 7,
        promise: "Load makes the ingest pool grow and shrink again; samples acknowledged are samples stored, none twice",
    },
    Row {
        number: 8,
        promise: "A policy that sends health data to us is refused at kubectl apply, and in status without the webhook",
    },
    Row {
        number: 9,
        promise: "With the hub gone eu serves on and transfers stop with the lease; both recover when it is back",
    },
    Row {
        number: 10,
        promise: "kill -9 of every part of eu while it is written to loses nothing that was acknowledged",
    },
    Row {
        number: 11,
        promise: "kubectl meridian says that all is well, explains what is lawful and what is not, and plans",
    },
    Row {
        number: 12,
        promise: "The hub is led again within 15 s of kill -9 of its leader, and within 2 s of SIGTERM",
    },
    Row {
        number: 13,
        promise: "The CA behind the webhook is replaced while resources are applied, and none of them fails for it",
    },
    Row {
        number: 14,
        promise: "Without its kubeconfig a region alone degrades and serves on; with it back it is Ready",
    },
    Row {
        number: 15,
        promise: "The chart is upgraded to another image and rolled back; no stack is started anew, nobody is turned away",
    },
    Row {
        number: 16,
        promise: "The hub is lost and rebuilt from its manifests: nothing lowered, nothing purged, no pod started anew",
    },
    Row {
        number: 17,
        promise: "A row of an eu tenant put into us's database by hand is found by one run of the verifier",
    },
    Row {
        number: 18,
        promise: "A random walk of policies, tenants, consents and dying parts loses nothing and leaks nothing",
    },
];

/// One after the other: rows that may run side by side. Within a lane they wait for each other, since they change the same
/// tenant's policy or what the row before them left.
pub const STAGES: [&[&[u8]]; 9] = [
    // Compares times, so nothing else runs.
    &[&[2]],
    // Reads all that lies in three clusters, which takes the machine: nothing is shared meanwhile that has to arrive in time.
    &[&[1], &[3, 4]],
    &[&[5, 6, 8]],
    &[&[7]],
    &[&[9]],
    // The hub can be worked on while parts of eu are killed, which do not ask it.
    &[&[10], &[11, 12, 13, 14], &[17]],
    &[&[15]],
    &[&[16]],
    &[&[WALK]],
];

/// What `cargo xtask up` proves; the others are proved by `cargo xtask test`, and by number.
pub const OF_THE_DEMO: RangeInclusive<u8> = 1..=10;

/// The row of the long runs (`cargo xtask test chaos`); otherwise it is proved only by number.
pub const WALK: u8 = 18;

/// Rows that put load on the demo or take parts of it away. They take minutes, and are not proved again while what they
/// proved still stands as it was.
pub const LONG: [u8; 3] = [7, 9, 10];

/// Proves one row.
pub async fn prove(number: u8, world: &World) -> Result<Outcome> {
    match number {
        1 => nowhere_else::prove(world).await,
        2 => foreign_gateway::prove(world).await,
        3 => real_ride::prove(world).await,
        4 => consent_before_promotion::prove(world).await,
        5 => shared_workout::prove(world).await,
        6 => cut_edge::prove(world).await,
        7 => scaled_ingest::prove(world).await,
        8 => refused_policy::prove(world).await,
        9 => hub_lost::prove(world).await,
        10 => killed_parts::prove(world).await,
        11 => operations::plugin_asked::prove(world).await,
        12 => operations::leader_killed::prove(world).await,
        13 => operations::webhook_rotated::prove(world).await,
        14 => operations::kubeconfig_lost::prove(world).await,
        15 => operations::chart_upgraded::prove(world).await,
        16 => operations::hub_rebuilt::prove(world).await,
        17 => operations::smuggled_row::prove(world).await,
        WALK => walk::prove(world).await,
        _ => bail!("row {number} has no proof"),
    }
}

/// The namespace of the operator, in every cluster.
const OPERATORS: &str = "meridian-system";

/// Waits until every resource of these kinds on the hub is Ready; there must be some.
async fn ready(world: &World, kinds: &str, limit: Duration) -> Result<()> {
    until(limit, &format!("all {kinds} on the hub Ready"), || async {
        let told = world.hub.kubectl.run(&["get", kinds, "-o", "json"]).await?;
        let told: Value = serde_json::from_str(&told).with_context(|| format!("the {kinds}"))?;
        let objects = told["items"].as_array().context("a list")?;
        let waiting = objects.iter().find(|object| condition(object, "Ready") != "True");
        if let Some(object) = waiting {
            bail!("{} {} is not Ready", object["kind"], object["metadata"]["name"]);
        }
        Ok((!objects.is_empty()).then_some(()))
    })
    .await
}

/// The status of a condition of a custom resource; empty when it has none of this type.
fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == kind)
        .and_then(|condition| condition["status"].as_str())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_stage_and_once() {
        let mut staged: Vec<u8> = STAGES.iter().copied().flatten().copied().flatten().copied().collect();
        staged.sort_unstable();
        assert_eq!(staged, ALL.map(|row| row.number));
    }
}
