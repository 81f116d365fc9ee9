//! Migration jobs. Their names carry a digest of everything they run with, so that they run again exactly when that
//! changes; a finished job of an older digest has left the plan and is pruned.

use super::super::secrets::{Credential, Server};
use super::super::validate::Stack;
use super::components::with_database;
use super::external;
use super::foundation::TRUST;
use super::pods::{Pod, SERVICE_USER, TLS_DIR, config_volume, env, env_secret, mount, resources, scratch, template};
use super::{Material, POLICY_URL};
use crate::apply::digest;
use crate::manifest::JOB;
use serde_json::{Value, json};

/// Folder with `<service>/{username,password}`, `<service>-owner/…` and `verifier/…`.
const CREDENTIALS_DIR: &str = "/var/run/meridian/databases";

/// The job that makes roles and databases, as superuser.
#[must_use]
pub fn cluster(stack: &Stack, material: &Material) -> Value {
    let roles: Vec<_> = with_database()
        .flat_map(|c| {
            [
                Credential::Runtime(c.name.to_owned()),
                Credential::Owner(c.name.to_owned()),
            ]
        })
        .chain([Credential::Verifier])
        .map(|credential| credential.secret())
        .collect();
    let source = |secret: &String| {
        let folder = secret.strip_prefix("db-").unwrap_or(secret);
        let items = ["username", "password"].map(|key| json!({"key": key, "path": format!("{folder}/{key}")}));
        json!({"secret": {"name": secret, "items": items}})
    };
    let sources: Vec<_> = roles.iter().map(source).collect();
    let read: Vec<_> = roles.iter().map(|secret| material.digest_of(secret)).collect();
    let extra = Extra {
        env: superuser(stack)
            .into_iter()
            .chain([env("MERIDIAN_DB_CREDENTIALS_DIR", CREDENTIALS_DIR)])
            .collect(),
        volumes: vec![json!({"name": "databases", "projected": {"defaultMode": 0o440, "sources": sources}})],
        mounts: vec![mount("databases", CREDENTIALS_DIR)],
    };
    job(stack, "cluster", extra, &json!(read))
}

/// As whom roles and databases are made.
fn superuser(stack: &Stack) -> Vec<Value> {
    let Some(external) = external::of(stack, "postgres") else {
        return vec![env_secret("MERIDIAN_SUPERUSER_URL", "db-superuser", "url")];
    };
    vec![
        env("MERIDIAN_SUPERUSER_URL", &Server::of(stack).url("", "postgres")),
        env_secret("MERIDIAN_SUPERUSER_USERNAME", &external.secret, "username"),
        env_secret("MERIDIAN_SUPERUSER_PASSWORD", &external.secret, "password"),
    ]
}

/// One job per service with a database, as the schema's owner.
#[must_use]
pub fn services(stack: &Stack, material: &Material) -> Vec<Value> {
    with_database()
        .map(|component| {
            let secret = Credential::Owner(component.name.to_owned()).secret();
            let env = vec![env_secret("MERIDIAN_DATABASE_URL", &secret, "url")];
            let extra = Extra {
                env,
                volumes: vec![],
                mounts: vec![],
            };
            job(stack, component.name, extra, &json!([material.digest_of(&secret)]))
        })
        .collect()
}

struct Extra {
    env: Vec<Value>,
    volumes: Vec<Value>,
    mounts: Vec<Value>,
}

fn job(stack: &Stack, what: &str, extra: Extra, read: &Value) -> Value {
    let base = format!("migrate-{what}");
    let mut variables = vec![
        env("MERIDIAN_REGION", stack.region.as_str()),
        env("MERIDIAN_TLS_DIR", TLS_DIR),
        env("MERIDIAN_POLICY_URL", POLICY_URL),
        env("RUST_LOG", "warn,meridian=info"),
    ];
    variables.extend(extra.env);
    let mut mounts = vec![mount("trust", TLS_DIR), json!({"name": "tmp", "mountPath": "/tmp"})];
    mounts.extend(extra.mounts);
    let mut volumes = vec![config_volume("trust", TRUST), scratch("tmp", "16Mi")];
    volumes.extend(extra.volumes);
    if let Some((volume, mounted)) = external::postgres_trust(stack) {
        volumes.push(volume);
        mounts.push(mounted);
    }
    let container = json!({
        "name": "migrate", "image": stack.images.meridian, "args": ["migrate", what],
        "env": variables, "resources": resources("10m", ("32Mi", "256Mi")), "volumeMounts": mounts,
    });
    let pod = Pod {
        name: &base,
        component: "migrate",
        user: SERVICE_USER,
        config_digest: String::new(),
        container,
        volumes,
        grace_seconds: 30,
    };
    let mut template = template(stack, pod);
    template["spec"]["restartPolicy"] = json!("OnFailure");
    let name = format!(
        "{base}-{}",
        digest(&json!([template, read])).get(..10).unwrap_or_default()
    );
    let mut metadata = stack.metadata(&name, "migration");
    metadata["namespace"] = json!(stack.namespace());
    json!({
        "apiVersion": JOB.api_version(), "kind": JOB.kind, "metadata": metadata,
        "spec": {"backoffLimit": 20, "completions": 1, "parallelism": 1, "template": template},
    })
}
