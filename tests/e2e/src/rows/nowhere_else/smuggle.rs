//! Puts canaries in clear into each kind of place of a region, and takes them out again.

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meridian_telemetry::domain::chunk;
use meridian_telemetry::synthetic::fit::{self, Encoding};
use serde_json::json;

use super::PATIENCE;
use super::canary::{Canaries, degrees};
use crate::kafka::{tool, tool_with_input};
use crate::node;
use crate::world::{Site, until};

/// One name for everything that is put in.
const SCRATCH: &str = "scratch-canary";

/// Puts canaries into a table, a topic, a volume, an object and a log.
pub(super) async fn smuggle(site: &Site, decoy: &Canaries) -> Result<()> {
    let told = told(decoy);
    let (table, topic, volume, object, log) = tokio::join!(
        into_a_table(site, decoy),
        into_a_topic(site, decoy),
        onto_a_volume(site, decoy),
        into_an_object(site, &told),
        into_a_log(site, decoy, &told)
    );
    table.context("a table")?;
    topic.context("a topic")?;
    volume.context("a volume")?;
    object.context("an object")?;
    log.context("a log")
}

/// The ride packed as telemetry packs it, though unsealed.
async fn into_a_table(site: &Site, decoy: &Canaries) -> Result<()> {
    let packed = chunk::encode(&decoy.ride.samples)
        .ok()
        .context("the ride does not pack")?;
    let sql = format!(
        "create table scratch_canary (note text, track bytea); insert into scratch_canary values ('{}', '\\x{}')",
        decoy.text,
        hex::encode(packed)
    );
    site.query("postgres", &sql).await.map(drop)
}

/// Compressed by the producer, so that only decoding finds them.
async fn into_a_topic(site: &Site, decoy: &Canaries) -> Result<()> {
    let run = decoy.runs().into_iter().next().unwrap_or_default();
    let place = decoy.places().into_iter().next().context("the ride has no place")?;
    let records = format!(
        "{}\n{}\n{}\n",
        json!({ "bio": decoy.text }),
        json!({ "semicircles": [place.0, place.1] }),
        json!({ "data_base64": STANDARD.encode(run) })
    );
    let topic = "org.apache.kafka.tools.TopicCommand";
    tool(site, &[topic, "--create", "--topic", SCRATCH, "--partitions", "1"]).await?;
    let producer = "org.apache.kafka.tools.ConsoleProducer";
    let produce = [producer, "--topic", SCRATCH, "--compression-codec=zstd"];
    tool_with_input(site, &produce, Some(&records)).await.map(drop)
}

/// A file beside the keyring's own.
async fn onto_a_volume(site: &Site, decoy: &Canaries) -> Result<()> {
    let ride = fit::write(&decoy.ride.samples, Encoding::Plain);
    let file = [decoy.text.clone().into_bytes(), ride].concat();
    let command = format!("cat > \"$(ls -d /var/local-path-provisioner/*_data-keyring-0)/{SCRATCH}\"");
    node::write(site.region, &command, &file).await
}

async fn into_an_object(site: &Site, told: &str) -> Result<()> {
    let data = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": SCRATCH, "namespace": "default" },
        "data": { "told": told },
    });
    let applied = site.cluster.kubectl.apply(&data.to_string()).await?;
    ensure!(applied.accepted, "the ConfigMap: {}", applied.complaint);
    Ok(())
}

async fn into_a_log(site: &Site, decoy: &Canaries, told: &str) -> Result<()> {
    let kubectl = &site.cluster.kubectl;
    let namespace = site.namespace();
    let image = "jsonpath={.spec.containers[0].image}";
    let image = kubectl
        .run(&["-n", &namespace, "get", "pod", "kafka-0", "-o", image])
        .await?;
    let image = format!("--image={image}");
    let say = "echo \"$0\"; exec sleep 600";
    #[rustfmt::skip]
    let run = ["-n", "default", "run", SCRATCH, &image, "--image-pull-policy=Never", "--restart=Never",
        "--command", "--", "sh", "-c", say, told];
    kubectl.run(&run).await?;
    until(PATIENCE, "the canary in a pod's log", || async {
        let log = kubectl.run(&["-n", "default", "logs", SCRATCH]).await?;
        Ok(log.contains(&decoy.text).then_some(()))
    })
    .await
}

/// A line as a careless service would log it.
fn told(decoy: &Canaries) -> String {
    let (lat, lon) = decoy.places().into_iter().next().unwrap_or_default();
    let run = decoy.runs().into_iter().next().unwrap_or_default();
    let rates: Vec<String> = run.iter().map(u8::to_string).collect();
    format!(
        "bio={} at {},{} hr=[{}]",
        decoy.text,
        degrees(lat),
        degrees(lon),
        rates.join(",")
    )
}

/// Takes out everything that [`smuggle`] may have put in, also of an earlier run that broke off. PostgreSQL's WAL, Kafka's
/// deleted segments and etcd's history keep these invented bytes a little longer; the next run's canaries are others.
pub(super) async fn clean(site: &Site) -> Result<()> {
    let topic = "org.apache.kafka.tools.TopicCommand";
    let topic = [topic, "--delete", "--if-exists", "--topic", SCRATCH];
    let file = format!("rm -f /var/local-path-provisioner/*/{SCRATCH}");
    let (map, pod) = (format!("configmap/{SCRATCH}"), format!("pod/{SCRATCH}"));
    #[rustfmt::skip]
    let objects = ["-n", "default", "delete", &map, &pod, "--ignore-not-found", "--grace-period=1"];
    let (dropped, topic, file, objects) = tokio::join!(
        site.query("postgres", "drop table if exists scratch_canary"),
        tool(site, &topic),
        node::read(site.region, &file),
        site.cluster.kubectl.run(&objects)
    );
    dropped?;
    topic?;
    file?;
    objects?;
    Ok(())
}
