//! Every place of a cluster where data can lie, read out whole and looked through.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, ensure};

use super::canary::{Found, Scanner};
use crate::node;
use crate::world::{Cluster, Site};

/// A kind of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sink {
    /// Every column of every table of every database.
    Tables,
    /// Every record in Kafka's log segments, also those that no consumer is given any more.
    Topics,
    /// Every file of every PersistentVolume.
    Volumes,
    /// What the containers logged, rotated files too, and kubelet's emptyDirs.
    Logs,
    /// Every object of the API server, as it answers.
    Objects,
    /// The files of etcd.
    Etcd,
}

/// What was found in each place, and how many bytes were looked at.
#[derive(Default)]
pub(super) struct Report {
    pub(super) found: BTreeMap<Sink, Found>,
    pub(super) bytes: usize,
}

impl Report {
    async fn add(&mut self, sink: Sink, bytes: Vec<u8>, scanner: &Arc<Scanner>, look: Look) -> Result<()> {
        self.bytes += bytes.len();
        let scanner = scanner.clone();
        // Other rows go on meanwhile.
        let seen = tokio::task::spawn_blocking(move || {
            let mut found = Found::new();
            look(&scanner, &bytes, &mut found);
            found
        });
        let found = self.found.entry(sink).or_default();
        for (canary, how) in seen.await? {
            found.entry(canary).or_default().extend(how);
        }
        Ok(())
    }
}

/// How a place's bytes are read.
type Look = fn(&Scanner, &[u8], &mut Found);

/// A region's cluster.
pub(super) async fn region(site: &Site, scanner: &Arc<Scanner>) -> Result<Report> {
    let mut report = Report::default();
    let namespace = site.namespace();
    let kubectl = &site.cluster.kubectl;
    let databases = "select datname from pg_database where datallowconn";
    let databases = site.query("postgres", databases).await?;
    for database in databases.lines() {
        let copies = site.query(database, COPIES).await?;
        // A partition is a table of its own in that list, and read twice; better twice than never.
        if !copies.is_empty() {
            let rows = kubectl.psql(&namespace, database, &copies).await?;
            report
                .add(Sink::Tables, rows.into_bytes(), scanner, Scanner::look_rows)
                .await?;
        }
    }
    let dump = kubectl
        .run(&["-n", &namespace, "exec", "kafka-0", "--", "sh", "-c", DUMP])
        .await?;
    ensure!(dump.contains("payload: "), "Kafka's log segments hold no record");
    report
        .add(Sink::Topics, dump.into_bytes(), scanner, Scanner::look_records)
        .await?;
    let volumes = node::archive(site.region, "/var/local-path-provisioner", ".").await?;
    report.add(Sink::Volumes, volumes, scanner, Scanner::look).await?;
    everywhere(&site.cluster, site.region, scanner, &mut report).await?;
    Ok(report)
}

/// The hub: it has no data plane, so only what every cluster has.
pub(super) async fn hub(cluster: &Cluster, scanner: &Arc<Scanner>) -> Result<Report> {
    let mut report = Report::default();
    let claims = cluster.kubectl.run(&["get", "persistentvolumes", "-o", "name"]).await?;
    ensure!(
        claims.trim().is_empty(),
        "the hub has volumes that nothing here reads: {claims}"
    );
    everywhere(cluster, "hub", scanner, &mut report).await?;
    Ok(report)
}

/// As COPY: a null is no empty text, bytes are hexadecimal, and a line is a row.
const COPIES: &str = "select format('copy (select * from %I.%I) to stdout;', table_schema, table_name) from information_schema.tables \
    where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')";

/// Prints every record of every segment, decompressed, whether or not it is still before the topic's start.
const DUMP: &str = "set -- /var/lib/kafka/data/*-[0-9]*/*.log; IFS=,; exec java -Xmx96m -XX:TieredStopAtLevel=1 -XX:-UsePerfData \
    -cp '/opt/kafka/libs/*' kafka.tools.DumpLogSegments --print-data-log --files \"$*\"";

async fn everywhere(cluster: &Cluster, name: &str, scanner: &Arc<Scanner>, report: &mut Report) -> Result<()> {
    let scratch = "$(cd / && find var/lib/kubelet/pods -type d -name 'kubernetes.io~empty-dir')";
    let mut logs = node::archive(name, "/", &format!("var/log/pods {scratch}")).await?;
    logs.extend(node::read(name, "find /var/log/pods -name '*.gz' -exec zcat {} +").await?);
    report.add(Sink::Logs, logs, scanner, Scanner::look).await?;
    let kinds = cluster
        .kubectl
        .run(&["api-resources", "--verbs=list", "-o", "name"])
        .await?;
    let kinds: Vec<&str> = kinds.lines().filter(|kind| *kind != "componentstatuses").collect();
    let objects = cluster
        .kubectl
        .run(&["get", &kinds.join(","), "-A", "-o", "json"])
        .await?;
    report
        .add(Sink::Objects, objects.into_bytes(), scanner, Scanner::look)
        .await?;
    let etcd = node::archive(name, "/var/lib/etcd", ".").await?;
    report.add(Sink::Etcd, etcd, scanner, Scanner::look).await
}
