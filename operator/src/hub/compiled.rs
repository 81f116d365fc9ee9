//! The compiled policy: made anew whenever what it is made from changes, or when something in it begins or ends.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;
use meridian_policy::{CompiledPolicy, PolicySource, TenantId, compile};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::changed::{Concerned, concerned};
use super::region::Told;

/// Changes that come together are compiled together: `kubectl apply -f` of a folder is one change, and so are tenants that
/// change twenty times a second, of whom each compile looks at all.
const GATHER: Duration = Duration::from_millis(100);
/// How soon what was not known yet is looked for again, whether or not anything is heard.
const AGAIN: Duration = Duration::from_millis(500);
/// The longest sleep while nothing is due; a clock that was set back is noticed within it.
const LONGEST: Duration = Duration::from_secs(60);

/// A compiled policy and which one it is.
pub struct Compiled {
    /// Grows by one with every compile of this process.
    pub serial: u64,
    /// When it was compiled.
    pub at: Timestamp,
    /// The policy that is carried out: what the two below both allow.
    pub policy: Arc<CompiledPolicy>,
    /// Of what is approved.
    approved: Arc<CompiledPolicy>,
    /// Of what is written.
    written: Arc<CompiledPolicy>,
    told: Arc<OnceLock<Told>>,
}

impl Compiled {
    /// What it tells regions of each other.
    pub(crate) fn told(&self) -> &Told {
        self.told.get_or_init(|| Told::of(&self.policy))
    }

    /// What people wrote, whether or not it is in force.
    #[must_use]
    pub fn written(&self) -> &CompiledPolicy {
        &self.written
    }

    /// Whether what is written of a tenant waits for an approval.
    #[must_use]
    pub fn waits(&self, tenant: &TenantId) -> bool {
        let spec = |policy: &CompiledPolicy| policy.source().tenants.get(tenant).map(|facts| facts.spec.clone());
        !Arc::ptr_eq(&self.approved, &self.written) && spec(&self.approved) != spec(&self.written)
    }

    fn step(known: Option<&Self>, gathered: Gathered, now: Timestamp) -> Option<(Self, Concerned)> {
        let Gathered { approved, written } = gathered;
        let (approved, mut concerned) = step(known.map(|known| (&known.approved, known.at)), approved, now);
        let before = known.map(|known| (&known.written, known.at));
        let written = match (written, before) {
            (Some(source), before) => {
                let (written, also) = step(before, source, now);
                concerned = concerned.and(also);
                written
            }
            (None, Some((before, at))) if !known.is_some_and(|known| Arc::ptr_eq(&known.approved, before)) => {
                concerned = concerned.and(self::concerned(before, at, approved.source(), now));
                approved.clone()
            }
            (None, _) => approved.clone(),
        };
        let same = |known: &Self| Arc::ptr_eq(&known.approved, &approved) && Arc::ptr_eq(&known.written, &written);
        if known.is_some_and(same) {
            return None;
        }
        let policy = if Arc::ptr_eq(&approved, &written) {
            approved.clone()
        } else {
            Arc::new(approved.within(&written))
        };
        let serial = known.map_or(0, |known| known.serial) + 1;
        // Whoever concerns only some of them tells nothing new of others.
        let told = known.filter(|_| matches!(concerned, Concerned::Only { .. }));
        let compiled = Self {
            serial,
            at: now,
            policy,
            approved,
            written,
            told: told.map(|known| known.told.clone()).unwrap_or_default(),
        };
        Some((compiled, concerned))
    }

    fn next_look(&self, now: Timestamp) -> Option<Timestamp> {
        let policies = [&self.approved, &self.written];
        policies.into_iter().filter_map(|policy| policy.next_look(now)).min()
    }
}

/// The policy of a source, and whom the step to it concerns. The same as before where nothing differs.
fn step(
    known: Option<(&Arc<CompiledPolicy>, Timestamp)>,
    source: PolicySource,
    now: Timestamp,
) -> (Arc<CompiledPolicy>, Concerned) {
    let Some((known, at)) = known else {
        return (Arc::new(compile(&source, now)), Concerned::Everybody);
    };
    if !is_due(known, at, &source, now) {
        return (known.clone(), Concerned::nobody());
    }
    let concerned = concerned(known, at, &source, now);
    let policy = match &concerned {
        Concerned::Only { tenants, .. } => known.recompile(source, tenants, now),
        Concerned::Everybody => compile(&source, now),
    };
    (Arc::new(policy), concerned)
}

/// What a policy is compiled from.
pub struct Gathered {
    /// What is approved of what people wrote.
    pub approved: PolicySource,
    /// What they wrote, where that is something else.
    pub written: Option<PolicySource>,
}

/// Gathers what the policy is compiled from.
pub trait Gather: Send + 'static {
    /// Nothing while not everything that must be known is known.
    fn gather(&mut self) -> Option<Gathered>;

    /// Writes down what was decided of what was gathered last. After how long to gather again, where something is left.
    fn record(&mut self) -> impl Future<Output = Option<Duration>> + Send;
}

/// Where the newest compiled policy is found. Clones share it.
#[derive(Clone)]
pub struct Newest {
    current: Arc<watch::Sender<Option<Arc<Compiled>>>>,
    /// What was the newest before, while a pass that took it has not ended.
    older: Arc<Mutex<Vec<Weak<Compiled>>>>,
    changed: Arc<Notify>,
}

impl Default for Newest {
    fn default() -> Self {
        Self {
            current: Arc::new(watch::Sender::new(None)),
            older: Arc::default(),
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

    /// Every policy that somebody may still write by: the newest, and those before it that a pass has taken and not let go
    /// of yet.
    #[must_use]
    pub fn in_use(&self) -> Vec<Arc<Compiled>> {
        // Under this lock none becomes an older one.
        let older = self.older.lock().unwrap_or_else(PoisonError::into_inner);
        let older_in_use = older.iter().filter_map(Weak::upgrade);
        self.get().into_iter().chain(older_in_use).collect()
    }

    /// Whether any policy in use says so; true while there is none.
    pub fn may_say(&self, says: impl Fn(&CompiledPolicy) -> bool) -> bool {
        let in_use = self.in_use();
        in_use.is_empty() || in_use.iter().any(|compiled| says(&compiled.policy))
    }

    fn replace(&self, compiled: Compiled) {
        let mut older = self.older.lock().unwrap_or_else(PoisonError::into_inner);
        older.retain(|policy| policy.strong_count() > 0);
        let before = self.current.send_replace(Some(Arc::new(compiled)));
        older.extend(before.as_ref().map(Arc::downgrade));
    }

    /// Something that the policy is made from may have changed.
    pub fn source_changed(&self) {
        self.changed.notify_one();
    }
}

/// Compiles until shutdown what `gather` gives. `expect` hears of every new policy's serial number and whom it concerns
/// before anybody can see it, `announce` whom it concerns after that.
///
/// # Errors
/// None: what is wrong with a source is part of the compiled policy.
pub async fn keep(
    newest: Newest,
    mut gather: impl Gather,
    expect: impl Fn(u64, &Concerned) + Send + 'static,
    announce: impl Fn(&Concerned) + Send + 'static,
    shutdown: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    let mut due = LONGEST;
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            () = newest.changed.notified() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(due) => {}
        }
        let Some(gathered) = gather.gather() else {
            due = AGAIN;
            continue;
        };
        let now = Timestamp::now();
        // The one before is let go of before anybody hears of the next: it would count as in use.
        let step = Compiled::step(newest.get().as_deref(), gathered, now);
        if let Some((compiled, concerned)) = step {
            expect(compiled.serial, &concerned);
            tracing::info!(revision = compiled.serial, "policy compiled");
            newest.replace(compiled);
            announce(&concerned);
        }
        due = newest.get().map_or(LONGEST, |compiled| until_next(&compiled, now));
        if let Some(again) = gather.record().await {
            due = due.min(again);
        }
    }
}

fn is_due(known: &CompiledPolicy, at: Timestamp, source: &PolicySource, now: Timestamp) -> bool {
    known.source() != source || known.next_look(at).is_some_and(|moment| moment <= now)
}

fn until_next(compiled: &Compiled, now: Timestamp) -> Duration {
    compiled
        .next_look(now)
        .and_then(|moment| Duration::try_from(moment.duration_since(now)).ok())
        .map_or(LONGEST, |wait| wait.min(LONGEST))
}
