//! The rights of the hub's account in a member: all that it has, and each that it must never have.

use std::collections::BTreeSet;

use axum::http::Request;
use k8s_openapi::api::authorization::v1::SelfSubjectRulesReview;
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

use crate::rendered::SYSTEM;
use crate::world::{Clusters, HUB_ACCOUNT, MEMBER, client_with, kubeconfig_with, token};

/// Group, resource, name, verb.
type Right = (String, String, String, String);

fn rights(group: &str, resources: &[&str], names: &[&str], verbs: &[&str]) -> BTreeSet<Right> {
    let names = if names.is_empty() { &[""] } else { names };
    let mut all = BTreeSet::new();
    for (resource, name) in resources.iter().flat_map(|r| names.iter().map(move |n| (r, n))) {
        for verb in verbs {
            all.insert((
                group.to_owned(),
                (*resource).to_owned(),
                (*name).to_owned(),
                (*verb).to_owned(),
            ));
        }
    }
    all
}

async fn hub_in(clusters: &Clusters) -> Client {
    client_with(&kubeconfig_with(
        MEMBER,
        &token(&clusters.member, HUB_ACCOUNT, None).await,
    ))
    .await
}

/// What the API server itself says that the account may do.
async fn held(client: &Client, namespace: &str) -> BTreeSet<Right> {
    let review: SelfSubjectRulesReview = serde_json::from_value(json!({"spec": {"namespace": namespace}})).unwrap();
    let reviews: Api<SelfSubjectRulesReview> = Api::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
    let status = answer.status.unwrap();
    assert!(!status.incomplete, "{status:?}");
    for rule in &status.non_resource_rules {
        assert_eq!(rule.verbs, ["get"], "{rule:?}");
    }
    let strings = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let mut all = BTreeSet::new();
    for rule in status.resource_rules {
        let (resources, names) = (strings(&rule.resources), strings(&rule.resource_names));
        for group in strings(&rule.api_groups) {
            let (resources, names): (Vec<_>, Vec<_>) = (
                resources.iter().map(String::as_str).collect(),
                names.iter().map(String::as_str).collect(),
            );
            let verbs: Vec<_> = rule.verbs.iter().map(String::as_str).collect();
            all.extend(rights(&group, &resources, &names, &verbs));
        }
    }
    all
}

#[tokio::test]
async fn the_hub_may_do_in_a_member_exactly_this() {
    let clusters = Clusters::new().await;
    let client = hub_in(&clusters).await;
    let asked = [
        // Who it is and what it may do: Kubernetes tells that to everybody.
        rights(
            "authorization.k8s.io",
            &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
            &[],
            &["create"],
        ),
        rights("authentication.k8s.io", &["selfsubjectreviews"], &[], &["create"]),
        rights(
            "meridian.sh",
            &["regionstacks", "tenantplacements", "ingestpools"],
            &[],
            &["get", "list", "watch", "create", "patch", "update", "delete"],
        ),
        rights("", &["nodes"], &[], &["get", "list", "watch"]),
    ];
    let everywhere: BTreeSet<Right> = asked.into_iter().flatten().collect();
    let lease = rights(
        "coordination.k8s.io",
        &["leases"],
        &["meridian-policy"],
        &["get", "patch", "update"],
    );
    assert_eq!(held(&client, "default").await, everywhere);
    assert_eq!(held(&client, SYSTEM).await, everywhere.union(&lease).cloned().collect());
}

/// What is tried, and how.
struct Attempt {
    what: &'static str,
    verb: &'static str,
    path: String,
    body: Value,
    as_somebody_else: bool,
}

fn attempt(what: &'static str, verb: &'static str, path: &str, body: Value) -> Attempt {
    Attempt {
        what,
        verb,
        path: path.replace("SYSTEM", SYSTEM),
        body,
        as_somebody_else: false,
    }
}

fn read(what: &'static str, path: &str) -> Attempt {
    attempt(what, "GET", path, Value::Null)
}

fn remove(what: &'static str, path: &str) -> Attempt {
    attempt(what, "DELETE", path, Value::Null)
}

fn patch(what: &'static str, path: &str) -> Attempt {
    attempt(what, "PATCH", path, json!({"metadata": {"labels": {"a": "b"}}}))
}

fn create(what: &'static str, path: &str, version: &str, kind: &str) -> Attempt {
    let body = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "made-by-the-hub"}});
    attempt(what, "POST", path, body)
}

async fn code(client: &Client, attempt: &Attempt) -> (u16, String) {
    let body = if attempt.body.is_null() {
        Vec::new()
    } else {
        attempt.body.to_string().into_bytes()
    };
    let content = if attempt.verb == "PATCH" {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    let mut request = Request::builder()
        .method(attempt.verb)
        .uri(&attempt.path)
        .header("content-type", content);
    if attempt.as_somebody_else {
        request = request.header("impersonate-user", "admin");
    }
    match client.request_text(request.body(body).unwrap()).await {
        Ok(_) => (200, String::new()),
        Err(kube::Error::Api(status)) => (status.code, status.message.clone()),
        Err(error) => panic!("{}: {error}", attempt.what),
    }
}

fn of_secrets_and_tokens() -> Vec<Attempt> {
    let secrets = "/api/v1/namespaces/SYSTEM/secrets";
    let tokens = "/api/v1/namespaces/SYSTEM/serviceaccounts";
    let token = |what, account: &str| {
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}});
        attempt(what, "POST", &format!("{tokens}/{account}/token"), body)
    };
    vec![
        read("get a Secret", &format!("{secrets}/any")),
        read("list Secrets", secrets),
        read("list every Secret", "/api/v1/secrets"),
        read("watch Secrets", &format!("{secrets}?watch=true&timeoutSeconds=1")),
        create("create a Secret", secrets, "v1", "Secret"),
        patch("patch a Secret", &format!("{secrets}/any")),
        remove("delete a Secret", &format!("{secrets}/any")),
        read("get a ConfigMap", "/api/v1/namespaces/SYSTEM/configmaps/any"),
        token("take the operator's token", "meridian-operator"),
        token("take a token of its own", HUB_ACCOUNT),
        create("create an account", tokens, "v1", "ServiceAccount"),
    ]
}

fn of_pods() -> Vec<Attempt> {
    let pods = "/api/v1/namespaces/SYSTEM/pods";
    let into = |what, verb, sub: &str| attempt(what, verb, &format!("{pods}/any/{sub}"), Value::Null);
    vec![
        read("get a pod", &format!("{pods}/any")),
        read("list pods", pods),
        create("create a pod", pods, "v1", "Pod"),
        patch("patch a pod", &format!("{pods}/any")),
        remove("delete a pod", &format!("{pods}/any")),
        into("exec", "POST", "exec?command=sh"),
        into("exec by GET", "GET", "exec?command=sh"),
        into("attach", "POST", "attach"),
        into("port-forward", "POST", "portforward?ports=5432"),
        into("logs", "GET", "log"),
        into("a proxy to a pod", "GET", "proxy/metrics"),
        patch("ephemeral containers", &format!("{pods}/any/ephemeralcontainers")),
        create("evict a pod", &format!("{pods}/any/eviction"), "policy/v1", "Eviction"),
        read(
            "a proxy to a Service",
            "/api/v1/namespaces/SYSTEM/services/any/proxy/metrics",
        ),
        create(
            "create a Deployment",
            "/apis/apps/v1/namespaces/SYSTEM/deployments",
            "apps/v1",
            "Deployment",
        ),
        create(
            "create a Job",
            "/apis/batch/v1/namespaces/SYSTEM/jobs",
            "batch/v1",
            "Job",
        ),
    ]
}

fn of_escalation() -> Vec<Attempt> {
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let admission = "/apis/admissionregistration.k8s.io/v1";
    let as_admin = Attempt {
        as_somebody_else: true,
        ..read("impersonate", "/api/v1/namespaces")
    };
    let everything = json!({"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    let own_role = format!("{rbac}/clusterroles/meridian-hub-access");
    let version = "rbac.authorization.k8s.io/v1";
    vec![
        as_admin,
        attempt("widen its own role", "PATCH", &own_role, everything),
        create(
            "create a ClusterRole",
            &format!("{rbac}/clusterroles"),
            version,
            "ClusterRole",
        ),
        create(
            "bind a ClusterRole",
            &format!("{rbac}/clusterrolebindings"),
            version,
            "ClusterRoleBinding",
        ),
        create(
            "create a Role",
            &format!("{rbac}/namespaces/SYSTEM/roles"),
            version,
            "Role",
        ),
        create(
            "bind a Role",
            &format!("{rbac}/namespaces/SYSTEM/rolebindings"),
            version,
            "RoleBinding",
        ),
        create(
            "ask for a certificate",
            "/apis/certificates.k8s.io/v1/certificatesigningrequests",
            "certificates.k8s.io/v1",
            "CertificateSigningRequest",
        ),
        patch(
            "patch the admission policy",
            &format!("{admission}/validatingadmissionpolicies/meridian-placements"),
        ),
        remove(
            "delete the admission policy",
            &format!("{admission}/validatingadmissionpolicies/meridian-placements"),
        ),
        remove(
            "unbind the admission policy",
            &format!("{admission}/validatingadmissionpolicybindings/meridian-placements"),
        ),
        create(
            "create a webhook",
            &format!("{admission}/mutatingwebhookconfigurations"),
            "admissionregistration.k8s.io/v1",
            "MutatingWebhookConfiguration",
        ),
        create(
            "create a validating webhook",
            &format!("{admission}/validatingwebhookconfigurations"),
            "admissionregistration.k8s.io/v1",
            "ValidatingWebhookConfiguration",
        ),
        read("read webhooks", &format!("{admission}/validatingwebhookconfigurations")),
    ]
}

fn of_the_cluster() -> Vec<Attempt> {
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let leases = "/apis/coordination.k8s.io/v1/namespaces/SYSTEM/leases";
    vec![
        create("create a node", "/api/v1/nodes", "v1", "Node"),
        patch("label a node", "/api/v1/nodes/any"),
        patch("patch a node's status", "/api/v1/nodes/any/status"),
        remove("delete a node", "/api/v1/nodes/any"),
        read("a proxy to a node", "/api/v1/nodes/any/proxy/pods"),
        create("create a namespace", "/api/v1/namespaces", "v1", "Namespace"),
        patch("label a namespace", "/api/v1/namespaces/SYSTEM"),
        remove("delete a namespace", "/api/v1/namespaces/meridian-eu"),
        create(
            "create a definition",
            definitions,
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
        ),
        patch(
            "patch a definition",
            &format!("{definitions}/tenantplacements.meridian.sh"),
        ),
        remove(
            "delete a definition",
            &format!("{definitions}/tenantplacements.meridian.sh"),
        ),
        patch("claim a status", "/apis/meridian.sh/v1alpha1/regionstacks/any/status"),
        patch(
            "claim a placement's status",
            "/apis/meridian.sh/v1alpha1/namespaces/meridian-eu/tenantplacements/any/status",
        ),
        remove("delete every stack", "/apis/meridian.sh/v1alpha1/regionstacks"),
        read("read the operator's lease", &format!("{leases}/meridian-region")),
        patch("take the operator's lease", &format!("{leases}/meridian-region")),
        create("create a lease", leases, "coordination.k8s.io/v1", "Lease"),
        remove("delete the policy lease", &format!("{leases}/meridian-policy")),
        read("list leases", leases),
        read("read volumes", "/api/v1/persistentvolumes"),
        remove(
            "delete network policies",
            "/apis/networking.k8s.io/v1/namespaces/meridian-eu/networkpolicies/any",
        ),
    ]
}

#[tokio::test]
async fn everything_else_is_denied_one_by_one() {
    let clusters = Clusters::new().await;
    let client = hub_in(&clusters).await;
    let attempts = [of_secrets_and_tokens(), of_pods(), of_escalation(), of_the_cluster()];
    let mut allowed = Vec::new();
    for attempt in attempts.iter().flatten() {
        let (code, message) = code(&client, attempt).await;
        if code != 403 || !message.contains("cannot") {
            allowed.push(format!("{}: {code} {message}", attempt.what));
        }
    }
    assert!(allowed.is_empty(), "{allowed:#?}");
    // The same way of asking does reach what is allowed.
    let nodes = read("list nodes", "/api/v1/nodes");
    assert_eq!(code(&client, &nodes).await.0, 200);
}
