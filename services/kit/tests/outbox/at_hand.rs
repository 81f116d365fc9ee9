//! What was just committed is sent from memory, and only where the table says that it waits.

use meridian_kit::SubjectId;
use meridian_kit::db::{Scope, TenantTx};
use meridian_kit::event::Event;
use meridian_kit::outbox::{AtHand, append_all_keyed};
use meridian_kit::subject_keys::SubjectKey;
use meridian_kit::testing::{Database, Region};

use super::common::{NOTES, append, fenced, key, note_event};
use super::{empties, relay_telling};

/// A region whose relay is active: it has sent a first event.
struct Relayed {
    region: Region,
    database: Database,
    subject: SubjectKey,
    scope: Scope,
    at_hand: AtHand,
}

impl Relayed {
    async fn new() -> Self {
        let region = Region::new("eu", &["stride-eu"]).await;
        let database = region.database("training", NOTES).await;
        let (tell, told) = tokio::sync::oneshot::channel();
        let run = |start| relay_telling(start, |at_hand| tell.send(at_hand).unwrap());
        region.run("training", run).await;
        let scope = fenced(&database.pool()).await;
        let subject = key(SubjectId::random());
        append(&database.pool(), &scope, &note_event(&subject, 1)).await;
        region.events("notes.events", 1).await;
        let at_hand = told.await.unwrap();
        Self {
            region,
            database,
            subject,
            scope,
            at_hand,
        }
    }

    fn event(&self, sequence: u64) -> Event {
        note_event(&self.subject, sequence)
    }

    async fn begin(&self) -> TenantTx {
        TenantTx::begin(&self.database.pool(), &self.scope).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_which_some_are_at_hand_arrive_in_their_order() {
    let relayed = Relayed::new().await;
    let events: Vec<Event> = (2..=1201).map(|sequence| relayed.event(sequence)).collect();
    // In the order of one key, like the first.
    let one_key = relayed.subject.subject().to_string();
    for (batch, kept) in events.chunks(30).zip([true, true, false].into_iter().cycle()) {
        let mut tx = relayed.begin().await;
        let batch: Vec<&Event> = batch.iter().collect();
        let appended = append_all_keyed(&mut tx, "notes.events", &one_key, &batch)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        if kept {
            relayed.at_hand.keep(appended);
        }
    }
    assert_eq!(relayed.region.events("notes.events", 1201).await[1..], events);
}

/// What comes into the table is not what was appended, so that it shows which of both was sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_at_hand_is_sent_for_its_row_alone_and_not_read() {
    let relayed = Relayed::new().await;
    sqlx::raw_sql(
        "create function other() returns trigger language plpgsql as $$ begin new.event = 'read'; \
         if new.key = 'other' then new.event_id = gen_random_uuid(); end if; return new; end $$; \
         create trigger other before insert on outbox for each row execute function other()",
    )
    .execute(&relayed.database.superuser_pool())
    .await
    .unwrap();
    let (same, other) = (relayed.event(2), relayed.event(3));
    // Kept before the commit, which wakes the relay. It may have looked by itself just between both, but not each time.
    for (event, key, commits) in [(&same, "same", true), (&other, "other", true), (&other, "gone", false)]
        .into_iter()
        .cycle()
        .take(30)
    {
        let mut tx = relayed.begin().await;
        relayed
            .at_hand
            .keep(append_all_keyed(&mut tx, "notes.events", key, &[event]).await.unwrap());
        if commits {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
    }
    empties(&relayed.database.superuser_pool()).await;
    let records = relayed.region.records("notes.events", 21).await;
    let sent = |bytes: &[u8]| records.iter().filter(|record| *record == bytes).count();
    let (kept, read) = (sent(&same.to_bytes()), sent(b"read"));
    assert_eq!(kept + read, 20);
    assert!((1..=10).contains(&kept), "{kept} of 10 at hand were sent from there");
}
