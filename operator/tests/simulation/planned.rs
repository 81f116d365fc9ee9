//! The policy that follows from what there is, as the hub itself would compile it.

use kube::api::DynamicObject;
use meridian_operator::hub::members::OBSERVED;
use meridian_operator::hub::source::{Seen, gather};
use meridian_operator::manifest::{FITNESS_REGION, INGEST_POOL, JURISDICTION, Kind, PARTY, TENANT_DATA_RESIDENCY};
use meridian_operator::watch::Cache;
use meridian_policy::{CompiledPolicy, compile};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

const ON_A_HUB: &[Kind] = &[JURISDICTION, PARTY, FITNESS_REGION, TENANT_DATA_RESIDENCY, INGEST_POOL];

pub fn resource(kind: Kind) -> String {
    format!("{}/{}", kind.group, kind.plural)
}

/// `all` gives a server's objects of a resource.
pub fn policy(all: impl Fn(&str, &str) -> Vec<Arc<Value>>) -> Option<CompiledPolicy> {
    let cache = |server: &str, kinds: &[Kind]| {
        let cache = Cache::default();
        for kind in kinds {
            let objects = all(server, &resource(*kind)).into_iter();
            let parse = |value: Arc<Value>| serde_json::from_value::<DynamicObject>(value.as_ref().clone()).ok();
            cache.take(*kind, objects.filter_map(parse));
        }
        cache
    };
    let hub = cache("hub", ON_A_HUB);
    let held: BTreeMap<_, _> = ["eu", "us"].map(|member| (member, cache(member, OBSERVED))).into();
    let seen = |member: &str| Seen {
        held: held.get(member).cloned(),
        awaited: false,
    };
    Some(compile(&gather(&hub, seen)?, jiff::Timestamp::now()))
}
