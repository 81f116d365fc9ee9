//! Where a request goes: by its token first, then by its path; geography decides for nobody who has either.
//!
//! A home address is named only to who proved, by a token that this region or a peer signed, to have an account. All
//! others get one and the same 401.

use http::Method;
use meridian_policy::{DataClass, RegionPolicy, TenantId};

use super::table::{Access, Entry, Found, Target, find};

/// What a request's `Authorization` header proved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Bearer {
    /// There is none.
    None,
    /// There is something that gives no entry: malformed, forged, expired, of an unknown issuer, of an old epoch. Which,
    /// nobody learns here.
    Invalid,
    /// A valid token of an account whose home is here.
    Home {
        /// Its tenant.
        tenant: TenantId,
    },
    /// A valid token, signed by this region or a peer, of an account whose home is elsewhere.
    Elsewhere {
        /// The public address of its home.
        home: String,
    },
    /// A token that cannot be told valid or not, because the keys cannot be had.
    Unverifiable,
}

/// What becomes of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Route {
    /// On to a service of this region.
    Upstream {
        /// Which.
        service: &'static str,
        /// By which route.
        entry: &'static Entry,
    },
    /// 421: the account lives elsewhere.
    Misdirected {
        /// The public address of its home.
        home: String,
    },
    /// 401, the same for every cause.
    Unauthorized,
    /// 503: whether to let it in cannot be told now.
    Unverifiable,
    /// 404.
    NotFound,
    /// 404 of a version that this API does not have.
    UnknownVersion,
    /// 405.
    MethodNotAllowed(&'static [Method]),
    /// 451: the law that holds here does not let this class be kept for this tenant.
    UnavailableForLegalReasons {
        /// The class.
        class: DataClass,
    },
    /// The directory of regions, which the gateway answers itself.
    Directory,
}

/// Decides, from the head of a request alone. A `Meridian-Tenant` header has no say: it is a claim, not a proof, and
/// identity answers a wrong one like any other failure.
#[must_use]
pub fn decide(method: &Method, path: &str, bearer: &Bearer, policy: &RegionPolicy) -> Route {
    let entry = match find(method, path) {
        Found::Route(entry) => entry,
        Found::OtherMethod(entry) => return Route::MethodNotAllowed(entry.methods),
        Found::OtherVersion => return Route::UnknownVersion,
        Found::Nothing => return Route::NotFound,
    };
    let Target::Service(service) = entry.target else {
        return Route::Directory;
    };
    match (bearer, entry.access) {
        (Bearer::Elsewhere { home }, _) => Route::Misdirected { home: home.clone() },
        (Bearer::Home { tenant }, _) => match forbidden_class(tenant, entry.class, policy) {
            Some(class) => Route::UnavailableForLegalReasons { class },
            None => Route::Upstream { service, entry },
        },
        // Someone who signs in anew brings an old token along as often as not.
        (Bearer::None | Bearer::Invalid | Bearer::Unverifiable, Access::Public) => Route::Upstream { service, entry },
        (Bearer::None | Bearer::Invalid, Access::Token) => Route::Unauthorized,
        (Bearer::Unverifiable, Access::Token) => Route::Unverifiable,
    }
}

/// A class that the law lets nobody keep for a single day is not taken in, and there is nothing of it to show.
fn forbidden_class(tenant: &TenantId, class: DataClass, policy: &RegionPolicy) -> Option<DataClass> {
    let days = policy
        .home(tenant)
        .and_then(|home| home.retention.get(&class))
        .or_else(|| policy.retention.get(&class));
    (days == Some(&0)).then_some(class)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::table::TABLE;

    const US: &str = "https://us.meridian.localhost:9443";

    fn policy() -> RegionPolicy {
        serde_json::from_value(serde_json::json!({
            "region": "eu", "jurisdiction": "eu", "revision": 7,
            "public_url": "https://eu.meridian.localhost:8443", "issuer": "https://eu.meridian.localhost:8443",
            "countries_served": ["DE"], "directory": [], "exports": [], "imports": [], "retention": {},
            "homes": [{"tenant": "stride-eu", "organization": "stride", "epoch": 3}],
            "peers": [{"region": "us", "public_url": US, "replicator_url": "https://us:30444", "ca_pem": "", "issuer": US,
                       "jwks": {"keys": []}, "tenants": [{"tenant": "stride-us", "organization": "stride"}]}],
        }))
        .expect("a policy")
    }

    fn athlete() -> Bearer {
        Bearer::Home {
            tenant: "stride-eu".parse().unwrap(),
        }
    }

    fn elsewhere() -> Bearer {
        Bearer::Elsewhere { home: US.to_owned() }
    }

    fn path_of(entry: &Entry) -> String {
        entry.template.replace("{id}", "x").replace("{subject}", "x")
    }

    #[test]
    fn an_athlete_of_this_region_passes() {
        let route = decide(&Method::GET, "/api/v1/me", &athlete(), &policy());
        assert!(matches!(
            route,
            Route::Upstream {
                service: "identity",
                ..
            }
        ));
    }

    #[test]
    fn an_athlete_of_elsewhere_is_sent_home_from_protected_and_public_routes() {
        let home = Route::Misdirected { home: US.to_owned() };
        for (method, path) in [
            (Method::GET, "/api/v1/me"),
            (Method::POST, "/api/v1/sessions"),
            (Method::POST, "/api/v1/uploads"),
        ] {
            assert_eq!(decide(&method, path, &elsewhere(), &policy()), home, "{path}");
        }
    }

    #[test]
    fn the_directory_is_for_everybody() {
        for bearer in [
            Bearer::None,
            Bearer::Invalid,
            athlete(),
            elsewhere(),
            Bearer::Unverifiable,
        ] {
            assert_eq!(
                decide(&Method::GET, "/api/v1/regions", &bearer, &policy()),
                Route::Directory
            );
        }
    }

    #[test]
    fn without_a_token_only_public_routes_pass() {
        for entry in TABLE {
            let route = decide(&entry.methods[0], &path_of(entry), &Bearer::None, &policy());
            match (entry.access, entry.target) {
                (_, Target::Directory) => assert_eq!(route, Route::Directory),
                (Access::Public, _) => assert!(matches!(route, Route::Upstream { .. }), "{}", entry.template),
                (Access::Token, _) => assert_eq!(route, Route::Unauthorized, "{}", entry.template),
            }
        }
    }

    #[test]
    fn whoever_cannot_be_verified_waits_but_can_sign_in() {
        assert_eq!(
            decide(&Method::GET, "/api/v1/me", &Bearer::Unverifiable, &policy()),
            Route::Unverifiable
        );
        let login = decide(&Method::POST, "/api/v1/sessions", &Bearer::Unverifiable, &policy());
        assert!(matches!(login, Route::Upstream { .. }));
    }

    #[test]
    fn a_class_that_may_not_be_kept_is_451() {
        let mut policy = policy();
        policy.homes[0].retention.insert(DataClass::Location, 0);
        let route = decide(&Method::POST, "/api/v1/telemetry", &athlete(), &policy);
        assert_eq!(
            route,
            Route::UnavailableForLegalReasons {
                class: DataClass::Location
            }
        );
        assert!(matches!(
            decide(&Method::GET, "/api/v1/feed", &athlete(), &policy),
            Route::Upstream { .. }
        ));
    }

    fn any_path() -> impl Strategy<Value = String> {
        prop_oneof![
            "/[ -~]{0,60}",
            (0..TABLE.len()).prop_map(|index| path_of(&TABLE[index]))
        ]
    }

    fn any_method() -> impl Strategy<Value = Method> {
        prop::sample::select(vec![Method::GET, Method::POST, Method::PATCH, Method::DELETE])
    }

    proptest! {
        #[test]
        fn no_home_is_named_without_a_valid_token(
            path in any_path(),
            method in any_method(),
            bearer in prop::sample::select(vec![Bearer::None, Bearer::Invalid, Bearer::Unverifiable]),
        ) {
            let names_a_home = matches!(decide(&method, &path, &bearer, &policy()), Route::Misdirected { .. });
            prop_assert!(!names_a_home);
        }

        #[test]
        fn an_invalid_token_is_treated_as_none(path in any_path(), method in any_method()) {
            let policy = policy();
            prop_assert_eq!(decide(&method, &path, &Bearer::Invalid, &policy), decide(&method, &path, &Bearer::None, &policy));
        }

        #[test]
        fn an_athlete_of_elsewhere_reaches_no_service(path in any_path(), method in any_method()) {
            let reaches_a_service = matches!(decide(&method, &path, &elsewhere(), &policy()), Route::Upstream { .. });
            prop_assert!(!reaches_a_service);
        }
    }
}
