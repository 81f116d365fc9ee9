//! Which deliveries are due, in which order they are taken, and by how many exporters.
#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::sync::Arc;
use std::time::Duration;

use meridian_kit::SubjectId;
use meridian_kit::db::{Pool, Scope, TenantTx, raise_fence};
use meridian_kit::event::{Draft, Event, EventSource};
use meridian_kit::kafka::Consumed;
use meridian_kit::subject_keys::{KeyScope, SubjectKey};
use meridian_kit::testing::Database;
use meridian_policy::{DataClass, EdgeId, Epoch};
use meridian_replicator::MIGRATIONS;
use meridian_replicator::domain::delivery::Waiting;
use meridian_replicator::store::exports;
use serde_json::json;
use sqlx::{AssertSqlSafe, Row as _};
use uuid::Uuid;
use zeroize::Zeroizing;

const HOLD: Duration = Duration::from_secs(60);

struct Exporter {
    database: Database,
    pool: Pool,
    scope: Scope,
    edge: EdgeId,
}

impl Exporter {
    async fn new() -> Self {
        let database = Database::create("replicator", MIGRATIONS).await;
        let pool = database.pool();
        let scope = Scope::new("stride-eu".parse().expect("a tenant"), Epoch(1));
        raise_fence(&pool, scope.tenant(), scope.epoch())
            .await
            .expect("the fence");
        Self {
            database,
            pool,
            scope,
            edge: "stride-eu.workout-summary.us".parse().expect("an edge"),
        }
    }

    async fn begin(&self) -> TenantTx {
        TenantTx::begin(&self.pool, &self.scope).await.expect("a transaction")
    }

    fn event(&self) -> Arc<Event> {
        let tenant = self.scope.tenant().clone();
        let subject = SubjectId(Uuid::new_v4());
        let key = SubjectKey::from_bytes(tenant, subject, KeyScope::Personal, Zeroizing::new([7; 32]));
        let draft = Draft {
            kind: "sh.meridian.workout.shared.v1",
            stream: "s".to_owned(),
            sequence: 1,
            class: DataClass::WorkoutSummary,
            epoch: self.scope.epoch(),
        };
        let source = EventSource::new("eu".parse().expect("a region"), "social");
        let event = Event::sealed(&source, draft, &key, &json!({"sport_type": "cycling"})).expect("an event");
        Arc::new(event)
    }

    /// Queues an event, `minutes` ago; with `waiting` it is tried again in an hour only.
    async fn queue(&self, minutes: i32, waiting: Option<Waiting>) -> Uuid {
        let event = self.event();
        let mut tx = self.begin().await;
        let (event, bytes) = (&event, &event.to_bytes());
        let queue = [(&self.edge, Consumed { event, bytes })];
        exports::queue(&mut tx, &queue).await.expect("queued");
        let queued = "update delivery set queued_at = now() - make_interval(mins => $2), waits_for = $3, \
                      next_attempt = case when $3 is null then now() else now() + interval '1 hour' end \
                      where source_event = $1";
        sqlx::query(queued)
            .bind(event.id)
            .bind(minutes)
            .bind(waiting.map(Waiting::as_str))
            .execute(tx.conn())
            .await
            .expect("it waits");
        tx.commit().await.expect("a commit");
        event.id
    }

    async fn due(&self, current: bool) -> Vec<EdgeId> {
        let mut tx = self.begin().await;
        exports::edges_due(&mut tx, current).await.expect("the edges")
    }

    /// Takes what is due, at most `limit`, in `tx`.
    async fn claim(&self, tx: &mut TenantTx, current: bool, limit: usize) -> Vec<Uuid> {
        let claimed = exports::claim(tx, &self.edge, current, limit, HOLD)
            .await
            .expect("claimed");
        let taken = exports::with_events(tx, claimed, |_| None).await.expect("deliveries");
        let mut taken: Vec<Uuid> = taken.into_iter().map(|delivery| delivery.event.id).collect();
        taken.sort();
        taken
    }
}

fn sorted<const N: usize>(mut events: [Uuid; N]) -> Vec<Uuid> {
    events.sort();
    events.to_vec()
}

#[tokio::test]
async fn what_waits_for_the_policy_alone_is_due_only_while_it_is_current() {
    let eu = Exporter::new().await;
    let stale = eu.queue(3, Some(Waiting::PolicyStale)).await;
    eu.queue(4, Some(Waiting::ConsentUnreachable)).await;
    assert_eq!(eu.due(false).await, []);
    assert_eq!(eu.due(true).await, std::slice::from_ref(&eu.edge));

    let mut tx = eu.begin().await;
    assert_eq!(eu.claim(&mut tx, false, 10).await, sorted([]));
    assert_eq!(eu.claim(&mut tx, true, 10).await, [stale]);
    tx.commit().await.expect("a commit");
    assert_eq!(eu.due(true).await, [], "it is taken");
}

#[tokio::test]
async fn the_oldest_are_taken_first_whatever_they_waited_for() {
    let eu = Exporter::new().await;
    let oldest = eu.queue(4, Some(Waiting::PolicyStale)).await;
    let older = eu.queue(3, None).await;
    let newer = eu.queue(2, Some(Waiting::PolicyStale)).await;
    let newest = eu.queue(1, None).await;
    let mut tx = eu.begin().await;
    let waiting = exports::waiting(&mut tx).await.expect("counts");
    assert_eq!(waiting.get(&eu.edge), Some(&4), "due or not");
    assert_eq!(eu.claim(&mut tx, true, 2).await, sorted([oldest, older]));
    assert_eq!(eu.claim(&mut tx, true, 3).await, sorted([newer, newest]));
}

#[tokio::test]
async fn an_event_is_the_same_from_memory_and_from_the_queue() {
    let eu = Exporter::new().await;
    let queued = [eu.queue(3, None).await, eu.queue(2, None).await];
    let mut tx = eu.begin().await;
    let claimed = exports::claim(&mut tx, &eu.edge, true, 10, HOLD)
        .await
        .expect("claimed");
    let from_rows = exports::with_events(&mut tx, claimed.clone(), |_| None)
        .await
        .expect("read");
    let first = &from_rows[0];
    let mixed = exports::with_events(&mut tx, claimed, |copy| {
        (copy == first.copy_id).then(|| Arc::clone(&first.event))
    })
    .await
    .expect("one is at hand, one is read");
    let told = |deliveries: &[exports::Delivery]| -> Vec<(Uuid, Event)> {
        let told = deliveries.iter().map(|one| (one.copy_id, Event::clone(&one.event)));
        told.collect()
    };
    assert_eq!(told(&mixed), told(&from_rows));
    assert_eq!(sorted([mixed[0].event.id, mixed[1].event.id]), sorted(queued));
    assert!(Arc::ptr_eq(&mixed[0].event, &first.event));
    assert!(!Arc::ptr_eq(&mixed[1].event, &from_rows[1].event));
}

#[tokio::test]
async fn an_event_that_is_queued_again_leaves_once_and_under_its_first_id() {
    let eu = Exporter::new().await;
    let event = eu.event();
    let mut tx = eu.begin().await;
    let (event, bytes) = (&event, &event.to_bytes());
    let queue = [(&eu.edge, Consumed { event, bytes })];
    let first = exports::queue(&mut tx, &queue).await.expect("queued");
    let again = exports::queue(&mut tx, &queue).await.expect("known");
    assert_ne!(first, again);
    let claimed = exports::claim(&mut tx, &eu.edge, true, 10, HOLD)
        .await
        .expect("claimed");
    let claimed: Vec<Uuid> = claimed.into_iter().map(|one| one.copy_id).collect();
    assert_eq!(claimed, first);
    assert_eq!(exports::end(&mut tx, &first).await.expect("ended"), 1);
    tx.commit().await.expect("a commit");
    assert_eq!(eu.due(true).await, [], "whatever is at hand, nothing is due");
}

#[tokio::test]
async fn no_delivery_is_taken_by_two_exporters() {
    let eu = Exporter::new().await;
    let first = eu.queue(3, Some(Waiting::PolicyStale)).await;
    let second = eu.queue(2, None).await;
    let (mut one, mut other) = (eu.begin().await, eu.begin().await);
    assert_eq!(eu.claim(&mut one, true, 10).await, sorted([first, second]));
    assert_eq!(eu.claim(&mut other, true, 10).await, sorted([]), "they are locked");
    one.commit().await.expect("a commit");
    assert_eq!(eu.claim(&mut other, true, 10).await, sorted([]), "they are held");
}

#[tokio::test]
async fn an_index_finds_what_waits_for_the_policy_however_much_else_waits() {
    let eu = Exporter::new().await;
    let mut tx = eu.begin().await;
    let fill = "insert into delivery (copy_id, edge, source_event, event, next_attempt, waits_for) \
                select gen_random_uuid(), $1, gen_random_uuid(), '', now() + interval '1 hour', \
                case when n % 1000 = 0 then $2 else $3 end from generate_series(1, 5000) n";
    sqlx::query(fill)
        .bind(eu.edge.as_str())
        .bind(Waiting::PolicyStale.as_str())
        .bind(Waiting::ConsentUnreachable.as_str())
        .execute(tx.conn())
        .await
        .expect("deliveries");
    tx.commit().await.expect("a commit");
    sqlx::query("analyze delivery")
        .execute(&eu.database.superuser_pool())
        .await
        .expect("statistics");

    let mut tx = eu.begin().await;
    // Without their parameters: so they are planned once they have been used a few times.
    sqlx::raw_sql("set local plan_cache_mode = force_generic_plan")
        .execute(tx.conn())
        .await
        .expect("a setting");
    for (name, statement, parameters) in [
        ("edges_due", exports::EDGES_DUE, "true"),
        ("claim", exports::CLAIM, "'stride-eu.workout-summary.us', 10, 60, true"),
    ] {
        let prepare = AssertSqlSafe(format!("prepare {name} as {statement}"));
        sqlx::raw_sql(prepare).execute(tx.conn()).await.expect("a statement");
        let explain = AssertSqlSafe(format!("explain execute {name} ({parameters})"));
        let plan = sqlx::raw_sql(explain).fetch_all(tx.conn()).await.expect("a plan");
        let lines: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        let plan = lines.join("\n");
        assert!(plan.contains("delivery_policy_stale"), "{plan}");
        assert!(!plan.contains("Seq Scan"), "{plan}");
    }
}
