//! `desired` as a pool's driver is told it, when it asks. It is read from the pool's status, so that every replica tells the
//! same, and told only as long as the backlog is seen: a driver that hears nothing leaves the writers as they are.

use super::driver::path;
use super::validate::{Driver, validate};
use crate::apply::observed;
use crate::manifest::{INGEST_POOL, ObjectKey};
use crate::region::only_region;
use crate::region::stack::Served;
use crate::watch::Cache;
use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use meridian_kit::problem::{Json, Problem};
use meridian_policy::RegionName;
use serde_json::{Value, json};

/// Why a driver is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untold {
    /// There is no such pool in this region, or another driver scales it, or nobody is to.
    NotItsDriver,
    /// The backlog is not seen.
    NotObserved,
}

/// What drivers may ask about: the pools of the region that is laid down here.
#[derive(Clone)]
pub struct Pools {
    cache: Cache,
    served: Served,
}

impl Pools {
    /// Those that are in this cache, of the region that is served.
    #[must_use]
    pub const fn new(cache: Cache, served: Served) -> Self {
        Self { cache, served }
    }

    /// The region, once it is known; a replica that does not lead goes by what it sees.
    #[must_use]
    pub fn region(&self) -> Option<RegionName> {
        self.served.get().cloned().or_else(|| only_region(&self.cache))
    }

    /// How many writers this pool's driver is to see to.
    ///
    /// # Errors
    /// See [`Untold`].
    pub fn desired(&self, pool: &str, driver: Driver) -> Result<u32, Untold> {
        let object = self.cache.get(&ObjectKey::cluster(INGEST_POOL, pool));
        let object = object.ok_or(Untold::NotItsDriver)?;
        let region = self.region().ok_or(Untold::NotItsDriver)?;
        desired(&observed(&object), &region, driver)
    }
}

fn desired(object: &Value, region: &RegionName, driver: Driver) -> Result<u32, Untold> {
    let pool = validate(object).map_err(|_| Untold::NotItsDriver)?;
    if pool.region != *region
        || pool.driver != driver
        || pool.paused
        || !object["metadata"]["deletionTimestamp"].is_null()
    {
        return Err(Untold::NotItsDriver);
    }
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let backlog = conditions.filter(|one| one["type"] == "Saturated");
    let seen = backlog
        .map(|one| &one["status"])
        .any(|status| status == "True" || status == "False");
    let desired = object["status"]["desired"].as_u64().filter(|_| seen);
    desired
        .and_then(|desired| u32::try_from(desired).ok())
        .ok_or(Untold::NotObserved)
}

/// Where KEDA asks: plain HTTP, since it is a number of pods, as it stands beside them in the metrics.
pub fn router(pools: Pools) -> Router {
    Router::new().route(&path("{pool}"), get(answer)).with_state(pools)
}

async fn answer(State(pools): State<Pools>, Path(pool): Path<String>) -> Result<Json<Value>, Problem> {
    match pools.desired(&pool, Driver::Keda) {
        Ok(desired) => Ok(Json(json!({"desired": desired}))),
        Err(Untold::NotItsDriver) => Err(Problem::not_found(
            "no-such-pool",
            "KEDA scales no pool of that name in this region",
        )),
        Err(Untold::NotObserved) => Err(Problem::unavailable(
            "not-observed",
            "the pool's backlog is not seen; its writers stay as they are",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Value {
        json!({"metadata": {"name": "samples", "uid": "u"},
            "spec": {"region": "eu", "partitions": 6, "scaling": {"driver": "KEDA", "min": 1, "max": 4}},
            "status": {"desired": 3, "conditions": [{"type": "Saturated", "status": "False"}]}})
    }

    fn asked(object: &Value) -> Result<u32, Untold> {
        desired(object, &"eu".parse().unwrap(), Driver::Keda)
    }

    #[test]
    fn the_pools_driver_is_told_what_is_desired() {
        assert_eq!(asked(&pool()), Ok(3));
    }

    #[test]
    fn nobody_is_told_of_a_pool_that_another_scales_or_nobody_or_that_is_elsewhere() {
        for (path, value) in [
            ("/spec/scaling/driver", json!("Direct")),
            ("/spec/scaling/driver", json!("HPA")),
            ("/spec/region", json!("us")),
        ] {
            let mut other = pool();
            *other.pointer_mut(path).unwrap() = value;
            assert_eq!(asked(&other), Err(Untold::NotItsDriver), "{path}");
        }
        let mut paused = pool();
        paused["spec"]["paused"] = json!(true);
        assert_eq!(asked(&paused), Err(Untold::NotItsDriver));
        let mut leaving = pool();
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(asked(&leaving), Err(Untold::NotItsDriver));
    }

    #[test]
    fn a_number_from_before_the_backlog_was_lost_from_sight_is_not_told() {
        let mut unseen = pool();
        unseen["status"]["conditions"][0]["status"] = json!("Unknown");
        assert_eq!(asked(&unseen), Err(Untold::NotObserved));
        let mut new = pool();
        new["status"] = json!({});
        assert_eq!(asked(&new), Err(Untold::NotObserved));
    }
}
