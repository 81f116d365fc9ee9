//! What became of the edges that tenants ask for, found by tenant. A copy shares with the original everything that is not
//! changed in it, so that a policy in which one tenant differs is made in the time that one tenant takes.
//!
//! Ten thousand tenants do not fit into a processor's nearest cache, so what a question is answered from lies together: a
//! tenant's name in its bucket, and what its edges say in one piece of memory that begins with the count of who holds it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

use jiff::Timestamp;

use crate::decision::Question;
use crate::edge::{CompiledEdge, EdgeId};
use crate::names::{MAX_NAME, RegionName, TenantId};
use crate::refusal::Objection;
use crate::rule::{Denial, Rule};
use crate::vocabulary::{DataClass, LegalFramework, Purpose};

/// What became of one edge. Small, so that those of a tenant are near each other.
#[derive(Debug)]
pub(crate) struct Verdict {
    to: Label,
    class: DataClass,
    /// Of an open edge without a condition.
    terms: Option<Terms>,
    pub(crate) outcome: Outcome,
}

/// An edge that may carry data, or one that may not.
#[derive(Debug)]
pub(crate) enum Outcome {
    Open(Box<CompiledEdge>),
    Refused(Box<RefusedEdge>),
}

/// An edge that may not carry data, with every refusal of it: at least one.
#[derive(Debug, Clone)]
pub(crate) struct RefusedEdge {
    id: EdgeId,
    class: DataClass,
    to: RegionName,
    denials: Vec<Denial>,
}

impl Outcome {
    /// An edge that is refused for every one of these.
    pub(crate) fn refused((id, class, to): (&EdgeId, DataClass, &RegionName), denials: Vec<Denial>) -> Self {
        let (id, to) = (id.clone(), to.clone());
        Self::Refused(Box::new(RefusedEdge { id, class, to, denials }))
    }

    /// The edge's name, class and target.
    pub(crate) const fn about(&self) -> (&EdgeId, DataClass, &RegionName) {
        match self {
            Self::Open(edge) => (&edge.id, edge.class, &edge.to),
            Self::Refused(edge) => (&edge.id, edge.class, &edge.to),
        }
    }
}

/// Lists of fields that edges share.
pub(crate) type FieldLists = BTreeMap<BTreeSet<String>, Arc<[String]>>;

/// What most questions about an open edge are answered from: all that it says but its condition, and what it asks of a subject.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) framework: LegalFramework,
    pub(crate) ends_with: Rule,
    /// A bit for each.
    purposes: u8,
    begins: Timestamp,
    ends: Timestamp,
    /// In order.
    fields: Arc<[String]>,
}

impl Terms {
    fn of(edge: &CompiledEdge, lists: &mut FieldLists) -> Self {
        let fields = match lists.get(&edge.fields) {
            Some(list) => Arc::clone(list),
            None => {
                let list: Arc<[String]> = edge.fields.iter().cloned().collect();
                lists.insert(edge.fields.clone(), Arc::clone(&list));
                list
            }
        };
        Self {
            framework: edge.framework,
            ends_with: edge.ends_with,
            purposes: edge.purposes.iter().fold(0, |bits, purpose| bits | bit(*purpose)),
            begins: edge.effective_from,
            ends: edge.expires,
            fields,
        }
    }

    /// What the edge has against a question for which it need not be asked itself: the same, in the same order, as it says.
    pub(crate) fn objection(&self, question: &Question) -> Option<Objection> {
        if question.now < self.begins {
            return Some(Objection::NotYet);
        }
        if question.now >= self.ends {
            return Some(Objection::Ended);
        }
        if self.purposes & bit(question.purpose) == 0 {
            return Some(Objection::Purpose(question.purpose));
        }
        // Both are in order: what is found is never looked for again.
        let mut listed = self.fields.iter();
        if question.fields.iter().all(|field| listed.any(|name| name == field)) {
            return None;
        }
        let foreign = |field: &&String| self.fields.binary_search(field).is_err();
        Some(Objection::fields(question.fields.iter().filter(foreign)))
    }
}

impl Verdict {
    pub(crate) fn new(outcome: Outcome, lists: &mut FieldLists) -> Self {
        let (_, class, to) = outcome.about();
        let to = Label::of(to.as_str());
        let terms = match &outcome {
            Outcome::Open(edge) if edge.condition.is_none() => Some(Terms::of(edge, lists)),
            Outcome::Open(_) | Outcome::Refused(_) => None,
        };
        Self {
            to,
            class,
            terms,
            outcome,
        }
    }

    pub(crate) const fn id(&self) -> &EdgeId {
        self.outcome.about().0
    }

    /// What a question about an open edge is answered from; `None` where the edge is refused or is to be asked itself, which is
    /// somewhere else in memory.
    pub(crate) fn terms(&self, question: &Question) -> Option<&Terms> {
        self.terms.as_ref().filter(|_| question.subject.is_none())
    }

    pub(crate) fn edge(&self) -> Option<&CompiledEdge> {
        match &self.outcome {
            Outcome::Open(edge) => Some(edge),
            Outcome::Refused(_) => None,
        }
    }

    pub(crate) fn refusals(&self) -> &[Denial] {
        match &self.outcome {
            Outcome::Open(_) => &[],
            Outcome::Refused(edge) => &edge.denials,
        }
    }
}

const fn bit(purpose: Purpose) -> u8 {
    1 << (purpose as u8)
}

/// Everything that one tenant asks for, in the order of the names.
pub(crate) type Verdicts = Arc<[Verdict]>;

type Part = HashMap<Label, Verdicts, BuildHasherDefault<Mixed>>;

/// So many that few tenants share a part, and copying the list of parts is nothing.
const PARTS: usize = 256;

/// The verdicts of every tenant.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    parts: Vec<Arc<Part>>,
    /// The tenants that have an open edge into a region, in parts as well.
    importing: BTreeMap<RegionName, Vec<Arc<BTreeSet<TenantId>>>>,
}

impl Index {
    pub(crate) fn of(all: impl IntoIterator<Item = (TenantId, Verdicts)>) -> Self {
        let mut index = Self {
            parts: parts(),
            importing: BTreeMap::new(),
        };
        all.into_iter()
            .for_each(|(tenant, verdicts)| index.replace(&tenant, Some(verdicts)));
        index
    }

    /// Puts the verdicts of a tenant in the place of those that it had; none takes them away.
    pub(crate) fn replace(&mut self, tenant: &TenantId, verdicts: Option<Verdicts>) {
        let label = Label::of(tenant.as_str());
        let at = label.part();
        let had = self.of_tenant(tenant).map(Arc::clone);
        let before: BTreeSet<&RegionName> = had.iter().flat_map(|verdicts| targets(verdicts)).collect();
        let after: BTreeSet<&RegionName> = verdicts.iter().flat_map(|verdicts| targets(verdicts)).collect();
        for region in before.difference(&after) {
            if let Some(tenants) = self.importing.get_mut(*region) {
                Arc::make_mut(&mut tenants[at]).remove(tenant);
            }
        }
        for region in after.difference(&before) {
            let tenants = self.importing.entry((*region).clone()).or_insert_with(parts);
            Arc::make_mut(&mut tenants[at]).insert(tenant.clone());
        }
        let part = Arc::make_mut(&mut self.parts[at]);
        match verdicts {
            Some(verdicts) => part.insert(label, verdicts),
            None => part.remove(&label),
        };
    }

    pub(crate) fn of_tenant(&self, tenant: &TenantId) -> Option<&Verdicts> {
        let label = Label::of(tenant.as_str());
        self.parts[label.part()].get(&label)
    }

    /// The tenants that have an open edge into a region, in the order of their names.
    pub(crate) fn importing(&self, region: &RegionName) -> BTreeSet<&TenantId> {
        let parts = self.importing.get(region).into_iter().flatten();
        parts.flat_map(|tenants| tenants.iter()).collect()
    }
}

/// All of them empty, and one and the same until something is put into one.
fn parts<T: Default>() -> Vec<Arc<T>> {
    std::iter::repeat_n(Arc::default(), PARTS).collect()
}

/// Where in what a tenant asks for one class to one region is.
pub(crate) fn position(verdicts: &[Verdict], class: DataClass, to: &RegionName) -> Option<usize> {
    let is = |verdict: &Verdict| verdict.class == class && verdict.to.is(to.as_str());
    verdicts.iter().position(is)
}

fn targets(verdicts: &[Verdict]) -> impl Iterator<Item = &RegionName> {
    verdicts.iter().filter_map(Verdict::edge).map(|edge| &edge.to)
}

/// A name, where it is and not somewhere else. No name is longer; what is, is equal to none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Label {
    bytes: [u8; MAX_NAME],
    length: u8,
}

impl Label {
    fn of(name: &str) -> Self {
        let mut bytes = [0; MAX_NAME];
        let kept = name.len().min(MAX_NAME);
        bytes[..kept].copy_from_slice(&name.as_bytes()[..kept]);
        Self {
            bytes,
            length: u8::try_from(name.len()).unwrap_or(u8::MAX),
        }
    }

    fn is(&self, name: &str) -> bool {
        let length = usize::from(self.length);
        length == name.len() && self.bytes.get(..length).is_some_and(|bytes| bytes == name.as_bytes())
    }

    /// Names are chosen by those who run the platform: nobody gains by making them collide.
    fn mixed(&self) -> u64 {
        let words = self.bytes.as_chunks::<8>().0.iter();
        let words = words.take(usize::from(self.length).div_ceil(8));
        words.fold(u64::from(self.length), |mixed, word| {
            (mixed.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        })
    }

    /// By bits that the map within the part does not choose its buckets by.
    fn part(&self) -> usize {
        usize::try_from((self.mixed() >> 32) % PARTS as u64).unwrap_or_default()
    }
}

impl Hash for Label {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mixed = self.mixed();
        // The lowest bits choose the bucket, and by themselves depend on the lowest bits of the words alone.
        state.write_u64(mixed ^ (mixed >> 47));
    }
}

/// Takes a number that is mixed already.
#[derive(Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, mixed: u64) {
        self.0 = mixed;
    }

    fn write(&mut self, bytes: &[u8]) {
        let add = |mixed: u64, byte: &u8| (mixed ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        self.0 = bytes.iter().fold(self.0, add);
    }
}
