//! Replicas of the operator as processes, on a real API server (`cargo xtask parts apiserver member -- cargo test -p meridian`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]
#![allow(dead_code, reason = "each test file uses its part")]

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use meridian_kit::testing::{free_address, pause};
use serde_json::json;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub const LIMIT: Duration = Duration::from_secs(120);

/// Waits until a look says yes.
pub async fn until<F: Future<Output = bool>>(what: &str, mut look: impl FnMut() -> F) {
    let began = Instant::now();
    while !look().await {
        assert!(began.elapsed() < LIMIT, "not within {} s: {what}", LIMIT.as_secs());
        pause(began).await;
    }
}

/// A name that no other test has.
pub fn fresh(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst))
}

/// A kubeconfig of `cargo xtask parts`.
pub fn kubeconfig(variable: &str) -> PathBuf {
    std::env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} is not set: run `cargo xtask test`"))
        .into()
}

pub async fn client(kubeconfig: &Path) -> Client {
    meridian_kit::tls::install_crypto_provider();
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

pub async fn install(client: &Client, crds: &[CustomResourceDefinition]) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in crds {
        let params = PatchParams::apply("test").force();
        api.patch(&crd.name_any(), &params, &Patch::Apply(crd)).await.unwrap();
    }
    for crd in crds {
        until("the custom resources are served", || async {
            let status = api.get(&crd.name_any()).await.unwrap().status;
            let conditions = status.and_then(|status| status.conditions).unwrap_or_default();
            conditions
                .iter()
                .any(|c| c.type_ == "Established" && c.status == "True")
        })
        .await;
    }
}

pub async fn make_namespace(client: &Client, name: &str) {
    let api: Api<Namespace> = Api::all(client.clone());
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    api.create(&PostParams::default(), &namespace).await.unwrap();
}

pub async fn lease(client: &Client, namespace: &str, name: &str) -> Option<Lease> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    leases.get_opt(name).await.unwrap()
}

pub fn holder(lease: Option<&Lease>) -> Option<String> {
    lease?.spec.as_ref()?.holder_identity.clone()
}

/// A process of the operator; killed when this is dropped.
pub struct Replica {
    pub identity: String,
    pub admin: SocketAddr,
    /// Where the hub answers reviews, or the region tells the policy.
    pub listen: SocketAddr,
    log: PathBuf,
    child: Child,
}

impl Replica {
    pub fn hub(kubeconfig: &Path, namespace: &str, identity: &str, dir: &Path) -> Self {
        Self::start("hub", kubeconfig, namespace, identity, dir, |command, listen| {
            command
                .env("MERIDIAN_WEBHOOK_LISTEN", listen.to_string())
                .env("MERIDIAN_APPROVAL", "NotRequired");
        })
    }

    pub fn region(kubeconfig: &Path, namespace: &str, identity: &str, dir: &Path, region: &str) -> Self {
        let scratch = dir.join(format!("scratch-{identity}"));
        std::fs::create_dir_all(&scratch).unwrap();
        Self::start("region", kubeconfig, namespace, identity, dir, |command, listen| {
            command
                .env("MERIDIAN_REGION", region)
                .env("MERIDIAN_FEED_LISTEN", listen.to_string())
                .env("MERIDIAN_SCRATCH", scratch)
                .env("MERIDIAN_IMAGE", "meridian:1")
                .env("MERIDIAN_POSTGRES_IMAGE", "postgres:17")
                .env("MERIDIAN_KAFKA_IMAGE", "kafka:4.1");
        })
    }

    fn start(
        role: &str,
        kubeconfig: &Path,
        namespace: &str,
        identity: &str,
        dir: &Path,
        settings: impl FnOnce(&mut Command, SocketAddr),
    ) -> Self {
        let (admin, listen) = (free_address(), free_address());
        let log = dir.join(format!("{}.log", fresh(identity)));
        let written = File::create(&log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
        command
            .args(["operator", role])
            .env("KUBECONFIG", kubeconfig)
            .env("POD_NAMESPACE", namespace)
            .env("POD_NAME", identity)
            .env("MERIDIAN_ADMIN_LISTEN", admin.to_string())
            .env("RUST_LOG", "warn,meridian=info")
            .stdin(Stdio::null())
            .stdout(written.try_clone().unwrap())
            .stderr(written);
        settings(&mut command, listen);
        Self {
            identity: identity.to_owned(),
            admin,
            listen,
            log,
            child: command.spawn().unwrap(),
        }
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// `None` when it does not answer; otherwise whether it is ready, and what it says.
    pub async fn readiness(&self) -> Option<(bool, String)> {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = http.get(format!("http://{}/readyz", self.admin)).send().await.ok()?;
        Some((answer.status().is_success(), answer.text().await.ok()?))
    }

    pub async fn metrics(&self) -> String {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = http.get(format!("http://{}/metrics", self.admin)).send().await.unwrap();
        answer.text().await.unwrap()
    }

    pub async fn is_ready(&self) {
        let began = Instant::now();
        while !self.readiness().await.is_some_and(|(ready, _)| ready) {
            assert!(
                began.elapsed() < LIMIT,
                "{} is not ready: {:?}\n{}",
                self.identity,
                self.readiness().await,
                self.log()
            );
            pause(began).await;
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        let sent = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end after [`Self::terminate`].
    pub async fn ended(mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                began.elapsed() < LIMIT,
                "{} does not end\n{}",
                self.identity,
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
