//! What the hub's credential reaches in a member.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams};
use serde_json::json;

use crate::rendered::{self, SYSTEM};
use crate::table::{Leak, leak};
use crate::world::{Clusters, HUB_ACCOUNT, MEMBER, client_with, kubeconfig_with, token};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leak_control_plane_reach() {
    const RIGHTS: &str = "rights of the hub's account";
    leak("control plane reach", &[RIGHTS], async |on| {
        let clusters = Clusters::new().await;
        let word = "canary-of-a-region";
        let kept = json!({"apiVersion": "v1", "kind": "Secret", "stringData": {"password": word},
            "metadata": {"name": "of-the-region", "namespace": SYSTEM}});
        rendered::apply(&clusters.member, &kept).await;
        let mighty = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "a-mighty-hub"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": HUB_ACCOUNT, "namespace": SYSTEM}]});
        if !on.has(RIGHTS) {
            rendered::apply(&clusters.member, &mighty).await;
        }
        let credential = kubeconfig_with(MEMBER, &token(&clusters.member, HUB_ACCOUNT, None).await);
        let secrets: Api<Secret> = Api::namespaced(client_with(&credential).await, SYSTEM);
        let read = secrets.get("of-the-region").await;
        if !on.has(RIGHTS) {
            let bindings = rendered::api_of(&clusters.member, &mighty);
            bindings.delete("a-mighty-hub", &DeleteParams::default()).await.unwrap();
        }
        let password = read.ok().and_then(|secret| secret.data?.remove("password"));
        Leak::by(password.is_some_and(|bytes| bytes.0 == word.as_bytes()))
    })
    .await;
}
