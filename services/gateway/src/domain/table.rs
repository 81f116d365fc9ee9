//! The public routes: which service answers which path, with which methods, how large a body it may bring, and what class
//! of data it is about. What is not in this table does not pass.

use std::collections::BTreeSet;

use http::Method;
use meridian_policy::DataClass;

/// The largest JSON body in bytes.
pub const JSON_LIMIT: u64 = 64 * 1024;
/// The largest batch of telemetry in bytes: a thousand samples with every field are about 150 KB.
pub const BATCH_LIMIT: u64 = 256 * 1024;
/// The largest uploaded file in bytes.
pub const UPLOAD_LIMIT: u64 = 32 * 1024 * 1024;

/// Who answers a route.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    /// A service of this region.
    Service(&'static str),
    /// The gateway itself, from the region's policy.
    Directory,
}

/// Who may ask.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Anybody.
    Public,
    /// Whoever has a valid token of this region.
    Token,
}

/// One public route.
#[derive(Debug, Eq, PartialEq)]
pub struct Entry {
    /// The path; `{…}` stands for one opaque identifier.
    pub template: &'static str,
    /// The methods that it takes.
    pub methods: &'static [Method],
    /// Who answers.
    pub target: Target,
    /// Who may ask.
    pub access: Access,
    /// The largest body in bytes.
    pub body_limit: u64,
    /// What it is about.
    pub class: DataClass,
}

const fn entry(
    template: &'static str,
    methods: &'static [Method],
    service: &'static str,
    access: Access,
    class: DataClass,
) -> Entry {
    Entry {
        template,
        methods,
        target: Target::Service(service),
        access,
        body_limit: JSON_LIMIT,
        class,
    }
}

/// The services that answer routes, each once.
pub fn services() -> BTreeSet<&'static str> {
    let targets = TABLE.iter().map(|entry| entry.target);
    targets
        .filter_map(|target| match target {
            Target::Service(service) => Some(service),
            Target::Directory => None,
        })
        .collect()
}

const GET: &[Method] = &[Method::GET];
const POST: &[Method] = &[Method::POST];
const GET_POST: &[Method] = &[Method::GET, Method::POST];

/// All public routes.
pub static TABLE: &[Entry] = &[
    Entry {
        template: "/api/v1/regions",
        methods: GET,
        target: Target::Directory,
        access: Access::Public,
        body_limit: 0,
        class: DataClass::Operational,
    },
    entry(
        "/.well-known/jwks.json",
        GET,
        "identity",
        Access::Public,
        DataClass::Operational,
    ),
    entry("/api/v1/accounts", POST, "identity", Access::Public, DataClass::Contact),
    entry(
        "/api/v1/sessions",
        POST,
        "identity",
        Access::Public,
        DataClass::Credentials,
    ),
    entry(
        "/api/v1/service-tokens",
        POST,
        "identity",
        Access::Public,
        DataClass::Credentials,
    ),
    entry(
        "/api/v1/me",
        &[Method::GET, Method::PATCH],
        "identity",
        Access::Token,
        DataClass::Identity,
    ),
    entry(
        "/api/v1/consents",
        GET_POST,
        "consent",
        Access::Token,
        DataClass::Consent,
    ),
    entry(
        "/api/v1/consents/history",
        GET,
        "consent",
        Access::Token,
        DataClass::Consent,
    ),
    entry(
        "/api/v1/consents/receipts/{id}",
        GET,
        "consent",
        Access::Token,
        DataClass::Consent,
    ),
    entry(
        "/api/v1/objections",
        GET_POST,
        "consent",
        Access::Token,
        DataClass::Consent,
    ),
    entry(
        "/api/v1/restriction",
        GET_POST,
        "consent",
        Access::Token,
        DataClass::Consent,
    ),
    entry(
        "/api/v1/workouts",
        GET_POST,
        "training",
        Access::Token,
        DataClass::WorkoutSummary,
    ),
    entry(
        "/api/v1/workouts/{id}/commands",
        POST,
        "training",
        Access::Token,
        DataClass::WorkoutSummary,
    ),
    entry(
        "/api/v1/workouts/{id}/summary",
        GET,
        "training",
        Access::Token,
        DataClass::WorkoutSummary,
    ),
    Entry {
        body_limit: UPLOAD_LIMIT,
        ..entry("/api/v1/uploads", POST, "training", Access::Token, DataClass::Location)
    },
    Entry {
        body_limit: BATCH_LIMIT,
        ..entry(
            "/api/v1/telemetry",
            POST,
            "telemetry",
            Access::Token,
            DataClass::Location,
        )
    },
    entry(
        "/api/v1/tracks/{id}",
        GET,
        "telemetry",
        Access::Token,
        DataClass::Location,
    ),
    entry(
        "/api/v1/follows",
        GET_POST,
        "social",
        Access::Token,
        DataClass::SocialGraph,
    ),
    entry(
        "/api/v1/follows/{subject}",
        &[Method::DELETE],
        "social",
        Access::Token,
        DataClass::SocialGraph,
    ),
    entry("/api/v1/feed", GET, "social", Access::Token, DataClass::WorkoutSummary),
    entry(
        "/api/v1/shares",
        POST,
        "social",
        Access::Token,
        DataClass::WorkoutSummary,
    ),
    entry(
        "/api/v1/campaigns",
        GET_POST,
        "promotions",
        Access::Token,
        DataClass::Promotion,
    ),
    entry(
        "/api/v1/campaigns/{id}",
        GET,
        "promotions",
        Access::Token,
        DataClass::Promotion,
    ),
    entry(
        "/api/v1/campaigns/{id}/launch",
        POST,
        "promotions",
        Access::Token,
        DataClass::Promotion,
    ),
    entry(
        "/api/v1/promotions",
        GET,
        "promotions",
        Access::Token,
        DataClass::Promotion,
    ),
];

/// What a path and a method come to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Found {
    /// This route.
    Route(&'static Entry),
    /// The path is there, the method is not.
    OtherMethod(&'static Entry),
    /// A version of the API that does not exist.
    OtherVersion,
    /// Nothing.
    Nothing,
}

/// Looks a request up. The path is taken as it is: nothing is decoded or normalised, so nothing can hide in it.
#[must_use]
pub fn find(method: &Method, path: &str) -> Found {
    if let Some(rest) = path.strip_prefix("/api/") {
        let version = rest.split('/').next().unwrap_or_default();
        let is_version =
            version.len() > 1 && version.starts_with('v') && version.bytes().skip(1).all(|byte| byte.is_ascii_digit());
        if is_version && version != "v1" {
            return Found::OtherVersion;
        }
    }
    match TABLE.iter().find(|entry| matches(entry.template, path)) {
        Some(entry) if entry.methods.contains(method) => Found::Route(entry),
        Some(entry) => Found::OtherMethod(entry),
        None => Found::Nothing,
    }
}

fn matches(template: &str, path: &str) -> bool {
    let mut expected = template.split('/');
    let mut actual = path.split('/');
    loop {
        match (expected.next(), actual.next()) {
            (None, None) => return true,
            (Some(hole), Some(id)) if hole.starts_with('{') => {
                if !is_opaque_id(id) {
                    return false;
                }
            }
            (Some(literal), Some(segment)) if literal == segment => {}
            _ => return false,
        }
    }
}

/// Identifiers in paths are UUIDs and the like. Nothing that needs percent-encoding is one.
fn is_opaque_id(segment: &str) -> bool {
    (1..=64).contains(&segment.len())
        && segment
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn service(method: Method, path: &str) -> Option<&'static str> {
        match find(&method, path) {
            Found::Route(Entry {
                target: Target::Service(name),
                ..
            }) => Some(name),
            _ => None,
        }
    }

    #[test]
    fn each_public_route_has_its_service() {
        let table = [
            (Method::POST, "/api/v1/accounts", "identity"),
            (Method::POST, "/api/v1/sessions", "identity"),
            (Method::POST, "/api/v1/service-tokens", "identity"),
            (Method::GET, "/.well-known/jwks.json", "identity"),
            (Method::GET, "/api/v1/me", "identity"),
            (Method::PATCH, "/api/v1/me", "identity"),
            (Method::POST, "/api/v1/consents", "consent"),
            (Method::GET, "/api/v1/consents", "consent"),
            (Method::GET, "/api/v1/consents/history", "consent"),
            (Method::GET, "/api/v1/consents/receipts/0194-a", "consent"),
            (Method::POST, "/api/v1/objections", "consent"),
            (Method::GET, "/api/v1/restriction", "consent"),
            (Method::POST, "/api/v1/workouts", "training"),
            (Method::POST, "/api/v1/workouts/0194-a/commands", "training"),
            (Method::GET, "/api/v1/workouts/0194-a/summary", "training"),
            (Method::POST, "/api/v1/uploads", "training"),
            (Method::POST, "/api/v1/telemetry", "telemetry"),
            (Method::GET, "/api/v1/tracks/0194-a", "telemetry"),
            (Method::POST, "/api/v1/follows", "social"),
            (Method::DELETE, "/api/v1/follows/0194-a", "social"),
            (Method::GET, "/api/v1/feed", "social"),
            (Method::POST, "/api/v1/shares", "social"),
            (Method::POST, "/api/v1/campaigns", "promotions"),
            (Method::GET, "/api/v1/campaigns/0194-a", "promotions"),
            (Method::POST, "/api/v1/campaigns/0194-a/launch", "promotions"),
            (Method::GET, "/api/v1/promotions", "promotions"),
        ];
        for (method, path, expected) in table {
            assert_eq!(service(method.clone(), path), Some(expected), "{method} {path}");
        }
    }

    #[test]
    fn what_is_between_services_is_not_there_for_the_public() {
        for path in [
            "/internal/permits",
            "/internal/tracks",
            "/peer/v1/batches",
            "/metrics",
            "/livez",
            "/v1/keys/resolve",
        ] {
            for method in [Method::GET, Method::POST] {
                assert_eq!(find(&method, path), Found::Nothing, "{method} {path}");
            }
        }
    }

    #[test]
    fn a_path_that_hides_another_is_nothing() {
        for path in [
            "/api/v1/../internal/permits",
            "/api/v1//me",
            "/api/v1/me/",
            "/api/v1/%6de",
            "/api/v1/tracks/..",
            "/api/v1/tracks/%2e%2e",
            "/api/v1/tracks/a/b",
            "/api/v1/tracks/",
            "/API/v1/me",
            "*",
            "",
        ] {
            assert_eq!(find(&Method::GET, path), Found::Nothing, "{path}");
        }
    }

    #[test]
    fn another_version_is_told_from_nothing() {
        assert_eq!(find(&Method::GET, "/api/v2/me"), Found::OtherVersion);
        assert_eq!(find(&Method::GET, "/api/v0/anything"), Found::OtherVersion);
        assert_eq!(find(&Method::GET, "/api/vx/me"), Found::Nothing);
    }

    #[test]
    fn another_method_is_told_from_nothing() {
        assert!(matches!(find(&Method::DELETE, "/api/v1/me"), Found::OtherMethod(_)));
    }

    #[test]
    fn only_uploads_and_batches_may_be_large() {
        let large: Vec<_> = TABLE
            .iter()
            .filter(|entry| entry.body_limit > JSON_LIMIT)
            .map(|entry| entry.template)
            .collect();
        assert_eq!(large, ["/api/v1/uploads", "/api/v1/telemetry"]);
    }

    proptest! {
        #[test]
        fn no_path_reaches_a_service_but_those_of_the_table(path in "/[ -~]{0,80}") {
            if let Found::Route(entry) = find(&Method::POST, &path) {
                prop_assert!(path.starts_with("/api/v1/") || path == "/.well-known/jwks.json");
                prop_assert!(!path.contains("..") && !path.contains('%'));
                prop_assert_eq!(entry.template.matches('/').count(), path.matches('/').count());
            }
        }
    }
}
