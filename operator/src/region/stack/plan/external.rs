//! What somebody else runs, outside of the cluster and inside the jurisdiction: nothing is rendered for it but the way to
//! it, which leads to its own networks and port alone. Whom it is verified by lies in a Secret that the platform team made
//! in the region's namespace; kubelets read it, and this operator need not.

use super::super::data_plane::{External, Postgres};
use super::super::validate::Stack;
use super::pods::mount;
use serde_json::{Value, json};

/// Folder with the CA of an external PostgreSQL.
const POSTGRES_DIR: &str = "/var/run/meridian/postgres";
/// Its CA.
pub const POSTGRES_CA: &str = "/var/run/meridian/postgres/ca.crt";

/// Who else runs a component of the table, if anybody does.
#[must_use]
pub fn of<'a>(stack: &'a Stack, component: &str) -> Option<&'a External> {
    match (component, &stack.data_plane.postgres) {
        ("postgres", Postgres::External(external)) => Some(external),
        _ => None,
    }
}

/// The way to it.
#[must_use]
pub fn way_out(external: &External) -> Value {
    let networks: Vec<Value> = external
        .networks
        .iter()
        .map(|cidr| json!({"ipBlock": {"cidr": cidr}}))
        .collect();
    json!({"to": networks, "ports": [{"protocol": "TCP", "port": external.address.port}]})
}

/// Volume and mount with the CA of the region's PostgreSQL, where that is not the region's own.
#[must_use]
pub fn postgres_trust(stack: &Stack) -> Option<(Value, Value)> {
    let external = of(stack, "postgres")?;
    let volume = json!({"name": "postgres", "secret": {
        "secretName": external.secret, "defaultMode": 0o440, "items": [{"key": "ca.crt", "path": "ca.crt"}],
    }});
    Some((volume, mount("postgres", POSTGRES_DIR)))
}

#[cfg(test)]
mod tests {
    use super::super::super::data_plane::DataPlane;
    use super::super::super::validate::example;
    use super::super::{Material, Plan, plan};
    use super::*;

    fn planned() -> Plan {
        let mut stack = example();
        stack.data_plane = DataPlane::parse(&json!({"postgres": {
            "mode": "External", "address": "db.eu.example:6432", "networks": ["10.20.0.0/28"], "connectionSecret": "their-db",
        }}))
        .unwrap();
        plan(&stack, &Material::default()).unwrap()
    }

    fn body<'a>(plan: &'a Plan, kind: &str, name: &str) -> Option<&'a Value> {
        let found = plan
            .manifests()
            .find(|manifest| manifest.key().kind.kind == kind && manifest.key().name == name);
        found.map(crate::manifest::Manifest::body)
    }

    #[test]
    fn nothing_is_rendered_in_the_place_of_what_somebody_else_runs() {
        let plan = planned();
        for kind in ["StatefulSet", "Service", "PodDisruptionBudget", "NetworkPolicy"] {
            assert!(body(&plan, kind, "postgres").is_none(), "{kind}");
        }
        assert!(body(&plan, "ConfigMap", "postgres-config").is_none());
        assert!(body(&plan, "StatefulSet", "kafka").is_some());
    }

    #[test]
    fn who_has_a_database_reaches_its_networks_on_its_port_and_nobody_else_does() {
        let plan = planned();
        let way = json!({"to": [{"ipBlock": {"cidr": "10.20.0.0/28"}}], "ports": [{"protocol": "TCP", "port": 6432}]});
        let leads_there = |name: &str| {
            let egress = body(&plan, "NetworkPolicy", name).unwrap()["spec"]["egress"]
                .as_array()
                .unwrap();
            egress.contains(&way)
        };
        for name in ["identity", "migrate", "verifier", "telemetry-writer"] {
            assert!(leads_there(name), "{name}");
        }
        assert!(!leads_there("gateway") && !leads_there("keyring") && !leads_there("kafka"));
    }

    #[test]
    fn whom_it_is_verified_by_is_mounted_from_the_secret_of_the_platform_team() {
        let plan = planned();
        let migration = plan
            .manifests()
            .find(|manifest| manifest.key().name.starts_with("migrate-cluster"))
            .unwrap();
        for workload in [body(&plan, "Deployment", "identity").unwrap(), migration.body()] {
            let pod = workload["spec"]["template"]["spec"].to_string();
            assert!(pod.contains("their-db") && pod.contains(POSTGRES_DIR), "{pod}");
        }
        let gateway = body(&plan, "Deployment", "gateway").unwrap().to_string();
        assert!(!gateway.contains("their-db"));
    }

    #[test]
    fn roles_are_made_as_who_the_secret_says_over_verified_tls() {
        let plan = planned();
        let migration = plan
            .manifests()
            .find(|manifest| manifest.key().name.starts_with("migrate-cluster"))
            .unwrap();
        let variables = migration.body()["spec"]["template"]["spec"]["containers"][0]["env"].to_string();
        assert!(
            variables.contains("postgres://db.eu.example:6432/postgres?sslmode=verify-full"),
            "{variables}"
        );
        assert!(variables.contains("MERIDIAN_SUPERUSER_PASSWORD") && !variables.contains("db-superuser"));
    }
}
