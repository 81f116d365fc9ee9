//! Pauses that grow with each failure, per edge: what cannot be told now is told later, and not in a loop.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use meridian_policy::EdgeId;

use crate::domain::delivery::pause;

/// How often each edge's matter has failed, and when it is tried again.
#[derive(Debug, Default)]
pub struct Patience(Mutex<HashMap<EdgeId, (u32, Instant)>>);

impl Patience {
    fn waits(&self) -> MutexGuard<'_, HashMap<EdgeId, (u32, Instant)>> {
        // Every change of the map is a single call: a poisoned lock still guards a whole map.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it may be tried now.
    pub fn is_over(&self, edge: &EdgeId) -> bool {
        self.waits().get(edge).is_none_or(|(_, until)| Instant::now() >= *until)
    }

    /// It failed (again).
    pub fn wait_longer(&self, edge: &EdgeId) {
        let mut waits = self.waits();
        let failures = waits.get(edge).map_or(1, |(failures, _)| failures.saturating_add(1));
        waits.insert(edge.clone(), (failures, Instant::now() + pause(failures)));
    }

    /// It succeeded.
    pub fn forget(&self, edge: &EdgeId) {
        self.waits().remove(edge);
    }
}
