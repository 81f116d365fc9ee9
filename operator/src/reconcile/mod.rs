//! Running reconcile passes: one per object at a time, bounded concurrency, back-off per object that a success resets.
//!
//! `kube::runtime::Controller` retries by what its error policy says for the object at hand and knows no key but the one
//! kind it was made for; a hub's keys are regions, tenants and pools of many members. So keys here are the caller's own.

mod queue;

pub use queue::{Backoff, Queue};

use crate::metrics::Metrics;
use crate::trace;
use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// How a pass ended when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was as planned: nothing was written.
    Steady,
    /// Something was written.
    Progressed,
    /// It waits for something that a watch will report.
    Waiting,
    /// The object's content is refused; only a change of it can help.
    Refused,
    /// The object is gone, nothing is left to do.
    Gone,
}

impl Outcome {
    const fn label(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Progressed => "progressed",
            Self::Waiting => "waiting",
            Self::Refused => "refused",
            Self::Gone => "gone",
        }
    }
}

/// The result of a pass: how it ended, and when to look again though no watch says so (certificates, probes of services).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// How it ended.
    pub outcome: Outcome,
    /// When to look again; `None` leaves it to watches.
    pub again: Option<Duration>,
}

impl Pass {
    /// Ended so, watches tell the rest.
    #[must_use]
    pub const fn of(outcome: Outcome) -> Self {
        Self { outcome, again: None }
    }

    /// The same, but looked at again after `delay` at the latest.
    #[must_use]
    pub const fn again(self, delay: Duration) -> Self {
        Self {
            again: Some(delay),
            ..self
        }
    }
}

/// Bounds of one controller.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Passes at the same time. Never zero.
    pub concurrency: usize,
    /// How long a pass may take before it counts as failed (recorded as "abandoned").
    pub timeout: Duration,
    /// Back-off after failures.
    pub backoff: Backoff,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            concurrency: 4,
            timeout: Duration::from_secs(60),
            backoff: Backoff::default(),
        }
    }
}

/// A pass panicked. The controller ends with it, and the process with the controller.
#[derive(Debug, thiserror::Error)]
#[error("a pass of controller {controller} panicked: {cause}")]
pub struct Panicked {
    controller: &'static str,
    cause: String,
}

/// Runs passes for the queue's keys until shutdown.
///
/// # Errors
/// Only when a pass panicked: a defect of ours, which a restart shows and a silent loop hides.
pub async fn run<K, E, F, R>(
    queue: Queue<K>,
    bounds: Bounds,
    metrics: Metrics,
    shutdown: CancellationToken,
    reconcile: R,
) -> Result<(), Panicked>
where
    K: Ord + Hash + Clone + Debug + Send + Sync + 'static,
    E: Display + Send + 'static,
    F: Future<Output = Result<Pass, E>> + Send + 'static,
    R: Fn(K) -> F,
{
    let controller = queue.name();
    let mut passes = JoinSet::new();
    loop {
        let room = passes.len() < bounds.concurrency.max(1);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = passes.join_next() => finish(&queue, bounds.backoff, &metrics, ended.map_err(|e: tokio::task::JoinError| Panicked { controller, cause: e.to_string() })?),
            key = queue.next(), if room => {
                let (pass, span) = (reconcile(key.clone()), trace::pass(controller));
                passes.spawn(async move {
                    let began = Instant::now();
                    let result = tokio::time::timeout(bounds.timeout, pass.instrument(span.clone())).await;
                    span.record("outcome", label(&result));
                    (key, began.elapsed(), result)
                });
            }
        }
        metrics.queue_depth(controller, queue.depth());
    }
    // Passes in flight are dropped at an await point: every write is one request, and the next leader plans anew.
    passes.shutdown().await;
    Ok(())
}

type Ran<E> = Result<Result<Pass, E>, tokio::time::error::Elapsed>;
type Ended<K, E> = (K, Duration, Ran<E>);

const fn label<E>(result: &Ran<E>) -> &'static str {
    match result {
        Ok(Ok(pass)) => pass.outcome.label(),
        Ok(Err(_)) => "failed",
        Err(_) => "abandoned",
    }
}

fn finish<K, E>(queue: &Queue<K>, backoff: Backoff, metrics: &Metrics, (key, took, result): Ended<K, E>)
where
    K: Ord + Hash + Clone + Debug,
    E: Display,
{
    match &result {
        Ok(Ok(pass)) => queue.done(&key, pass.again),
        Ok(Err(error)) => {
            let delay = queue.failed(&key, backoff);
            tracing::warn!(task = queue.name(), resource = ?key, error = %error, delay_ms = millis(delay), "reconcile failed");
        }
        Err(_) => {
            let delay = queue.failed(&key, backoff);
            tracing::warn!(task = queue.name(), resource = ?key, delay_ms = millis(delay), "reconcile took too long and was abandoned");
        }
    }
    metrics.pass(queue.name(), label(&result), took);
}

fn millis(delay: Duration) -> u64 {
    u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// The same rules in milliseconds.
    fn quick() -> Bounds {
        let backoff = Backoff {
            first: Duration::from_millis(1),
            longest: Duration::from_millis(10),
        };
        Bounds {
            timeout: Duration::from_millis(20),
            backoff,
            ..Bounds::default()
        }
    }

    #[tokio::test]
    async fn a_failing_object_is_tried_again_later_and_does_not_hold_up_others() {
        let queue = Queue::new("test");
        queue.now("bad");
        queue.now("good");
        let (good, bad) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let shutdown = CancellationToken::new();
        let (g, b, done) = (good.clone(), bad.clone(), shutdown.clone());
        let bounds = Bounds {
            concurrency: 1,
            ..quick()
        };
        run(queue, bounds, Metrics::default(), shutdown, move |key| {
            let (g, b, done) = (g.clone(), b.clone(), done.clone());
            async move {
                if key == "good" {
                    g.fetch_add(1, Ordering::SeqCst);
                    return Ok(Pass::of(Outcome::Steady));
                }
                if b.fetch_add(1, Ordering::SeqCst) == 3 {
                    done.cancel();
                }
                Err("refused by the test")
            }
        })
        .await
        .unwrap();
        assert_eq!((good.load(Ordering::SeqCst), bad.load(Ordering::SeqCst)), (1, 4));
    }

    #[tokio::test]
    async fn a_pass_that_hangs_is_abandoned_and_tried_again() {
        let queue = Queue::new("test");
        queue.now(1);
        let tries = Arc::new(AtomicUsize::new(0));
        let (shutdown, counted) = (CancellationToken::new(), tries.clone());
        let done = shutdown.clone();
        run(queue, quick(), Metrics::default(), shutdown, move |_| {
            let (counted, done) = (counted.clone(), done.clone());
            async move {
                if counted.fetch_add(1, Ordering::SeqCst) == 1 {
                    done.cancel();
                }
                std::future::pending::<()>().await;
                Ok::<_, String>(Pass::of(Outcome::Steady))
            }
        })
        .await
        .unwrap();
        assert_eq!(tries.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_panicking_pass_ends_the_controller() {
        let queue = Queue::new("test");
        queue.now(1);
        let ended = run(
            queue,
            Bounds::default(),
            Metrics::default(),
            CancellationToken::new(),
            |_| async {
                panic!("boom");
                #[allow(unreachable_code)]
                Ok::<_, String>(Pass::of(Outcome::Steady))
            },
        );
        assert!(ended.await.is_err());
    }
}
