//! What an importer refuses, whatever a peer's replicator may have been turned into; and what is kept about it.
#![expect(clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod shared;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use meridian_kit::SubjectId;
use meridian_kit::client::{ClientError, ServiceClient};
use meridian_kit::event::{Draft, Event, EventSource, Imported};
use meridian_kit::policy_feed::AckRole;
use meridian_kit::subject_keys::{KeyScope, SubjectKey};
use meridian_kit::testing::{Database, catalogue, until};
use meridian_policy::{DataClass, Epoch};
use meridian_replicator::domain::admission::LARGEST_BATCH;
use meridian_replicator::importer::{PURGED, Purged};
use meridian_replicator::wire::Form;
use serde_json::{Value, json};
use shared::{EDGE, SHARED, World, edge};
use uuid::Uuid;
use zeroize::Zeroizing;

const KEY: [u8; 32] = [5; 32];

/// A world in which the test is eu's replicator: it leases a key of its own.
async fn world_with_a_rogue() -> (World, ServiceClient) {
    let world = World::without_edges().await;
    world.eu.region.stop("replicator").await;
    world.open(&edge(3600));
    let rogue = world.eu_at_us("replicator");
    let lease = json!({"edge": EDGE, "key": STANDARD.encode(KEY), "valid_for_ms": 10_000});
    let leased = until(|| async { rogue.post("/peer/v1/leases").json(&lease).send().await.ok() });
    leased.await.expect("the policy arrives, and the lease is taken");
    (world, rogue)
}

struct Forged {
    tenant: &'static str,
    class: DataClass,
    payload: Value,
    origin: &'static str,
    edge: &'static str,
    expires_in: i64,
    hours: i64,
    key: [u8; 32],
}

impl Default for Forged {
    fn default() -> Self {
        let payload = json!({"sport_type": "cycling"});
        let class = DataClass::WorkoutSummary;
        Self {
            tenant: "stride-us",
            class,
            payload,
            origin: "eu",
            edge: EDGE,
            expires_in: 60,
            hours: 0,
            key: KEY,
        }
    }
}

impl Forged {
    fn event(&self) -> Event {
        let edge: meridian_policy::EdgeId = self.edge.parse().expect("an edge");
        let tenant = self.tenant.parse().expect("a tenant");
        let scope = KeyScope::Import(EDGE.parse().expect("an edge"));
        let key = SubjectKey::from_bytes(tenant, SubjectId(Uuid::new_v4()), scope, Zeroizing::new(self.key));
        let draft = Draft {
            kind: SHARED,
            stream: "s".to_owned(),
            sequence: 1,
            class: self.class,
            epoch: Epoch(1),
        };
        let source = EventSource::new("eu".parse().expect("a region"), "replicator");
        let time = Timestamp::from_second(86_400 * 20_000 + 3600 * self.hours).expect("a time");
        let event = Event::sealed_at(&source, draft, Uuid::new_v4(), time, &key, &self.payload).expect("an event");
        let expires = Timestamp::now() + jiff::SignedDuration::from_secs(self.expires_in);
        event.imported(Imported {
            origin: self.origin.parse().expect("a region"),
            edge,
            expires,
        })
    }
}

/// What of an event is its own, as it is carried.
fn carried(event: &Event) -> Value {
    let mut event = serde_json::to_value(event).expect("JSON");
    let own = [
        "id",
        "type",
        "time",
        "dataclass",
        "datasubject",
        "expires",
        "data_base64",
    ];
    event
        .as_object_mut()
        .expect("an object")
        .retain(|name, _| own.contains(&name.as_str()));
    event
}

async fn push(rogue: &ServiceClient, form: Form, events: &[Event]) -> Result<Value, String> {
    let batch = match form {
        Form::Whole => json!({"edge": EDGE, "revision": 1, "events": events}),
        Form::Carried => {
            let events: Vec<Value> = events.iter().map(carried).collect();
            json!({"edge": EDGE, "revision": 1, "tenant": "stride-us", "events": events})
        }
    };
    push_as_it_is(rogue, form, &batch).await
}

async fn push_as_it_is(rogue: &ServiceClient, form: Form, batch: &Value) -> Result<Value, String> {
    match rogue.post(form.path()).json(batch).fetch::<Value>().await {
        Ok(answer) => Ok(answer),
        Err(ClientError::Refused { code: Some(code), .. }) => Err(code),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_with_anything_that_is_not_the_edges_is_refused_as_a_whole() {
    let (world, rogue) = world_with_a_rogue().await;
    let base = Forged::default;
    let table = [
        (
            "a field more",
            Forged {
                payload: json!({"sport_type": "x", "title": "t"}),
                ..base()
            },
            "field-not-allowed",
        ),
        (
            "something hidden",
            Forged {
                payload: json!({"sport_type": {"lat": 1}}),
                ..base()
            },
            "copy-unreadable",
        ),
        (
            "another class",
            Forged {
                class: DataClass::Health,
                ..base()
            },
            "class-not-listed",
        ),
        (
            "another tenant",
            Forged {
                tenant: "stride-eu",
                ..base()
            },
            "origin-not-proved",
        ),
        ("another origin", Forged { origin: "ca", ..base() }, "origin-not-proved"),
        (
            "another edge",
            Forged {
                edge: "stride-eu.health.us",
                ..base()
            },
            "origin-not-proved",
        ),
        (
            "outliving the edge",
            Forged {
                expires_in: 7200,
                ..base()
            },
            "mechanism-expired",
        ),
        (
            "expired",
            Forged {
                expires_in: -1,
                ..base()
            },
            "mechanism-expired",
        ),
        ("a fine time", Forged { hours: 7, ..base() }, "field-not-allowed"),
        ("another key", Forged { key: [6; 32], ..base() }, "copy-unreadable"),
    ];
    for (case, forged, code) in table {
        let batch = [base().event(), forged.event()];
        assert_eq!(push(&rogue, Form::Whole, &batch).await, Err(code.to_owned()), "{case}");
        // What is not said of what is carried is not claimed falsely either.
        if code != "origin-not-proved" {
            let refused = push(&rogue, Form::Carried, &batch).await;
            assert_eq!(refused, Err(code.to_owned()), "{case}");
        }
    }
    assert_eq!(
        (world.us.count("imported_event").await, world.us.count("outbox").await),
        (0, 0)
    );
    let refusals = || async {
        let evidence = world.us.evidence().await;
        let refusals = evidence.iter().filter(|entry| entry["kind"] == "refusal").count();
        (refusals == 8 + 5).then_some(())
    };
    until(refusals).await.expect("each that named a rule is recorded");
    for form in [Form::Whole, Form::Carried] {
        let taken = push(&rogue, form, &[base().event()]).await;
        assert_eq!(taken, Ok(json!({"stored": 1, "repeated": 0})), "the honest batch");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_the_edges_is_not_to_be_said_of_what_is_carried() {
    let (world, rogue) = world_with_a_rogue().await;
    let batch = |tenant: &str, copy: &Value| json!({"edge": EDGE, "revision": 1, "tenant": tenant, "events": [copy]});
    let copy = carried(&Forged::default().event());
    for (attribute, value) in [
        ("origin", "eu"),
        ("edge", EDGE),
        ("tenant", "stride-us"),
        ("source", "/regions/eu/x"),
    ] {
        let mut more = copy.clone();
        more[attribute] = value.into();
        let refused = push_as_it_is(&rogue, Form::Carried, &batch("stride-us", &more)).await;
        assert_eq!(refused, Err("invalid-field".to_owned()), "{attribute}");
    }
    // The exporter's policy has another tenant for the edge than ours: whichever is older, that may pass.
    let other = rogue
        .post(Form::Carried.path())
        .json(&batch("stride-eu", &copy))
        .send()
        .await;
    let Err(ClientError::Refused { status, code, .. }) = other else {
        panic!("taken: {other:?}");
    };
    assert_eq!((status.as_u16(), code.as_deref()), (503, Some("policies-differ")));
    assert_eq!(world.us.count("imported_event").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_copies_than_may_come_at_once_are_refused_and_counted() {
    let (world, rogue) = world_with_a_rogue().await;
    let events: Vec<Event> = (0..=LARGEST_BATCH + 1).map(|_| Forged::default().event()).collect();
    assert_eq!(push(&rogue, Form::Carried, &events).await, Err("batch-size".to_owned()));
    let refusal = world.us.recorded("refusal", "batch-size").await;
    assert_eq!(refusal["count"], json!(events.len()));
    assert_eq!(world.us.count("imported_event").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_push_is_stored_once() {
    let (world, rogue) = world_with_a_rogue().await;
    let batch = [Forged::default().event(), Forged::default().event()];
    let push = |form, events| push(&rogue, form, events);
    assert_eq!(push(Form::Whole, &batch).await, Ok(json!({"stored": 2, "repeated": 0})));
    assert_eq!(push(Form::Whole, &batch).await, Ok(json!({"stored": 0, "repeated": 2})));
    // Its exporter was upgraded meanwhile.
    assert_eq!(
        push(Form::Carried, &batch).await,
        Ok(json!({"stored": 0, "repeated": 2}))
    );
    let other = Forged::default().event();
    let twice = [batch[0].clone(), other.clone(), other.clone()];
    assert_eq!(
        push(Form::Carried, &twice).await,
        Ok(json!({"stored": 1, "repeated": 2}))
    );
    let last = Forged::default().event();
    assert_eq!(
        push(Form::Whole, std::slice::from_ref(&last)).await,
        Ok(json!({"stored": 1, "repeated": 0}))
    );
    assert_eq!(world.us.count("imported_event").await, 4);
    let told = world.us.region.events("imports.events", 4).await;
    let told: Vec<Uuid> = told.iter().map(|event| event.id).collect();
    assert_eq!(told, [&batch[0], &batch[1], &other, &last].map(|event| event.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_the_importers_policy_lacks_lets_nothing_in() {
    let (world, rogue) = world_with_a_rogue().await;
    world.us.region.change_policy(|policy| policy.imports.clear());
    let refused = || async {
        (push(&rogue, Form::Carried, &[Forged::default().event()]).await == Err("no-edge".to_owned())).then_some(())
    };
    until(refused).await.expect("refused once the policy has arrived");
    assert_eq!(world.us.count("imported_event").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_purged_cannot_be_leased_again() {
    let (world, rogue) = world_with_a_rogue().await;
    push(&rogue, Form::Carried, &[Forged::default().event()])
        .await
        .expect("stored");
    world.us.sink.arrived(1).await;
    let cut = json!({"edge": EDGE, "revision": 2, "rule": "no-edge"});
    let purged = || async {
        let purge: Value = rogue.post("/peer/v1/cuts").json(&cut).fetch().await.expect("a purge");
        (purge["complete"] == true).then_some(purge)
    };
    let purge = until(purged).await.expect("a purge that ends");
    assert_eq!(
        purge,
        json!({"complete": true, "purged": 2, "sinks": ["replicator", "social"]})
    );

    let lease = json!({"edge": EDGE, "key": STANDARD.encode(KEY), "valid_for_ms": 10_000});
    let refused = rogue
        .post("/peer/v1/leases")
        .json(&lease)
        .send()
        .await
        .expect_err("refused");
    assert!(matches!(refused, ClientError::Refused { code: Some(code), .. } if code == "key-retired"));
    assert_eq!(world.us.count("import_edge where state = 'open'").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_peers_replicator_speaks_here_and_only_of_its_own_edges() {
    let (world, _) = world_with_a_rogue().await;
    let lease = json!({"edge": EDGE, "key": STANDARD.encode([9; 32]), "valid_for_ms": 10_000});
    // Another service of the peer, and our own replicator.
    let social = world
        .eu_at_us("social")
        .post("/peer/v1/leases")
        .json(&lease)
        .send()
        .await
        .expect_err("refused");
    assert_eq!(social.status().map(|status| status.as_u16()), Some(403));
    let own = world
        .us
        .region
        .client("replicator", "replicator")
        .post("/peer/v1/leases")
        .json(&lease);
    assert_eq!(own.send().await.expect("an answer").status(), 403);
    // An edge that comes from elsewhere.
    let mut foreign = edge(3600);
    foreign.id = "stride-ca.workout-summary.us".parse().expect("an edge");
    foreign.from = "ca".parse().expect("a region");
    world.us.region.change_policy(|policy| policy.imports.push(foreign));
    let lease =
        json!({"edge": "stride-ca.workout-summary.us", "key": STANDARD.encode([9; 32]), "valid_for_ms": 10_000});
    let refused = || async {
        let error = world
            .eu_at_us("replicator")
            .post("/peer/v1/leases")
            .json(&lease)
            .send()
            .await
            .expect_err("refused");
        matches!(error, ClientError::Refused { code: Some(code), .. } if code == "origin-not-proved").then_some(())
    };
    until(refused)
        .await
        .expect("the policy arrives, and the sender is not the origin");
    // Peers reach nothing internal.
    let evidence = world
        .eu_at_us("replicator")
        .get("/internal/evidence?tenant=stride-us")
        .send()
        .await;
    assert_eq!(
        evidence.expect_err("refused").status().map(|status| status.as_u16()),
        Some(403)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_shared_is_in_clear_in_no_table_on_either_side() {
    let world = World::new().await;
    world.eu.consent.grant();
    let sport = format!("s-{}", Uuid::new_v4().simple());
    let athlete = world.eu.athlete();
    world
        .eu
        .share(&athlete, &json!({"sport_type": sport, "distance_meters": 1234.5}))
        .await;
    assert_eq!(world.us.sink.arrived(1).await[0].1["sport_type"], json!(sport));
    for side in [&world.eu, &world.us] {
        let pool = side.database.superuser_pool();
        for table in [
            "delivery",
            "imported_event",
            "outbox",
            "evidence_chain",
            "evidence_pending",
            "export_edge",
            "import_edge",
            "inbox",
        ] {
            let query = sqlx::AssertSqlSafe(format!(
                "select coalesce(string_agg(to_jsonb(t)::text, ' '), '') from {table} t"
            ));
            let text: String = sqlx::query_scalar(query).fetch_one(&pool).await.expect("the rows");
            let hexed = hex::encode(&sport);
            assert!(
                !text.contains(&sport) && !text.contains(&hexed),
                "{table} of {}",
                side.tenant
            );
            let subject = athlete.subject.to_string();
            assert!(
                side.tenant == "stride-eu" || !text.contains(&subject),
                "{table} of us names the subject"
            );
        }
    }
}

#[tokio::test]
async fn every_table_is_under_guard() {
    let database = Database::create("replicator", meridian_replicator::MIGRATIONS).await;
    // The fence itself, which every tenant's transaction reads, and the list of applied migrations.
    assert_eq!(database.unguarded_tables().await, ["_sqlx_migrations", "tenant_fence"]);
}

#[tokio::test]
async fn catalogue_columns() {
    let database = Database::create("replicator", meridian_replicator::MIGRATIONS).await;
    catalogue::assert_columns("replicator", &database).await;
}

#[test]
fn catalogue_event_fields() {
    catalogue::assert_event_fields("replicator", &[(PURGED, json!(Purged {}))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_is_complete_only_where_the_importing_tenant_is_known() {
    let world = World::without_edges().await;
    world.eu.region.stop("replicator").await;
    let rogue = world.eu_at_us("replicator");
    let cut = json!({"edge": EDGE, "revision": 1, "rule": "no-edge"});
    let answered = |complete: bool| {
        let (rogue, cut) = (&rogue, &cut);
        until(move || async move {
            let answer: Value = rogue.post("/peer/v1/cuts").json(cut).fetch().await.ok()?;
            (answer["complete"] == complete).then_some(answer)
        })
    };
    // Nobody of the organization is at home: copies may lie under a tenant that cannot be looked at.
    let homes = world.us.region.policy().homes;
    world.us.region.change_policy(|policy| policy.homes.clear());
    answered(false).await.expect("not complete");
    assert!(world.us.region.acks().is_empty(), "nothing is acknowledged");

    // It is, and has nothing of the edge: that is said, and the region operator hears of it too.
    world.us.region.change_policy(|policy| policy.homes = homes);
    let answer = answered(true).await.expect("complete");
    assert_eq!(answer["sinks"], json!(["replicator"]));
    let acks = world.us.region.acks();
    assert!(
        acks.iter()
            .any(|ack| ack.edge.as_str() == EDGE && ack.role == AckRole::Importer && ack.purged == 0),
        "{acks:?}"
    );
}
