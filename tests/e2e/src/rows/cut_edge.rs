//! Row 6: the compliance officer removes the edge. The next delivery stops; us's copies vanish from feed, tables and topic
//! and both sides acknowledge it. Then the edge is put back, and what is shared from then on arrives, the old copies not.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize as _;
use serde_json::Value;

use crate::athlete::Athlete;
use crate::kafka::tool;
use crate::rows::Outcome;
use crate::rows::shared_workout::{EDGE, arrival, copies, edge_is_open, imported, reader_and_sharer, share};
use crate::world::{Site, World, until};

pub(super) const LAWFUL: &str = include_str!("../../../../regions/local/40-tenants.yaml");
const CUT: Duration = Duration::from_secs(120);

pub async fn prove(world: &World) -> Result<Outcome> {
    let (reader, athlete) = reader_and_sharer(world).await?;
    let (stored, shown) = copies(&world.us).await?;
    ensure!(
        stored > 0 && shown > 0,
        "there is nothing to purge: {stored} stored, {shown} in social"
    );
    let records = records(&world.us).await?;
    ensure!(records > 0, "imports.events holds no record of what arrived");

    let removed = without_edge(world, &reader, &athlete).await;
    // Whatever was seen, the demo is put back as it was.
    let restored = world.hub.kubectl.apply(LAWFUL).await?;
    let purged = removed?;
    ensure!(restored.accepted, "the edge was not put back: {}", restored.complaint);
    edge_is_open(world).await?;
    let none = imported(&world.us, &reader).await?;
    ensure!(none.is_empty(), "{} old copies came back with the edge", none.len());
    share(&world.eu, &athlete).await?;
    arrival(&world.us, &reader, &[]).await?;
    let (stored_again, shown_again) = copies(&world.us).await?;
    ensure!(
        (stored_again, shown_again) == (1, 1),
        "one workout shared since makes {stored_again} and {shown_again} copies"
    );
    Ok(Outcome::Proved(format!(
        "{stored} copies at the replicator, {shown} in social, {records} records readable in imports.events: none left, {purged} acknowledged by both sides; what was shared meanwhile stayed; the edge put back, the next one arrives"
    )))
}

/// Removes the edge and follows the cut to its end. Gives how many copies the importer acknowledged.
async fn without_edge(world: &World, reader: &Athlete, athlete: &Athlete) -> Result<u64> {
    // Each region counts its own revisions.
    let (at_eu, at_us) = (revision(&world.eu).await?, revision(&world.us).await?);
    let answer = world.hub.kubectl.apply(&tenant_without_edges()?).await?;
    ensure!(answer.accepted, "the edge's removal was refused: {}", answer.complaint);

    acknowledged(&world.eu, "exporter", at_eu).await?;
    // From here on no delivery starts, also not of what is shared now.
    share(&world.eu, athlete).await?;
    consumed(&world.eu).await?;
    let queued = format!("select count(*) from delivery where edge = '{EDGE}'");
    let queue = world.eu.count("replicator", &queued).await?;
    ensure!(queue == 0, "{queue} deliveries wait for a cut edge");

    let ack = acknowledged(&world.us, "importer", at_us).await?;
    let sinks: Vec<&str> = ack["sinks"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    ensure!(
        ["replicator", "social"].iter().all(|sink| sinks.contains(sink)),
        "acknowledged by {sinks:?} only"
    );
    let (stored, shown) = copies(&world.us).await?;
    ensure!(
        (stored, shown) == (0, 0),
        "after the acknowledgement {stored} copies are stored, {shown} are in social"
    );
    let items = imported(&world.us, reader).await?;
    ensure!(
        items.is_empty(),
        "after the acknowledgement {} items of eu are in the feed",
        items.len()
    );
    let records = records(&world.us).await?;
    ensure!(
        records == 0,
        "after the acknowledgement imports.events holds {records} records"
    );
    let purged = ack["purged"]
        .as_u64()
        .context("the acknowledgement counts what was purged")?;
    // The exporter acknowledged the stop at first; now it acknowledges the purge that it was told of.
    until(CUT, "eu's acknowledgement of us's purge", || async {
        let told = acknowledged(&world.eu, "exporter", at_eu).await?;
        Ok((told["sinks"] == ack["sinks"] && told["purged"] == purged).then_some(()))
    })
    .await?;
    Ok(purged)
}

/// The tenant's policy without what may leave.
pub(super) fn tenant_without_edges() -> Result<String> {
    for document in serde_yaml::Deserializer::from_str(LAWFUL) {
        let mut tenant = Value::deserialize(document).context("regions/local/40-tenants.yaml")?;
        if tenant["metadata"]["name"] == "stride-eu" {
            tenant["spec"]
                .as_object_mut()
                .context("a tenant has a spec")?
                .remove("classes");
            return Ok(tenant.to_string());
        }
    }
    bail!("regions/local/40-tenants.yaml has no stride-eu")
}

async fn stack(site: &Site) -> Result<Value> {
    let stack = site
        .cluster
        .kubectl
        .run(&["get", "rstack", site.region, "-o", "json"])
        .await?;
    serde_json::from_str(&stack).context("the RegionStack")
}

/// The revision of a region's policy: each region counts its own.
pub(super) async fn revision(site: &Site) -> Result<u64> {
    stack(site).await?["spec"]["revision"]
        .as_u64()
        .context("a RegionStack has a revision")
}

/// Waits for the acknowledgement of this cut, not of an earlier one, in the RegionStack's status.
pub(super) async fn acknowledged(site: &Site, role: &str, after: u64) -> Result<Value> {
    until(CUT, &format!("{}'s acknowledgement as {role}", site.region), || async {
        let stack = stack(site).await?;
        let acks = stack["status"]["acks"].as_array().cloned().unwrap_or_default();
        let ack = acks.into_iter().find(|ack| ack["edge"] == EDGE && ack["role"] == role);
        Ok(ack.filter(|ack| ack["revision"].as_u64().is_some_and(|revision| revision > after)))
    })
    .await
}

/// Records of imports.events that anybody could still read.
async fn records(site: &Site) -> Result<u64> {
    let total = async |time: &str| -> Result<u64> {
        let told = tool(
            site,
            &[
                "org.apache.kafka.tools.GetOffsetShell",
                "--topic",
                "imports.events",
                "--time",
                time,
            ],
        )
        .await?;
        let offsets: Option<Vec<u64>> = told
            .lines()
            .map(|line| line.rsplit(':').next()?.trim().parse().ok())
            .collect();
        offsets
            .filter(|offsets| !offsets.is_empty())
            .map(|offsets| offsets.iter().sum())
            .with_context(|| format!("Kafka says {told:?}"))
    };
    Ok(total("latest").await?.saturating_sub(total("earliest").await?))
}

/// Waits until what social told has left its outbox and the replicator has looked at all of it.
pub(super) async fn consumed(site: &Site) -> Result<()> {
    until(CUT, "the replicator past everything that was shared", || async {
        let waiting = site.count("social", "select count(*) from outbox").await?;
        if waiting != 0 {
            bail!("{waiting} events are in social's outbox");
        }
        let group = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
        let told = tool(site, &[group, "--describe", "--group", "replicator"]).await?;
        // GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET …; no offset is "-".
        let lines = told.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let topic: Vec<_> = lines
            .filter(|words| words.len() > 4 && words[1] == "social.events")
            .collect();
        let past = !topic.is_empty() && topic.iter().all(|words| words[4] == "0" || words[3] == words[4]);
        Ok(past.then_some(()))
    })
    .await
}
