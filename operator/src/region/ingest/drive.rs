//! One scales, and never two: what told another driver goes first, and the next one begins when nothing of it is left.

use super::driver::{self, Held, KINDS};
use super::validate::{Driver, Pool};
use super::{PoolError, Pools};
use crate::apply::{Applied, ApplyError, Purpose, observed};
use crate::conditions::Observation;
use crate::manifest::{AUTOSCALER, Kind, Manifest, ObjectKey, SCALED_OBJECT};
use crate::region::stack::validate::{Stack, namespace};
use std::time::Duration;
use tokio::time::Instant;

/// What became of a pool's driver in a pass.
#[derive(Debug)]
pub(super) struct Driven {
    pub(super) written: usize,
    /// Why nobody scales, if nobody does.
    pub(super) held: Option<Held>,
    /// Whether somebody does.
    pub(super) activity: Observation,
}

/// Within so long a driver whose object is gone has ended what it was in the middle of.
const IN_FLIGHT: Duration = Duration::from_secs(2);

impl Driven {
    /// Nobody is to scale.
    pub(super) fn paused() -> Self {
        Self {
            written: 0,
            held: None,
            activity: Observation::new("ScalingActive", false, "Paused", "spec.paused is true"),
        }
    }

    fn held(held: Held) -> Self {
        Self {
            written: 0,
            activity: Observation::new("ScalingActive", false, held.reason(), held.message()),
            held: Some(held),
        }
    }

    /// Nobody scales because of this, if there is something.
    pub(super) fn held_by(&mut self, held: Option<Held>) {
        if let Some(held) = held {
            *self = Self {
                written: self.written,
                ..Self::held(held)
            };
        }
    }
}

impl Pools {
    /// Removes what tells other drivers than the pool's, or any while it is paused, whatever else is the matter with it.
    pub(super) async fn dismiss_others(&self, pool: &Pool) -> Result<usize, ApplyError> {
        let stays = driver::kind(pool.driver).filter(|_| !pool.paused);
        let dismissed = self.dismiss(&pool.name, stays).await?;
        if dismissed.is_some() {
            self.with_memory(pool, |memory| memory.handed_over = Some(Instant::now()));
        }
        Ok(dismissed.unwrap_or(0))
    }

    /// Removes what tells drivers of this pool, but for the one that is to stay; nothing when there was nothing of it.
    pub(super) async fn dismiss(&self, pool: &str, stays: Option<Kind>) -> Result<Option<usize>, ApplyError> {
        let mut dismissed = None;
        for kind in KINDS.into_iter().filter(|kind| Some(*kind) != stays) {
            for (key, object) in self.applier.cache().of_kind(kind) {
                if !driver::is_told_by_us(&object, pool) {
                    continue;
                }
                let written = dismissed.get_or_insert(0);
                // What is being deleted may be held by the driver, which cleans up after itself.
                if object.metadata.deletion_timestamp.is_none() {
                    self.applier.delete(&key, object.metadata.uid.clone()).await?;
                    *written += 1;
                }
            }
        }
        Ok(dismissed)
    }

    /// Sees to it that the pool's driver, and nobody else, is told to scale. `asked`: the replicas as they are.
    pub(super) async fn drive(
        &self,
        pool: &Pool,
        stack: &Stack,
        writers: &ObjectKey,
        asked: u32,
    ) -> Result<Driven, PoolError> {
        let told = driver::plan(stack, pool)?;
        let handed_over = self.with_memory(pool, |memory| memory.handed_over);
        if handed_over.is_some_and(|at| at.elapsed() < IN_FLIGHT) {
            return Ok(Driven::held(Held::HandingOver("the former driver".to_owned())));
        }
        let Some(told) = told else {
            return Ok(Driven {
                written: 0,
                held: None,
                activity: driver::activity(Driver::Direct, None),
            });
        };
        if pool.driver == Driver::Keda && !self.applier.cache().is_synced(&[SCALED_OBJECT]) {
            return Ok(Driven::held(Held::NoKeda));
        }
        if let Some(held) = self.rival_before(pool, &told).await? {
            return Ok(Driven::held(held));
        }
        let written = self.tell(pool, &told, writers, asked).await?;
        let live = self.applier.cache().get(told.key()).map(|live| observed(&live));
        Ok(Driven {
            written,
            held: None,
            activity: driver::activity(pool.driver, live.as_ref()),
        })
    }

    /// Whoever else scales the writers, asked of the API server itself: what a cache does not know yet would scale too.
    pub(super) async fn rival(&self, pool: &Pool) -> Result<Option<Held>, ApplyError> {
        let namespace = namespace(&pool.region);
        let autoscalers = self.applier.read_all(AUTOSCALER, &namespace).await?;
        let scaled_objects = self.applier.read_all(SCALED_OBJECT, &namespace).await?;
        Ok(driver::rival(pool, &autoscalers, &scaled_objects))
    }

    /// The same before a driver is told anything; one that has been told already goes on.
    async fn rival_before(&self, pool: &Pool, told: &Manifest) -> Result<Option<Held>, ApplyError> {
        if self.applier.is_as_planned(told)? {
            return Ok(None);
        }
        self.rival(pool).await
    }

    async fn tell(&self, pool: &Pool, told: &Manifest, writers: &ObjectKey, asked: u32) -> Result<usize, PoolError> {
        let mut written = 0;
        let is_new = self.applier.cache().get(told.key()).is_none();
        if pool.driver == Driver::Hpa && is_new && asked == 0 {
            // A HorizontalPodAutoscaler leaves alone what somebody has scaled to zero.
            self.scale(writers, pool.limits.min.max(1)).await?;
            written += 1;
        }
        let applied = self.applier.apply(Purpose::RegionScaler, told).await?;
        Ok(written + usize::from(applied != Applied::Unchanged))
    }
}
