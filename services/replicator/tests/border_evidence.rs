//! What two replicators record about what crosses between them, held against what others know: the wire, the subject's
//! key, and whoever kept a checkpoint.
#![expect(clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use meridian_evidence::commitment::concerns;
use meridian_evidence::export::Writer;
use meridian_evidence::{Checkpoint, Entry, Kind, Verified, verify};
use meridian_kit::evidence::export;
use meridian_kit::subject_keys::{Create, Error, KeyScope};
use meridian_kit::testing::until;
use shared::{Side, World, edge, ride};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A region's export.
async fn exported(side: &Side) -> Vec<u8> {
    let chain = format!("{}/replicator", side.region.name());
    let mut writer = Writer::begin(Vec::new(), side.region.name(), Timestamp::now()).expect("a first line");
    export(&side.database.pool(), &chain.parse().expect("a chain"), &mut writer)
        .await
        .expect("the chain");
    writer.end().expect("a last line")
}

fn verified(text: &[u8], kept: &[Checkpoint]) -> (Verified, Vec<Entry>) {
    let mut entries = Vec::new();
    let verified = verify(text, kept, |_, _, entry| entries.push(entry.clone())).expect("it verifies");
    (verified, entries)
}

fn of_kind(entries: &[Entry], kind: Kind) -> Vec<&Entry> {
    entries.iter().filter(|entry| entry.kind == kind).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_evidence_is_a_chain_that_anyone_can_follow_and_holds_nothing_personal() {
    let world = World::new().await;
    let (athlete, other) = (world.eu.athlete(), world.eu.athlete());
    world.eu.share(&athlete, &ride()).await;
    world.eu.recorded("refusal", "consent:not-granted").await;
    world.eu.consent.grant();
    world.eu.share(&athlete, &ride()).await;
    let (copy, _) = world.us.sink.arrived(1).await.remove(0);
    world.eu.recorded("transfer", "").await;
    world.us.recorded("transfer", "").await;

    let kept = until(|| async { Some(world.eu.region.checkpoints()).filter(|kept| !kept.is_empty()) })
        .await
        .expect("a checkpoint is told");
    let text = exported(&world.eu).await;
    let (verified_chains, entries) = verified(&text, &kept);
    let chain = &verified_chains.chains[0];
    assert_eq!((chain.size, chain.key), (entries.len() as u64, Some(kept[0].key)));
    assert!(chain.checkpoints > 0);

    let (sent, refused) = (of_kind(&entries, Kind::Transfer), of_kind(&entries, Kind::Refusal));
    let lawful = (
        sent[0].mechanism.as_deref(),
        sent[0].instrument.as_deref(),
        sent[0].importer.as_deref(),
    );
    assert_eq!(
        lawful,
        (Some("Certification"), Some("eu-us-dpf"), Some("stride-america"))
    );
    assert_eq!((sent[0].count, refused[0].count), (Some(1), Some(1)));
    let changes = of_kind(&entries, Kind::PolicyChange);
    assert!(changes.iter().any(|entry| entry.rule.as_deref() == Some("opened")));
    assert!(
        changes
            .iter()
            .any(|entry| entry.rule.as_deref() == Some("policy-obeyed"))
    );
    let arrived = verified(&exported(&world.us).await, &[]).1;
    let arrived = of_kind(&arrived, Kind::Transfer);
    assert_eq!(arrived[0].digest, sent[0].digest, "both sides name the same batch");

    // Whoever holds the subject's key finds the entries; nobody else does, and nobody once it is destroyed.
    let keyring = world.eu.region.keyring("identity");
    let key = |who: &meridian_kit::testing::Athlete| {
        let (keyring, tenant, subject) = (keyring.clone(), who.tenant.clone(), who.subject);
        async move { keyring.key(&tenant, &subject, &KeyScope::Personal, Create::Yes).await }
    };
    let (salt, others) = (
        key(&athlete).await.expect("a key").evidence_salt(),
        key(&other).await.expect("a key").evidence_salt(),
    );
    for entry in [sent[0], refused[0]] {
        assert!(concerns(entry, &salt, athlete.subject.as_uuid()));
        assert!(!concerns(entry, &others, other.subject.as_uuid()));
    }
    keyring
        .destroy(&athlete.tenant, &athlete.subject, None)
        .await
        .expect("destroyed");
    assert!(
        matches!(key(&athlete).await, Err(Error::KeyDestroyed)),
        "the salt is gone"
    );

    for personal in [athlete.subject, copy.data_subject].map(|subject| subject.as_uuid()) {
        for entry in &entries {
            let bytes = entry.encode().expect("an entry");
            assert!(!bytes.windows(16).any(|window| window == personal.as_bytes()));
            assert!(!String::from_utf8_lossy(&bytes).contains(&personal.to_string()));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_was_changed_in_the_database_is_named() {
    let world = World::new().await;
    world.eu.consent.grant();
    world.eu.share(&world.eu.athlete(), &ride()).await;
    world.eu.recorded("transfer", "").await;
    let superuser = world.eu.database.superuser_pool();
    for statement in [
        "update evidence_chain set rule = 'x'",
        "delete from evidence_chain",
        "truncate evidence_chain",
    ] {
        for pool in [&superuser, &world.eu.database.pool()] {
            assert!(sqlx::query(statement).execute(pool).await.is_err(), "{statement}");
        }
    }
    // Who owns the table can take the trigger away. The chain still tells.
    let (seq, mut entry): (i64, Vec<u8>) =
        sqlx::query_as("select seq, entry from evidence_chain where kind = 'transfer' limit 1")
            .fetch_one(&superuser)
            .await
            .expect("the transfer");
    let last = entry.len() - 1;
    entry[last] ^= 1;
    for statement in [
        "alter table evidence_chain disable trigger meridian_append_only",
        "update evidence_chain set entry = $1 where seq = $2",
    ] {
        let query = sqlx::query(statement);
        let query = if statement.contains("$1") {
            query.bind(&entry).bind(seq)
        } else {
            query
        };
        query.execute(&superuser).await.expect("the owner may");
    }
    let error = verify(&exported(&world.eu).await[..], &[], |_, _, _| {}).expect_err("it was changed");
    assert_eq!(error.entry, u64::try_from(seq).ok());
}

/// Stands between eu and us, and counts what goes from one to the other on connections for copies: they offer no HTTP/2.
#[derive(Clone, Default)]
struct Wire {
    copies: Arc<AtomicU64>,
    cut: Arc<std::sync::atomic::AtomicBool>,
}

impl Wire {
    async fn between(&self, world: &World) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let target = world.us.region.url("replicator").replace("https://", "");
        let wire = self.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(wire.clone().carry(client, target.clone()));
            }
        });
        world.eu.region.change_policy(|policy| {
            policy.peers[0].replicator_url = format!("https://{address}");
        });
    }

    async fn carry(self, client: TcpStream, target: String) -> std::io::Result<()> {
        let (mut from, mut to) = client.into_split();
        let server = TcpStream::connect(target).await?;
        let (mut answers, mut requests) = server.into_split();
        let back = tokio::spawn(async move { tokio::io::copy(&mut answers, &mut to).await });
        let (mut buffer, mut first, mut is_copies) = (vec![0; 64 * 1024], true, false);
        loop {
            let read = from.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            if std::mem::take(&mut first) {
                is_copies = !buffer[..read].windows(3).any(|window| window == b"\x02h2");
            }
            if is_copies {
                self.copies.fetch_add(read as u64, Ordering::SeqCst);
                if self.cut.load(Ordering::SeqCst) && self.copies.load(Ordering::SeqCst) > 0 {
                    // Swallowed: it has left, and nobody answers.
                    continue;
                }
            }
            requests.write_all(&buffer[..read]).await?;
        }
        back.abort();
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bytes_in_evidence_are_those_on_the_wire_also_of_what_was_not_taken() {
    let world = World::without_edges().await;
    let wire = Wire::default();
    wire.between(&world).await;
    world.open(&edge(3600));
    world.eu.consent.grant();
    world.eu.share(&world.eu.athlete(), &ride()).await;
    world.us.sink.arrived(1).await;

    // Swallowed on its way: it has left all the same.
    wire.cut.store(true, Ordering::SeqCst);
    world.eu.share(&world.eu.athlete(), &ride()).await;
    world.eu.recorded("transfer", "not-taken").await;
    wire.cut.store(false, Ordering::SeqCst);
    world.us.sink.arrived(2).await;
    for _ in 0..5 {
        world.eu.share(&world.eu.athlete(), &ride()).await;
    }
    world.us.sink.arrived(7).await;

    let agree = || async {
        let waits = world.eu.count("delivery").await + world.eu.count("evidence_pending").await;
        let (_, entries) = verified(&exported(&world.eu).await, &[]);
        let transfers = of_kind(&entries, Kind::Transfer);
        let recorded: u64 = transfers.iter().filter_map(|entry| entry.bytes).sum();
        let taken: u64 = transfers.iter().filter_map(|entry| entry.count).sum();
        (waits == 0 && taken == 7).then_some(recorded)
    };
    let recorded = until(agree).await.expect("every copy is recorded");
    let counted = until(|| async { Some(wire.copies.load(Ordering::SeqCst)).filter(|count| *count >= recorded) }).await;
    let socket = world.eu.egress().await;
    assert_eq!((Some(recorded), recorded), (counted, socket), "evidence, wire, socket");
    assert!(recorded > 7 * 500, "{recorded}: bodies are in it");
}
