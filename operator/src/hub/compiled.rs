//! The compiled policy: made anew whenever what it is made from changes, or when something in it begins or ends.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use meridian_policy::{CompiledPolicy, PolicySource, compile};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::changed::{Concerned, concerned};

/// Changes that come together are compiled together: `kubectl apply -f` of a folder is one change.
const GATHER: Duration = Duration::from_millis(30);
/// How soon what was not known yet is looked for again, whether or not anything is heard.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest sleep while nothing is due; a clock that was set back is noticed within it.
const LONGEST: Duration = Duration::from_secs(60);

/// A compiled policy and which one it is.
pub struct Compiled {
    /// Grows by one with every compile of this process.
    pub serial: u64,
    /// When it was compiled.
    pub at: Timestamp,
    /// The policy.
    pub policy: CompiledPolicy,
}

/// Where the newest compiled policy is found. Clones share it.
#[derive(Clone)]
pub struct Newest {
    current: Arc<watch::Sender<Option<Arc<Compiled>>>>,
    changed: Arc<Notify>,
}

impl Default for Newest {
    fn default() -> Self {
        Self {
            current: Arc::new(watch::Sender::new(None)),
            changed: Arc::default(),
        }
    }
}

impl Newest {
    /// The newest policy; none before the first compile.
    #[must_use]
    pub fn get(&self) -> Option<Arc<Compiled>> {
        self.current.borrow().clone()
    }

    /// Its serial number, 0 before the first compile.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.current.borrow().as_ref().map_or(0, |compiled| compiled.serial)
    }

    /// Something that the policy is made from may have changed.
    pub fn source_changed(&self) {
        self.changed.notify_one();
    }
}

/// Compiles until shutdown. `gather` gives the source, or nothing while not everything that must be known is known.
/// `expect` hears of every new policy's serial number and whom it concerns before anybody can see it, `announce` whom it
/// concerns after that.
///
/// # Errors
/// None: what is wrong with a source is part of the compiled policy.
pub async fn keep(
    newest: Newest,
    mut gather: impl FnMut() -> Option<PolicySource> + Send + 'static,
    expect: impl Fn(u64, &Concerned) + Send + 'static,
    announce: impl Fn(&Concerned) + Send + 'static,
    shutdown: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    let mut due = LONGEST;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = newest.changed.notified() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(due) => {}
        }
        let Some(source) = gather() else {
            due = AGAIN;
            continue;
        };
        let now = Timestamp::now();
        let previous = newest.get();
        if previous.as_ref().is_none_or(|known| is_due(known, &source, now)) {
            let serial = newest.serial() + 1;
            let concerned = previous.as_ref().map_or(Concerned::Everybody, |known| {
                concerned(&known.policy, known.at, &source, now)
            });
            let policy = match (&previous, &concerned) {
                (Some(known), Concerned::Only { tenants, .. }) => known.policy.recompile(source, tenants, now),
                _ => compile(&source, now),
            };
            expect(serial, &concerned);
            tracing::info!(revision = serial, "policy compiled");
            newest.current.send_replace(Some(Arc::new(Compiled {
                serial,
                at: now,
                policy,
            })));
            announce(&concerned);
        }
        due = newest
            .get()
            .map_or(LONGEST, |compiled| until_next(&compiled.policy, now));
    }
}

fn is_due(known: &Compiled, source: &PolicySource, now: Timestamp) -> bool {
    known.policy.source() != source || known.policy.next_look(known.at).is_some_and(|moment| moment <= now)
}

fn until_next(policy: &CompiledPolicy, now: Timestamp) -> Duration {
    policy
        .next_look(now)
        .and_then(|moment| Duration::try_from(moment.duration_since(now)).ok())
        .map_or(LONGEST, |wait| wait.min(LONGEST))
}
