//! How long a role is without a leader: two processes of the operator on a real API server, for each role. The time is
//! from the signal to the acquisition that the new leader writes into the Lease; both are this machine's clock.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on says so by panicking; the times are to be read"
)]

mod support;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::{Client, CustomResourceExt};
use meridian_kit::client::ServiceClient;
use meridian_kit::tls::{PeerId, Tls};
use meridian_operator::manifest::REGION_STACK;
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::{LIMIT, Replica, client, fresh, holder, install, kubeconfig, lease, make_namespace, until};

/// What issue 4 asks for.
const AFTER_SIGTERM: SignedDuration = SignedDuration::from_secs(2);
const AFTER_KILL: SignedDuration = SignedDuration::from_secs(15);
const ROUNDS: u32 = 3;

/// One role, in a namespace of its own.
struct Role {
    lease: &'static str,
    kubeconfig: PathBuf,
    client: Client,
    namespace: String,
    /// Only the region role has one.
    region: Option<String>,
    dir: PathBuf,
}

impl Role {
    async fn new(lease: &'static str, variable: &str, region: Option<String>) -> Self {
        let kubeconfig = kubeconfig(variable);
        let client = client(&kubeconfig).await;
        let namespace = fresh("takeover");
        let crds = match region {
            None => meridian_crds::all_crds(),
            Some(_) => vec![
                meridian_crds::RegionStack::crd(),
                meridian_crds::TenantPlacement::crd(),
                meridian_crds::IngestPool::crd(),
            ],
        };
        install(&client, &crds).await;
        make_namespace(&client, &namespace).await;
        let dir = std::env::temp_dir().join(&namespace);
        std::fs::create_dir_all(&dir).unwrap();
        Self {
            lease,
            kubeconfig,
            client,
            namespace,
            region,
            dir,
        }
    }

    async fn start(&self, identity: &str) -> Replica {
        let (kubeconfig, namespace) = (&self.kubeconfig, &self.namespace);
        let replica = match &self.region {
            None => Replica::hub(kubeconfig, namespace, identity, &self.dir),
            Some(region) => Replica::region(kubeconfig, namespace, identity, &self.dir, region),
        };
        replica.is_ready().await;
        replica
    }

    async fn leads(&self, replica: &Replica) {
        until(&format!("{} leads", replica.identity), || async {
            let lease = lease(&self.client, &self.namespace, self.lease).await;
            holder(lease.as_ref()).as_deref() == Some(replica.identity.as_str())
        })
        .await;
    }

    async fn renewed(&self) -> Timestamp {
        let lease = lease(&self.client, &self.namespace, self.lease).await.unwrap();
        lease.spec.unwrap().renew_time.unwrap().0
    }

    /// From the signal until this replica has the lease.
    async fn taken_over(&self, by: &Replica, signal: Timestamp) -> SignedDuration {
        self.leads(by).await;
        let lease = lease(&self.client, &self.namespace, self.lease).await.unwrap();
        lease.spec.unwrap().acquire_time.unwrap().0.duration_since(signal)
    }

    /// Three takeovers after SIGTERM and three after kill -9.
    async fn proves_its_times(&self) {
        let mut leader = self.start("replica-0").await;
        self.leads(&leader).await;
        let (mut terms, mut kills) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let next = self.start(&format!("replica-{}", 2 * round + 1)).await;
            let reader = self.reads_the_feed(&leader).await;
            let signal = Timestamp::now();
            leader.terminate();
            terms.push(self.taken_over(&next, signal).await);
            assert!(leader.ended().await.success(), "it ends in peace");
            drop(reader);
            leader = next;

            let next = self.start(&format!("replica-{}", 2 * round + 2)).await;
            // Just renewed: that is the longest that a candidate has to wait.
            let before = self.renewed().await;
            until("the lease is renewed", || async { self.renewed().await != before }).await;
            let signal = Timestamp::now();
            leader.kill();
            kills.push(self.taken_over(&next, signal).await);
            leader = next;
        }
        eprintln!("{}: after SIGTERM {terms:?}, after kill -9 {kills:?}", self.lease);
        assert!(terms.iter().all(|took| *took <= AFTER_SIGTERM), "SIGTERM: {terms:?}");
        assert!(kills.iter().all(|took| *took <= AFTER_KILL), "kill -9: {kills:?}");
        leader.terminate();
        assert!(leader.ended().await.success());
    }

    /// A service that listens to the region's policy, as all of them do for as long as they run.
    async fn reads_the_feed(&self, replica: &Replica) -> Option<reqwest::Response> {
        let region = self.region.as_ref()?;
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &format!("meridian-{region}"));
        until("a service has its certificate", || async {
            secrets.get_opt("tls-training").await.unwrap().is_some()
        })
        .await;
        let dir = self.dir.join("training");
        std::fs::create_dir_all(&dir).unwrap();
        for (file, content) in secrets.get("tls-training").await.unwrap().data.unwrap() {
            std::fs::write(dir.join(file), content.0).unwrap();
        }
        let region: meridian_policy::RegionName = region.parse().unwrap();
        let (tls, operator) = (
            Tls::load(&dir, region.clone()).unwrap(),
            PeerId::new(region, "region-operator"),
        );
        let service = ServiceClient::peer(&tls, &format!("https://{}", replica.listen), operator).unwrap();
        let began = Instant::now();
        loop {
            let asked = service.get("/v1/policy/stream").within(Duration::from_secs(300)).send();
            match asked.await {
                Ok(response) => return Some(response),
                Err(error) => assert!(began.elapsed() < LIMIT, "the feed is not served: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_hub_leads_within_2_s_of_sigterm_and_15_s_of_kill_9() {
    let role = Role::new("meridian-hub", "MERIDIAN_TEST_KUBECONFIG", None).await;
    role.proves_its_times().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_region_operator_leads_within_2_s_of_sigterm_and_15_s_of_kill_9() {
    let region = fresh("r");
    let role = Role::new(
        "meridian-region",
        "MERIDIAN_TEST_MEMBER_KUBECONFIG",
        Some(region.clone()),
    )
    .await;
    let stacks: Api<DynamicObject> = Api::all_with(role.client.clone(), &REGION_STACK.resource());
    let stack = json!({
        "apiVersion": "meridian.sh/v1alpha1", "kind": "RegionStack", "metadata": {"name": region},
        "spec": {
            "region": region, "jurisdiction": "eu", "revision": 1, "publicHost": "eu.meridian.localhost",
            "publicUrl": "https://eu.meridian.localhost:8443", "peerUrl": "https://eu-control-plane:30444",
            "countriesServed": ["DE"],
            "policy": {
                "region": region, "jurisdiction": "eu", "revision": 1, "countries_served": ["DE"],
                "public_url": "https://eu.meridian.localhost:8443", "issuer": "https://eu.meridian.localhost:8443",
                "homes": [], "directory": [], "peers": [], "exports": [], "imports": [], "retention": {},
            },
        },
    });
    let params = PatchParams::apply("hub").force();
    stacks.patch(&region, &params, &Patch::Apply(&stack)).await.unwrap();
    role.proves_its_times().await;
    // Nobody is left to take the finalizer off.
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    stacks.delete(&region, &DeleteParams::default()).await.unwrap();
    let _ = stacks.patch(&region, &PatchParams::default(), &free).await;
}
