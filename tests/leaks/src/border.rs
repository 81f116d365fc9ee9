//! Two regions with their replicators: what crosses without a right to, what stays without one, what tells who it was.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use meridian_kit::client::{ClientError, ServiceClient};
use meridian_kit::db::{Scope, TenantTx};
use meridian_kit::event::{Carried, CarriedDraft, Draft, Event, EventSource, Imported};
use meridian_kit::kafka::{Consumed, Topic};
use meridian_kit::subject_keys::{Bulk, Create, KeyScope, SubjectKey};
use meridian_kit::testing::{Athlete, required, until};
use meridian_policy::{DataClass, EdgeId, Epoch, Rule};
use meridian_replicator::store::exports;
use meridian_replicator::wire::Form;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::message::Message as _;
use serde_json::{Value, json};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::consent;
use crate::database::{canary, contains};
use crate::shared::{EDGE, SHARED, Side, World, edge, edge_back};
use crate::table::{Leak, leak};

/// Until the canary has arrived as a copy, or the attempt has ended without one.
async fn arrives(importer: &Side, word: &str, ended: impl AsyncFn() -> bool) -> Leak {
    let came = until(|| async {
        let arrived = |(_, fields): &(Event, Value)| fields.to_string().contains(word);
        if importer.sink.copies().iter().any(arrived) {
            return Some(Leak::Seen);
        }
        ended().await.then_some(Leak::Held)
    });
    came.await.expect("it arrives, or its end is known")
}

fn ride(word: &str) -> Value {
    json!({"sport_type": word, "distance_meters": 1234.5, "start_day": "2026-03-04"})
}

/// An event of a side's social, sealed under its author's key.
async fn event(side: &Side, athlete: &Athlete, kind: &str, word: &str) -> Event {
    let keyring = side.region.keyring("social");
    let key = keyring.key(&athlete.tenant, &athlete.subject, &KeyScope::Personal, Create::Yes);
    let draft = Draft {
        kind,
        stream: Uuid::now_v7().to_string(),
        sequence: 1,
        class: DataClass::WorkoutSummary,
        epoch: athlete.epoch,
    };
    let source = EventSource::new(side.region.name().parse().expect("a region"), "social");
    Event::sealed(&source, draft, &key.await.expect("a key"), &ride(word)).expect("an event")
}

async fn send(side: &Side, topic: &str, event: &Event) {
    let producer = side.region.kafka("social").producer().expect("a producer");
    let key = event.data_subject.to_string();
    producer.send(topic, &key, &event.to_bytes()).await.expect("a send");
}

async fn refused(side: &Side) -> bool {
    side.evidence().await.iter().any(|entry| entry["kind"] == "refusal")
}

/// Whether a deliverer that has asked before, and does not ask again, starts after the withdrawal was acknowledged.
async fn starts_after_the_acknowledgement() -> bool {
    const MATTER: (&str, &str) = ("marketing", "promotion");
    let region = Arc::new(consent::region().await);
    let athlete = region.athlete("stride-eu");
    consent::change(&region, &athlete, "grant", MATTER).await;
    assert_eq!(consent::ask_permit(&region, &athlete, MATTER).await.0, 200);
    let (of, whose) = (Arc::clone(&region), athlete.clone());
    let withdrawal = tokio::spawn(async move {
        consent::change(&of, &whose, "withdraw", MATTER).await;
        Instant::now()
    });
    // The withdrawal is stored: from here on whoever asked anew would be refused.
    while consent::ask_permit(&region, &athlete, MATTER).await.0 == 200 {}
    let started = Instant::now();
    started > withdrawal.await.expect("an acknowledgement")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leak_withdrawal_in_flight() {
    const AT_DELIVERY: &str = "consent is asked at delivery";
    const WAITS: &str = "a withdrawal waits for open permits";
    leak("withdrawal in flight", &[AT_DELIVERY, WAITS], async |on| {
        if on.has(WAITS) {
            return Leak::by(starts_after_the_acknowledgement().await);
        }
        let (world, word) = (World::new().await, canary());
        world.eu.consent.grant();
        world.us.region.stop("replicator").await;
        world.eu.share(&world.eu.athlete(), &ride(&word)).await;
        until(|| async { (world.eu.count("delivery where attempts > 0").await == 1).then_some(()) })
            .await
            .expect("it is in flight");
        // The athlete withdraws. Where the answer of before is remembered, nobody hears of it.
        if on.has(AT_DELIVERY) {
            world.eu.consent.withdraw();
        }
        world.us.region.run("replicator", meridian_replicator::run).await;
        arrives(&world.us, &word, async || refused(&world.eu).await).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leak_onward_transfer() {
    const NOT_QUEUED: &str = "what came from elsewhere is not queued";
    const NOT_PREPARED: &str = "what came from elsewhere is not prepared";
    leak("onward transfer", &[NOT_QUEUED, NOT_PREPARED], async |on| {
        let (world, word) = (World::without_edges().await, canary());
        world.open(&edge_back(3600));
        world.us.consent.grant();
        let athlete = world.us.athlete();
        let mut event = event(&world.us, &athlete, SHARED, &word).await;
        if on.has(NOT_QUEUED) || on.has(NOT_PREPARED) {
            event = event.imported(Imported {
                origin: "ca".parse().expect("a region"),
                edge: "stride-ca.workout-summary.us".parse().expect("an edge"),
                expires: Timestamp::now() + SignedDuration::from_hours(1),
            });
        }
        if on.has(NOT_PREPARED) {
            let scope: Scope = athlete.scope();
            let mut tx = TenantTx::begin(&world.us.database.pool(), &scope)
                .await
                .expect("a transaction");
            let (event, bytes) = (&Arc::new(event.clone()), &event.to_bytes());
            exports::queue(&mut tx, &[(&edge_back(3600).id, Consumed { event, bytes })])
                .await
                .expect("queued by hand");
            tx.commit().await.expect("a commit");
        } else {
            send(&world.us, "social.events", &event).await;
        }
        let ended = async || {
            let ignored = world.us.count("inbox").await == 1 && world.us.count("delivery").await == 0;
            if on.has(NOT_QUEUED) {
                ignored
            } else {
                refused(&world.us).await
            }
        };
        arrives(&world.eu, &word, ended).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leak_importer_keeps_copies() {
    const LEASED: &str = "copies open under a leased key";
    const PURGED: &str = "a cut purges";
    leak("importer keeps copies", &[LEASED, PURGED], async |on| {
        let (world, word) = (World::new().await, canary());
        world.eu.consent.grant();
        world.eu.share(&world.eu.athlete(), &ride(&word)).await;
        let (copy, _) = world.us.sink.arrived(1).await.remove(0);
        let key = async || {
            let keyring = world.us.region.keyring("social");
            keyring
                .key(&copy.tenant, &copy.data_subject, &copy.key_scope, Create::No)
                .await
        };
        let taken_along = key().await.expect("it is leased");
        let opens = |key: &SubjectKey| {
            copy.open_with::<Value>(key)
                .is_ok_and(|fields| fields["sport_type"] == word.as_str())
        };
        assert!(opens(&taken_along), "it opens while the edge lives");

        if on.has(PURGED) {
            world.close(&edge(3600));
            world.us.recorded("purge", "").await;
            let rows = world.us.count("imported_event").await;
            return Leak::by(rows > 0 || !world.us.sink.copies().is_empty());
        }
        // An importer that purges nothing, and hears of no lease any more.
        world.us.region.stop("replicator").await;
        world.eu.region.stop("replicator").await;
        if on.has(LEASED) {
            let over = until(|| async { key().await.err() }).await;
            return Leak::by(over.is_none());
        }
        Leak::by(opens(&taken_along))
    })
    .await;
}

/// The test in the place of eu's replicator, which is away, and the key that it leases to us.
async fn rogue(world: &World, key: [u8; 32]) -> ServiceClient {
    world.eu.region.stop("replicator").await;
    let rogue = world.eu_at_us("replicator");
    let leased = until(|| async { lease(&rogue, key).await.ok() });
    leased.await.expect("the lease is taken");
    rogue
}

async fn lease(rogue: &ServiceClient, key: [u8; 32]) -> Result<(), ClientError> {
    let lease = json!({"edge": EDGE, "key": STANDARD.encode(key), "valid_for_ms": 15_000});
    rogue.post("/peer/v1/leases").json(&lease).send().await.map(drop)
}

/// A push of one copy that has as much of the original as its exporter likes.
fn careless_push(form: Form, original: &Event, key: [u8; 32], time: Timestamp, word: &str) -> Value {
    let tenant = "stride-us".parse().expect("a tenant");
    let edge: EdgeId = EDGE.parse().expect("an edge");
    let scope = KeyScope::Import(edge.clone());
    let key = SubjectKey::from_bytes(tenant, original.data_subject, scope, Zeroizing::new(key));
    let (fields, expires) = (
        json!({"sport_type": word}),
        Timestamp::now() + SignedDuration::from_secs(60),
    );
    if form == Form::Carried {
        let draft = CarriedDraft {
            id: original.id,
            kind: SHARED,
            time,
            class: DataClass::WorkoutSummary,
            expires,
        };
        let copy = Carried::sealed(draft, &key, &mut Bulk::of(1), &fields).expect("a copy");
        return json!({"edge": edge, "revision": 1, "tenant": key.tenant(), "events": [copy]});
    }
    let draft = Draft {
        kind: SHARED,
        stream: original.subject.clone(),
        sequence: 1,
        class: DataClass::WorkoutSummary,
        epoch: Epoch(1),
    };
    let source = EventSource::new("eu".parse().expect("a region"), "replicator");
    let copy = Event::sealed_at(&source, draft, original.id, time, &key, &fields).expect("an event");
    let copy = copy.imported(Imported {
        origin: "eu".parse().expect("a region"),
        edge: edge.clone(),
        expires,
    });
    json!({"edge": edge, "revision": 1, "events": [copy]})
}

/// By what a copy can be told to be this original.
fn links(original: &Event, copy: &Event) -> BTreeSet<&'static str> {
    let whole = String::from_utf8(copy.to_bytes()).expect("UTF-8");
    let has = |word: &str| whole.contains(word);
    let trace = original.traceparent.as_ref().is_some_and(|trace| has(trace));
    [
        ("event id", has(&original.id.to_string())),
        ("stream", has(&original.subject)),
        ("subject", has(&original.data_subject.to_string())),
        ("trace", trace || copy.traceparent.is_some()),
        ("time", copy.time == original.time),
        ("sealed bytes", copy.sealed_payload() == original.sealed_payload()),
    ]
    .into_iter()
    .filter_map(|(link, linked)| linked.then_some(link))
    .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leak_linkage_of_pseudonyms() {
    const MINTED: &str = "the exporter mints anew";
    const COARSE: &str = "the importer takes no fine time";
    leak("linkage of pseudonyms", &[MINTED, COARSE], async |on| {
        let (world, word) = (World::new().await, canary());
        world.eu.consent.grant();
        let athlete = world.eu.athlete();
        if on.has(MINTED) {
            let original = world.eu.share(&athlete, &ride(&word)).await;
            let (copy, _) = world.us.sink.arrived(1).await.remove(0);
            return Leak::by(!links(&original, &copy).is_empty());
        }
        let key = [5; 32];
        let rogue = rogue(&world, key).await;
        let midnight = Timestamp::from_second(86_400 * 20_000).expect("a time");
        let (mut taken, mut linked) = (0, 0);
        for form in [Form::Whole, Form::Carried] {
            let original = event(&world.eu, &athlete, SHARED, &word).await;
            let time = if on.has(COARSE) { original.time } else { midnight };
            let batch = careless_push(form, &original, key, time, &word);
            // The test may have waited for longer than a lease lasts.
            lease(&rogue, key).await.expect("the lease is taken");
            match rogue.post(form.path()).json(&batch).send().await {
                Ok(_) => {}
                Err(ClientError::Refused { code: Some(code), .. }) if code == Rule::FieldNotAllowed.as_str() => {
                    continue;
                }
                Err(error) => panic!("{form:?}: {error}"),
            }
            taken += 1;
            let arrived = world.us.sink.arrived(taken).await;
            let copy = arrived.iter().find(|(copy, _)| copy.id == original.id);
            let (copy, _) = copy.expect("a copy has the id that it was sent with");
            linked += usize::from(!links(&original, copy).is_empty());
        }
        assert_ne!(taken, 1, "either form lets in the same");
        assert_eq!(linked, taken, "what is let in has the id that it was sent with");
        Leak::by(linked > 0 || world.us.count("imported_event").await > 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leak_regex_topic_drift() {
    const BY_NAME: &str = "topics are named one by one";
    const LISTED: &str = "types and fields are listed";
    leak("regex topic drift", &[BY_NAME, LISTED], async |on| {
        let (world, word) = (World::new().await, canary());
        world.eu.consent.grant();
        let athlete = world.eu.athlete();
        let late = "social.events-late";
        let kind = if on.has(LISTED) {
            "sh.meridian.heartrate.shared.v1"
        } else {
            SHARED
        };
        let drifting = event(&world.eu, &athlete, kind, &word).await;
        if on.has(LISTED) {
            send(&world.eu, "social.events", &drifting).await;
        } else {
            let kafka = world.eu.region.kafka("social");
            kafka.ensure_topics(&[Topic::events(late)]).await.expect("the topic");
            send(&world.eu, late, &drifting).await;
        }
        if on.has(BY_NAME) || on.has(LISTED) {
            // What is shared after it has arrived: whatever was read before it is delivered or ignored by then.
            let mark = canary();
            world.eu.share(&athlete, &ride(&mark)).await;
            world.us.sink.arrived(1).await;
            let only = world
                .us
                .sink
                .copies()
                .iter()
                .all(|(_, fields)| fields["sport_type"] == mark.as_str());
            return Leak::by(!only || world.eu.count("delivery").await > 0);
        }
        // A reader by a pattern, as a mirror of topics is configured.
        let pattern = format!(
            "^{}.*",
            world
                .eu
                .region
                .kafka("social")
                .topic_name("social.events")
                .replace('.', "[.]")
        );
        let consumer: StreamConsumer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", required("MERIDIAN_TEST_KAFKA"))
            .set("group.id", format!("leak-{}", Uuid::new_v4()))
            .set("auto.offset.reset", "earliest")
            .create()
            .expect("a consumer");
        consumer.subscribe(&[&pattern]).expect("a subscription");
        let read = async {
            loop {
                if let Ok(record) = consumer.recv().await
                    && record.topic().ends_with(late)
                {
                    return contains(record.payload().unwrap_or_default(), &drifting.id.to_string());
                }
            }
        };
        Leak::by(
            tokio::time::timeout(std::time::Duration::from_secs(60), read)
                .await
                .unwrap_or(false),
        )
    })
    .await;
}
