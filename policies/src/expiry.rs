//! What is about to end: warnings at 60, 30 and 7 days, so that an edge is prolonged or given up on purpose.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::compile::{CompiledPolicy, asks};
use crate::edge::EdgeId;
use crate::names::{JurisdictionName, PartyName, RegionName, TenantId};
use crate::rule::{Denial, Rule};
use crate::source::{PolicySource, TenantFacts};
use crate::spec::{Certification, JurisdictionSpec, OfferedMechanism, ReplicateTo};
use crate::vocabulary::{DataClass, Mechanism, closed_vocabulary};

closed_vocabulary! {
    /// How soon something ends.
    Soon, "warning";
    /// Within 7 days.
    Days7 = "7-days",
    /// Within 30 days.
    Days30 = "30-days",
    /// Within 60 days.
    Days60 = "60-days",
}

impl Soon {
    /// The days that the warning stands for.
    #[must_use]
    pub const fn days(self) -> i64 {
        match self {
            Self::Days7 => 7,
            Self::Days30 => 30,
            Self::Days60 => 60,
        }
    }

    /// The closest warning for what ends at `end`; none when it ended already, or ends later than in 60 days.
    #[must_use]
    pub fn of(end: Timestamp, now: Timestamp) -> Option<Self> {
        let left = end.duration_since(now);
        let within = |soon: &&Self| left <= SignedDuration::from_hours(24 * soon.days());
        Self::ALL.iter().find(within).copied().filter(|_| end > now)
    }

    /// The moments from which the warnings of what ends at `end` hold.
    fn begins(end: Timestamp) -> impl Iterator<Item = Timestamp> {
        let before = move |soon: &Self| end.checked_sub(SignedDuration::from_hours(24 * soon.days())).ok();
        Self::ALL.iter().filter_map(before)
    }
}

/// What ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Ending {
    /// A mechanism that a jurisdiction offers.
    Mechanism {
        /// Whose law offers it.
        from: JurisdictionName,
        /// Where it lets data go.
        to: JurisdictionName,
        /// Which.
        mechanism: Mechanism,
        /// By name.
        instrument: String,
        /// The classes that nothing else lets go under that name once it ends.
        classes: BTreeSet<DataClass>,
    },
    /// A certification that a party holds.
    Certification {
        /// Who holds it.
        party: PartyName,
        /// By name.
        instrument: String,
    },
    /// The assessment of one edge.
    Assessment {
        /// Whose.
        edge: EdgeId,
    },
    /// One edge: the tenant allowed it until then.
    Edge {
        /// Which.
        edge: EdgeId,
    },
}

/// A warning that something ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExpiryWarning {
    /// How soon.
    pub soon: Soon,
    /// When.
    pub ends: Timestamp,
    /// What.
    #[serde(flatten)]
    pub ending: Ending,
    /// The edges that are asked for and rest on it. Empty: nobody relies on it now.
    pub edges: BTreeSet<EdgeId>,
}

/// How the instruments stand that some edges rest on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Instruments {
    /// Edges that are refused because something has ended, with the refusal.
    pub lapsed: BTreeMap<EdgeId, Denial>,
    /// What ends within 60 days, soonest first.
    pub ending: Vec<ExpiryWarning>,
}

impl CompiledPolicy {
    /// How the instruments stand that a tenant's edges rest on.
    #[must_use]
    pub fn instruments_of(&self, tenant: &TenantId, now: Timestamp) -> Instruments {
        let asked = self.source.tenants.get_key_value(tenant).into_iter();
        self.instruments(asked.flat_map(|(id, facts)| asks_of(id, facts)).collect(), now)
    }

    /// How the instruments stand that the edges from and to a region rest on.
    #[must_use]
    pub fn instruments_in(&self, region: &RegionName, now: Timestamp) -> Instruments {
        let from = self.homes.in_region(region).iter();
        let tenants: BTreeSet<&TenantId> = from.chain(self.imports_of(region).map(|edge| &edge.tenant)).collect();
        let known = tenants
            .into_iter()
            .filter_map(|id| self.source.tenants.get_key_value(id));
        let asked = known.flat_map(|(id, facts)| asks_of(id, facts));
        let here = asked.filter(|(_, _, tenant, ask)| tenant.spec.home.region == *region || ask.region == *region);
        self.instruments(here.collect(), now)
    }

    fn instruments(&self, asked: Vec<Asked<'_>>, now: Timestamp) -> Instruments {
        let has_ended = |denial: &&Denial| {
            matches!(
                denial.rule,
                Rule::MechanismExpired | Rule::AssessmentStale | Rule::PartyNotCertified
            )
        };
        let lapsed = asked.iter().filter_map(|(id, ..)| {
            let ended = self.refusals_of(id).iter().find(has_ended)?;
            Some((id.clone(), ended.clone()))
        });
        let lapsed = lapsed.collect();
        let mut ending = warnings(&self.source, asked, now);
        ending.retain(|warning| !warning.edges.is_empty());
        Instruments { lapsed, ending }
    }

    /// The first moment after `now` at which looking again could give another result: something ends, begins, or is to be
    /// warned of.
    #[must_use]
    pub fn next_look(&self, now: Timestamp) -> Option<Timestamp> {
        let mechanisms = self.source.jurisdictions.values().flat_map(|law| &law.mechanisms);
        let held = self.source.parties.values().flat_map(|party| &party.certifications);
        let asked = self.source.tenants.values().flat_map(asks).map(|(_, ask)| ask);
        let ends = mechanisms
            .filter_map(|offer| offer.expires)
            .chain(held.map(|held| held.expires))
            .chain(asked.flat_map(|ask| {
                [Some(ask.expires), ask.tia.as_ref().map(|tia| tia.review_by)]
                    .into_iter()
                    .flatten()
            }));
        let warned = ends.flat_map(Soon::begins).filter(|moment| *moment > now).min();
        self.next_change(now).into_iter().chain(warned).min()
    }
}

/// Everything in `source` that ends within 60 days of `now`, soonest first. What is renewed in time (the same thing under
/// the same name holds at the moment when the first ends) does not end.
#[must_use]
pub fn expiry_warnings(source: &PolicySource, now: Timestamp) -> Vec<ExpiryWarning> {
    let tenants = source.tenants.iter();
    warnings(
        source,
        tenants.flat_map(|(id, tenant)| asks_of(id, tenant)).collect(),
        now,
    )
}

fn warnings(source: &PolicySource, asked: Vec<Asked<'_>>, now: Timestamp) -> Vec<ExpiryWarning> {
    let cited = Cited::by(source, &asked);
    let mut warnings: Vec<ExpiryWarning> = mechanisms(source, &cited)
        .chain(certifications(source, &cited))
        .chain(own_dates(&asked))
        .filter_map(|(ends, ending, edges)| {
            Some(ExpiryWarning {
                soon: Soon::of(ends, now)?,
                ends,
                ending,
                edges,
            })
        })
        .collect();
    warnings.sort_by(|one, other| (one.ends, &one.ending).cmp(&(other.ends, &other.ending)));
    warnings.dedup();
    warnings
}

type End = (Timestamp, Ending, BTreeSet<EdgeId>);

/// An offer by what an edge cites it by: from, to, mechanism, instrument.
type OfferKey<'a> = (&'a JurisdictionName, &'a JurisdictionName, Mechanism, &'a str);

/// The edges that are asked for, by what they cite.
#[derive(Default)]
struct Cited<'a> {
    by_offer: BTreeMap<OfferKey<'a>, Vec<(EdgeId, DataClass)>>,
    by_party: BTreeMap<(&'a PartyName, &'a str), BTreeSet<EdgeId>>,
}

impl<'a> Cited<'a> {
    fn by(source: &'a PolicySource, asked: &[Asked<'a>]) -> Self {
        let mut cited = Self::default();
        for (id, class, tenant, ask) in asked {
            let ends = [&tenant.spec.home.region, &ask.region].map(|name| source.regions.get(name));
            let [Some(home), Some(target)] = ends else { continue };
            let instrument = ask.instrument.as_str();
            let offer = (&home.jurisdiction, &target.jurisdiction, ask.mechanism, instrument);
            cited.by_offer.entry(offer).or_default().push((id.clone(), *class));
            let bound: &[&PartyName] = match ask.mechanism {
                Mechanism::Bcr => &[&home.operated_by, &target.operated_by],
                mechanism if mechanism.binds_the_importer() => &[&target.operated_by],
                _ => &[],
            };
            for party in bound {
                cited
                    .by_party
                    .entry((party, instrument))
                    .or_default()
                    .insert(id.clone());
            }
        }
        cited
    }
}

/// An edge that is asked for, and by whom.
type Asked<'a> = (EdgeId, DataClass, &'a TenantFacts, &'a ReplicateTo);

fn asks_of<'a>(id: &'a TenantId, tenant: &'a TenantFacts) -> impl Iterator<Item = Asked<'a>> {
    asks(tenant).map(move |(class, ask)| (EdgeId::new(id, class, &ask.region), class, tenant, ask))
}

fn mechanisms<'a>(source: &'a PolicySource, cited: &'a Cited<'_>) -> impl Iterator<Item = End> + 'a {
    let offers = source
        .jurisdictions
        .iter()
        .flat_map(|(from, law)| law.mechanisms.iter().map(move |offer| (from, law, offer)));
    offers.filter_map(|(from, law, offer)| {
        let ends = offer.expires?;
        let classes = unrenewed(law, offer, ends);
        let key = (from, &offer.to, offer.mechanism, offer.instrument.as_str());
        let resting = cited.by_offer.get(&key).into_iter().flatten();
        let edges = resting
            .filter(|(_, class)| classes.contains(class))
            .map(|(edge, _)| edge.clone())
            .collect();
        let ending = Ending::Mechanism {
            from: from.clone(),
            to: offer.to.clone(),
            mechanism: offer.mechanism,
            instrument: offer.instrument.clone(),
            classes: classes.clone(),
        };
        (!classes.is_empty()).then_some((ends, ending, edges))
    })
}

/// The classes of an offer that no other offer of the same name lets go at the moment when it ends.
fn unrenewed(law: &JurisdictionSpec, ending: &OfferedMechanism, ends: Timestamp) -> BTreeSet<DataClass> {
    let same = |offer: &&OfferedMechanism| {
        (&offer.to, offer.mechanism, &offer.instrument) == (&ending.to, ending.mechanism, &ending.instrument)
    };
    let holds_then =
        |offer: &&OfferedMechanism| offer.effective_from <= ends && offer.expires.is_none_or(|end| end > ends);
    let renewals = law.mechanisms.iter().filter(same).filter(holds_then);
    let renewed: BTreeSet<DataClass> = renewals.flat_map(|offer| offer.classes.iter().copied()).collect();
    ending
        .classes
        .iter()
        .copied()
        .filter(|class| !renewed.contains(class))
        .collect()
}

fn certifications<'a>(source: &'a PolicySource, cited: &'a Cited<'_>) -> impl Iterator<Item = End> + 'a {
    let held = source
        .parties
        .iter()
        .flat_map(|(name, party)| party.certifications.iter().map(move |held| (name, party, held)));
    held.filter(|(_, party, held)| party.certified(&held.instrument, held.expires).is_none())
        .map(|(name, _, held): (&PartyName, _, &Certification)| {
            let ending = Ending::Certification {
                party: name.clone(),
                instrument: held.instrument.clone(),
            };
            let edges = cited.by_party.get(&(name, held.instrument.as_str())).cloned();
            (held.expires, ending, edges.unwrap_or_default())
        })
}

fn own_dates(asked: &[Asked<'_>]) -> impl Iterator<Item = End> {
    asked.iter().flat_map(|(edge, _, _, ask)| {
        let itself = BTreeSet::from([edge.clone()]);
        let assessment = ask.tia.as_ref().map(|tia| {
            let ending = Ending::Assessment { edge: edge.clone() };
            (tia.review_by, ending, itself.clone())
        });
        let own = (ask.expires, Ending::Edge { edge: edge.clone() }, itself);
        assessment.into_iter().chain([own])
    })
}
