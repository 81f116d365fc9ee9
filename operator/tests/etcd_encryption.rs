//! docs/etcd-encryption.yaml does what docs/etcd-encryption.md says of it: the API servers of the tests run with it
//! (`cargo xtask parts apiserver -- cargo test --workspace --test etcd_encryption`).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use meridian_operator::manifest::{CONFIG_MAP, Kind, SECRET};
use serde_json::{Value, json};

const CANARY: &str = "meridian-canary-5f0d1e";

async fn client() -> Client {
    let path = std::env::var("MERIDIAN_TEST_KUBECONFIG").unwrap_or_else(|_| panic!("run `cargo xtask test`"));
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    meridian_kit::tls::install_crypto_provider();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    Client::try_from(config).unwrap()
}

/// What etcd itself has of an object: what its files and snapshots have.
async fn raw(kind: Kind) -> Vec<u8> {
    let etcd = std::env::var("MERIDIAN_TEST_ETCD").unwrap_or_else(|_| panic!("run `cargo xtask test`"));
    let (address, prefix) = etcd.rsplit_once('/').unwrap();
    let key = format!("/{prefix}/{}/default/canary", kind.plural);
    let asked = reqwest::Client::new()
        .post(format!("{address}/v3/kv/range"))
        .json(&json!({"key": BASE64.encode(key)}));
    let found: Value = asked.send().await.unwrap().json().await.unwrap();
    let value = found["kvs"][0]["value"].as_str().unwrap_or_else(|| panic!("{found}"));
    BASE64.decode(value).unwrap()
}

fn holds(raw: &[u8], text: &str) -> bool {
    raw.windows(text.len()).any(|part| part == text.as_bytes())
}

#[tokio::test]
async fn a_secret_cannot_be_read_in_etcd_and_what_is_no_secret_can() {
    let client = client().await;
    let encoded = BASE64.encode(CANARY);
    for (kind, data) in [
        (SECRET, json!({"password": encoded})),
        (CONFIG_MAP, json!({"password": CANARY})),
    ] {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &kind.resource());
        let object = json!({"apiVersion": "v1", "kind": kind.kind, "metadata": {"name": "canary"}, "data": data});
        let params = PatchParams::apply("test").force();
        api.patch("canary", &params, &Patch::Apply(&object)).await.unwrap();
        let read = api.get("canary").await.unwrap();
        assert_eq!(read.data["data"], object["data"], "who may read it, reads it");
    }
    assert!(
        holds(&raw(CONFIG_MAP).await, CANARY),
        "the same search finds what is there"
    );
    let secret = raw(SECRET).await;
    assert!(!holds(&secret, CANARY) && !holds(&secret, &encoded));
    assert!(secret.starts_with(b"k8s:enc:secretbox:v1:key-1:"));
}
