//! A service's evidence in its database: appended with what it records, linked by one sealer at a time, signed, told.
#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::time::Duration;

use jiff::Timestamp;
use meridian_evidence::export::Writer;
use meridian_evidence::verify::Why;
use meridian_evidence::{ChainId, Checkpoint, Entry, Kind, Rejected, Verified, verify};
use meridian_kit::db::{Pool, Scope, TenantTx, raise_fence};
use meridian_kit::evidence::{Pace, Sealer, append, entry_of, export, of_tenant};
use meridian_kit::service::{self, Parts};
use meridian_kit::testing::{Database, Region, until};
use meridian_kit::{Start, StartError};
use meridian_policy::Epoch;

const PACE: Pace = Pace {
    look: Duration::from_millis(20),
    sign: Duration::from_millis(100),
    repeat: Duration::from_secs(600),
};

fn chain() -> ChainId {
    "eu/social".parse().expect("a chain")
}

async fn region() -> (Region, Database, Pool) {
    let region = Region::new("eu", &["stride-eu", "other-eu"]).await;
    let database = region.database("social", &[]).await;
    let pool = database.pool();
    for tenant in ["stride-eu", "other-eu"] {
        raise_fence(&pool, &tenant.parse().expect("a tenant"), Epoch(1))
            .await
            .expect("the fence");
    }
    (region, database, pool)
}

async fn sealing(start: Start) -> Result<(), StartError> {
    let sealers = [
        Sealer::paced(&start, PACE)?.recording_policy(),
        Sealer::paced(&start, PACE)?,
    ];
    let [one, other] = sealers;
    let parts = Parts::without_server()
        .background("one sealer", one.run())
        .background("another", other.run());
    service::serve(start, parts).await
}

async fn tx(pool: &Pool, tenant: &str) -> TenantTx {
    let scope = Scope::new(tenant.parse().expect("a tenant"), Epoch(1));
    TenantTx::begin(pool, &scope).await.expect("a transaction")
}

async fn record(pool: &Pool, tenant: &str, count: u64) {
    let mut tx = tx(pool, tenant).await;
    let entry = Entry {
        count: Some(count),
        ..entry_of(&tx, Kind::Transfer)
    };
    append(&mut tx, &entry).await.expect("appended");
    tx.commit().await.expect("a commit");
}

async fn exported(pool: &Pool) -> Vec<u8> {
    let mut writer = Writer::begin(Vec::new(), "eu", Timestamp::now()).expect("a first line");
    export(pool, &chain(), &mut writer).await.expect("the chain");
    writer.end().expect("a last line")
}

fn check(text: &[u8], kept: &[Checkpoint]) -> Result<(Verified, Vec<Entry>), Rejected> {
    let mut entries = Vec::new();
    let verified = verify(text, kept, |_, _, entry| entries.push(entry.clone()))?;
    Ok((verified, entries))
}

/// Waits until this many transfers are linked.
async fn linked(pool: &Pool, count: usize) -> (Verified, Vec<Entry>) {
    until(|| async {
        let (verified, entries) = check(&exported(pool).await, &[]).expect("at every moment it verifies");
        let transfers = entries.iter().filter(|entry| entry.kind == Kind::Transfer).count();
        (transfers == count).then_some((verified, entries))
    })
    .await
    .expect("all of them are linked")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_at_the_same_time_is_in_one_chain_once_and_what_was_not_is_not() {
    let (region, _database, pool) = region().await;
    region.run("social", sealing).await;
    let writers = (0..8_u64).map(|writer| {
        let pool = pool.clone();
        tokio::spawn(async move {
            for number in 0..25 {
                let tenant = if number % 2 == 0 { "stride-eu" } else { "other-eu" };
                record(&pool, tenant, writer * 25 + number).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("a writer");
    }
    let mut undone = tx(&pool, "stride-eu").await;
    let entry = entry_of(&undone, Kind::Transfer);
    append(&mut undone, &entry).await.expect("appended");
    undone.rollback().await.expect("undone");

    let (_, entries) = linked(&pool, 200).await;
    let mut counts: Vec<u64> = entries
        .iter()
        .filter(|entry| entry.kind == Kind::Transfer)
        .filter_map(|entry| entry.count)
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, (0..200).collect::<Vec<_>>());
    let of_policy = entries.iter().filter(|entry| entry.kind == Kind::PolicyChange).count();
    assert_eq!(of_policy, 1, "the policy is recorded once");

    let mut tx = tx(&pool, "other-eu").await;
    let own = of_tenant(&mut tx, 0, 1000).await.expect("its entries");
    assert_eq!(own.len(), 96, "a tenant sees its own");
    assert!(own.iter().all(|(_, entry)| entry.tenant.as_deref() == Some("other-eu")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_are_signed_and_told_and_show_later_that_the_chain_was_written_anew() {
    let (region, database, pool) = region().await;
    region.run("social", sealing).await;
    for count in 0..3 {
        record(&pool, "stride-eu", count).await;
    }
    linked(&pool, 3).await;
    let newest = || async { region.checkpoints().into_iter().rfind(|told| told.size > 3) };
    let kept = until(newest).await.expect("a checkpoint over them is told");
    let text = exported(&pool).await;
    let (verified, _) = check(&text, std::slice::from_ref(&kept)).expect("it verifies");
    assert!(verified.chains[0].signed >= kept.size && verified.chains[0].key == Some(kept.key));

    // The database is taken back to nothing, by who can do that, and another chain is written into it.
    region.stop("social").await;
    let superuser = database.superuser_pool();
    for statement in [
        "alter table evidence_chain disable trigger meridian_append_only",
        "delete from evidence_chain where seq > 1",
        "delete from evidence_checkpoint",
    ] {
        sqlx::query(statement).execute(&superuser).await.expect("the owner may");
    }
    region.run("social", sealing).await;
    for count in 7..17 {
        record(&pool, "stride-eu", count).await;
    }
    linked(&pool, 10).await;
    let text = exported(&pool).await;
    assert!(check(&text, &[]).is_ok(), "by itself it is a chain");
    let rejected = check(&text, &[kept]).expect_err("somebody has kept a checkpoint");
    assert!(matches!(rejected.why, Why::Disagrees { .. }), "{rejected}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_runs_the_service_can_neither_change_nor_remove_nor_slip_in_an_entry() {
    let (region, _database, pool) = region().await;
    region.run("social", sealing).await;
    record(&pool, "stride-eu", 1).await;
    linked(&pool, 1).await;
    let mut tx = tx(&pool, "stride-eu").await;
    for statement in [
        "update evidence_chain set rule = 'x'",
        "delete from evidence_chain",
        "truncate evidence_chain",
        "insert into evidence_chain (seq, kind, entry, hash) values (1000, 'transfer', '', '')",
    ] {
        sqlx::query("savepoint s")
            .execute(tx.conn())
            .await
            .expect("a savepoint");
        assert!(sqlx::query(statement).execute(tx.conn()).await.is_err(), "{statement}");
        sqlx::query("rollback to s").execute(tx.conn()).await.expect("back");
    }
    // Another tenant's waiting entry is not even seen.
    let others: i64 = sqlx::query_scalar("select count(*) from evidence_pending where tenant <> 'stride-eu'")
        .fetch_one(tx.conn())
        .await
        .expect("a count");
    assert_eq!(others, 0);
}
