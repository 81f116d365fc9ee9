//! The whole region role as a process runs it: election, policy feed over mTLS, lease, acknowledgements.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod bed;

use bed::{client, fresh_region, install_custom_resources, region_stack, until};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use meridian_evidence::Signer;
use meridian_kit::client::ServiceClient;
use meridian_kit::policy_feed::{Ack, AckRole, Backlog, FeedLine};
use meridian_kit::testing::{free_address, pause};
use meridian_kit::tls::{PeerId, Tls};
use meridian_operator::RunError;
use meridian_operator::manifest::REGION_STACK;
use meridian_operator::region::stack::data_plane::Operators;
use meridian_operator::region::stack::validate::{Images, NodePorts};
use meridian_operator::region::{RegionArgs, run_with};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Replicas of one region's operator.
struct Role {
    client: Client,
    region: String,
    system: String,
    scratch: PathBuf,
}

struct Replica {
    feed: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
}

impl Role {
    async fn new() -> Self {
        let client = client().await;
        install_custom_resources(&client).await;
        let region = fresh_region();
        let system = format!("system-{region}");
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": system}})).unwrap();
        namespaces.create(&PostParams::default(), &namespace).await.unwrap();
        let scratch = std::env::temp_dir().join(format!("meridian-role-{region}"));
        let role = Self {
            client,
            region,
            system,
            scratch,
        };
        role.ask(1).await;
        role
    }

    async fn ask(&self, revision: u64) {
        let stack = region_stack(&self.region, revision, 1);
        self.stacks()
            .patch(&self.region, &PatchParams::apply("hub").force(), &Patch::Apply(&stack))
            .await
            .unwrap();
    }

    fn stacks(&self) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &REGION_STACK.resource())
    }

    fn start(&self, identity: &str) -> Replica {
        let (feed, stop) = (free_address(), CancellationToken::new());
        let args = RegionArgs {
            namespace: self.system.clone(),
            identity: identity.to_owned(),
            region: Some(self.region.parse().unwrap()),
            images: Images {
                meridian: "meridian:1".into(),
                postgres: "postgres:17".into(),
                kafka: "kafka:4.1".into(),
            },
            operators: Operators::default(),
            node_ports: NodePorts::Allocated,
            feed_listen: Some(feed),
            metrics_api_listen: None,
            admin_listen: free_address(),
            scratch: self.scratch.join(identity),
            brokers: None,
        };
        let running = tokio::spawn(run_with(self.client.clone(), args, stop.clone()));
        Replica { feed, stop, running }
    }

    async fn leader(&self) -> Option<String> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.system);
        leases.get_opt("meridian-region").await.unwrap()?.spec?.holder_identity
    }

    async fn renew_policy_lease(&self, revision: u64) {
        let leases: Api<DynamicObject> = Api::namespaced_with(
            self.client.clone(),
            &self.system,
            &meridian_operator::manifest::LEASE.resource(),
        );
        let now = jiff::Timestamp::now();
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "meridian-policy", "annotations": {"meridian.sh/revision": revision.to_string()}},
            "spec": {"leaseDurationSeconds": 20, "renewTime": format!("{now:.6}")}});
        leases
            .patch(
                "meridian-policy",
                &PatchParams::apply("meridian-hub-lease").force(),
                &Patch::Apply(&lease),
            )
            .await
            .unwrap();
    }

    /// A client as the service that has this certificate.
    async fn service(&self, service: &str, feed: SocketAddr) -> ServiceClient {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &format!("meridian-{}", self.region));
        let name = format!("tls-{service}");
        until("the certificate is issued", || async {
            secrets.get_opt(&name).await.unwrap().is_some()
        })
        .await;
        let data = secrets.get(&name).await.unwrap().data.unwrap();
        let dir = self.scratch.join(format!("client-{service}"));
        std::fs::create_dir_all(&dir).unwrap();
        for (file, content) in data {
            std::fs::write(dir.join(file), content.0).unwrap();
        }
        let region: meridian_policy::RegionName = self.region.parse().unwrap();
        let tls = Tls::load(&dir, region.clone()).unwrap();
        ServiceClient::peer(&tls, &format!("https://{feed}"), PeerId::new(region, "region-operator")).unwrap()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

/// Reads lines of a feed until one is as wanted.
async fn line(response: &mut reqwest::Response, buffer: &mut Vec<u8>, wanted: impl Fn(&FeedLine) -> bool) -> FeedLine {
    let read = async {
        loop {
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let text: Vec<u8> = buffer.drain(..=end).collect();
                if let Ok(line) = serde_json::from_slice::<FeedLine>(&text)
                    && wanted(&line)
                {
                    return line;
                }
            }
            buffer.extend_from_slice(&response.chunk().await.unwrap().expect("the feed goes on"));
        }
    };
    tokio::time::timeout(Duration::from_secs(40), read)
        .await
        .expect("the line comes in time")
}

async fn served(client: &ServiceClient) -> reqwest::Response {
    let began = Instant::now();
    loop {
        if let Ok(response) = client
            .get("/v1/policy/stream")
            .within(Duration::from_secs(120))
            .send()
            .await
        {
            return response;
        }
        assert!(began.elapsed() < Duration::from_secs(40), "the feed is not served");
        pause(began).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_follow_the_policy_and_the_lease_and_acknowledge_over_mtls() {
    let role = Role::new().await;
    let replica = role.start("one");
    let replicator = role.service("replicator", replica.feed).await;
    let (mut response, mut buffer) = (served(&replicator).await, Vec::new());
    let first = line(&mut response, &mut buffer, |_| true).await;
    assert!(
        matches!(&first, FeedLine::Policy { policy } if policy.revision.0 == 1),
        "{first:?}"
    );

    // What is there when the operator begins to look is not fresh; the next renewal is.
    role.renew_policy_lease(1).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    role.renew_policy_lease(1).await;
    let renewed = line(&mut response, &mut buffer, |line| {
        matches!(line, FeedLine::Lease { .. })
    })
    .await;
    assert!(matches!(renewed, FeedLine::Lease { lease } if lease.valid_for_ms <= 20_000 && lease.revision.0 == 1));

    let changed = Instant::now();
    role.ask(2).await;
    line(
        &mut response,
        &mut buffer,
        |line| matches!(line, FeedLine::Policy { policy } if policy.revision.0 == 2),
    )
    .await;
    assert!(changed.elapsed() < Duration::from_secs(2), "{:?}", changed.elapsed());

    let ack = Ack {
        edge: "stride-eu.workout-summary.us".parse().unwrap(),
        role: AckRole::Importer,
        revision: meridian_policy::PolicyRevision(2),
        purged: 3,
        sinks: vec!["table".to_owned()],
    };
    let answer = replicator
        .post("/v1/acks")
        .json(&ack)
        .idempotent()
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 204);
    let kept = role.stacks().get(&role.region).await.unwrap().data["status"]["acks"].clone();
    assert_eq!(
        (kept[0]["edge"].as_str(), kept[0]["purged"].as_u64()),
        (Some("stride-eu.workout-summary.us"), Some(3))
    );

    let chain = format!("{}/replicator", role.region).parse().unwrap();
    let signer = Signer::from_seed(&[7; 32]).unwrap();
    let checkpoint = signer.sign(&chain, 3, [1; 32], jiff::Timestamp::now());
    let mut forged = checkpoint.clone();
    forged.size = 4;
    let told = replicator.post("/v1/checkpoints").json(&checkpoint).idempotent().send();
    assert_eq!(told.await.unwrap().status().as_u16(), 204);
    let refused = replicator.post("/v1/checkpoints").json(&forged).idempotent().send();
    assert_eq!(refused.await.unwrap_err().status().map(|s| s.as_u16()), Some(400));

    let waiting = Backlog {
        waiting: BTreeMap::from([(ack.edge.clone(), 7)]),
    };
    for _ in 0..2 {
        let answer = replicator.post("/v1/backlog").json(&waiting).idempotent().send().await;
        assert_eq!(answer.unwrap().status().as_u16(), 204);
    }

    let training = role.service("training", replica.feed).await;
    let not_its_own = training.post("/v1/checkpoints").json(&checkpoint).idempotent().send();
    assert_eq!(not_its_own.await.unwrap_err().status().map(|s| s.as_u16()), Some(403));
    let refused = training.post("/v1/backlog").json(&waiting).idempotent().send().await;
    assert_eq!(refused.unwrap_err().status().map(|s| s.as_u16()), Some(403));
    let refused = training
        .post("/v1/acks")
        .json(&ack)
        .idempotent()
        .send()
        .await
        .unwrap_err();
    assert_eq!(refused.status().map(|s| s.as_u16()), Some(403));

    line(&mut response, &mut buffer, |line| {
        matches!(line, FeedLine::LeaseLost { .. })
    })
    .await;
    // The acknowledgement has outlived every status that was written since.
    until("status says that the lease is gone", || async {
        let status = role.stacks().get(&role.region).await.unwrap().data["status"].clone();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        conditions
            .iter()
            .any(|c| c["type"] == "PolicyFresh" && c["reason"] == "NoLease")
            && status["acks"][0]["purged"] == 3
            && status["evidence"] == json!([checkpoint])
            && status["backlog"]["edges"][0]["waiting"] == 7
            && status["appliedRevision"] == 2
    })
    .await;
    replica.stop.cancel();
    replica.running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_for_which_there_is_no_room_is_not_taken() {
    let role = Role::new().await;
    let edges: Vec<String> = (0..512).map(|n| format!("stride-eu.workout-summary.r{n}")).collect();
    let closing = |edges: &[String]| {
        let closing: Vec<_> = edges
            .iter()
            .map(|id| {
                json!({"id": id, "tenant": "stride-eu", "importer_tenant": "stride-us", "from": role.region, "to": "us",
                    "revision": 1})
            })
            .collect();
        let patch = Patch::Merge(json!({"spec": {"policy": {"closing": closing}}}));
        let (stacks, region) = (role.stacks(), role.region.clone());
        async move { stacks.patch(&region, &PatchParams::default(), &patch).await.unwrap() }
    };
    closing(&edges).await;
    let acks: Vec<_> = edges
        .iter()
        .map(|id| json!({"edge": id, "role": "exporter", "revision": 2, "purged": 0, "sinks": ["replicator"]}))
        .collect();
    let patch = Patch::Merge(json!({"status": {"acks": acks}}));
    let params = PatchParams::default();
    role.stacks().patch_status(&role.region, &params, &patch).await.unwrap();

    let replica = role.start("one");
    let replicator = role.service("replicator", replica.feed).await;
    let (mut response, mut buffer) = (served(&replicator).await, Vec::new());
    let first = line(&mut response, &mut buffer, |_| true).await;
    assert!(
        matches!(&first, FeedLine::Policy { policy } if policy.closing.len() == 512),
        "the replicator is asked"
    );
    let ack = Ack {
        edge: "stride-eu.health.us".parse().unwrap(),
        role: AckRole::Exporter,
        revision: meridian_policy::PolicyRevision(2),
        purged: 0,
        sinks: vec!["replicator".to_owned()],
    };
    let tell = || {
        replicator
            .post("/v1/acks")
            .json(&ack)
            .idempotent()
            .within(Duration::from_secs(20))
            .send()
    };
    let refused = tell().await.unwrap_err();
    assert_eq!(refused.status().map(|status| status.as_u16()), Some(503));

    // Once the hub has taken one of them, there is room.
    closing(&edges[1..]).await;
    assert_eq!(tell().await.unwrap().status().as_u16(), 204);
    let kept = role.stacks().get(&role.region).await.unwrap().data["status"]["acks"].clone();
    let has = |edge: &str| kept.as_array().unwrap().iter().any(|ack| ack["edge"] == edge);
    assert!(has("stride-eu.health.us") && has(&edges[1]) && !has(&edges[0]));
    replica.stop.cancel();
    replica.running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_replica_serves_the_feed_and_goes_on_when_the_first_has_left() {
    let role = Role::new().await;
    let first = role.start("first");
    until("the first replica leads", || async {
        role.leader().await.as_deref() == Some("first")
    })
    .await;
    let second = role.start("second");
    let training = role.service("training", second.feed).await;
    let (mut response, mut buffer) = (served(&training).await, Vec::new());
    line(&mut response, &mut buffer, |line| {
        matches!(line, FeedLine::Policy { .. })
    })
    .await;
    assert_eq!(role.leader().await.as_deref(), Some("first"));

    first.stop.cancel();
    first.running.await.unwrap().unwrap();
    until("the second replica leads", || async {
        role.leader().await.as_deref() == Some("second")
    })
    .await;
    role.ask(2).await;
    line(
        &mut response,
        &mut buffer,
        |line| matches!(line, FeedLine::Policy { policy } if policy.revision.0 == 2),
    )
    .await;
    second.stop.cancel();
    second.running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_a_region_name_its_services_and_verify_against_what_status_says() {
    let role = Role::new().await;
    let replica = role.start("one");
    let client = role.service("identity", replica.feed).await;
    served(&client).await;
    let secrets: Api<Secret> = Api::namespaced(role.client.clone(), &format!("meridian-{}", role.region));
    let issued = secrets.get("tls-identity").await.unwrap();
    let ca = issued.data.as_ref().and_then(|data| data.get("ca.crt")).unwrap();
    until("status has the CA", || async {
        let stack = role.stacks().get(&role.region).await.unwrap();
        stack.data["status"]["caBundle"].as_str().map(str::as_bytes) == Some(ca.0.as_slice())
    })
    .await;
    replica.stop.cancel();
    replica.running.await.unwrap().unwrap();
}
