//! Whom each law concerned wants to be told, by when, and whether that was done. Pure.
//!
//! What is not known is taken as the law that leaves the least time: nobody has assessed the risk, so every notice is owed;
//! nobody has acknowledged, so the terms run since it was detected; a jurisdiction lists no notice, so the shortest term that
//! any jurisdiction lists is taken.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use meridian_crds::{ClockState, LegalClock, NOT_COVERED, PrivacyIncidentSpec};
use meridian_policy::{
    BreachNotice, BreachRisk, JurisdictionName, JurisdictionSpec, NoticeRecipient, NoticeStart, PolicySource,
    RegionName, TenantId,
};

/// A clock that ends so soon is said to be near.
pub(crate) const NEAR: SignedDuration = SignedDuration::from_hours(24);
/// Clocks that a status holds.
const MOST: usize = 512;

/// The laws, by name.
pub(crate) type Laws = BTreeMap<JurisdictionName, JurisdictionSpec>;

/// Whose laws are concerned: those that are listed, that of the region, and those of the tenants' homes.
pub(crate) fn concerned(
    spec: &PrivacyIncidentSpec,
    law_of: impl Fn(&RegionName) -> Option<JurisdictionName>,
    home_of: impl Fn(&TenantId) -> Option<RegionName>,
) -> BTreeSet<JurisdictionName> {
    let homes = spec.tenants.iter().filter_map(home_of);
    let regions = homes.chain([spec.region.clone()]);
    let laws = regions.filter_map(|region| law_of(&region));
    spec.jurisdictions.iter().cloned().chain(laws).collect()
}

/// The clocks as a policy's source has them: for the answer at `kubectl apply`.
pub(crate) fn by_source(spec: &PrivacyIncidentSpec, source: &PolicySource, now: Timestamp) -> Vec<LegalClock> {
    let law_of = |region: &RegionName| source.regions.get(region).map(|facts| facts.jurisdiction.clone());
    let home_of = |tenant: &TenantId| source.tenants.get(tenant).map(|facts| facts.spec.home.region.clone());
    clocks(spec, &concerned(spec, law_of, home_of), &source.jurisdictions, now)
}

/// One clock for each notice that these laws demand of this incident, by jurisdiction.
pub(crate) fn clocks(
    spec: &PrivacyIncidentSpec,
    concerned: &BTreeSet<JurisdictionName>,
    laws: &Laws,
    now: Timestamp,
) -> Vec<LegalClock> {
    let of_law = |name: &JurisdictionName| -> Vec<LegalClock> {
        let notices = laws.get(name).map(|law| law.breach_notices.as_slice());
        let demanded: Vec<&BreachNotice> = notices.into_iter().flatten().filter(|one| applies(spec, one)).collect();
        if demanded.is_empty() {
            return vec![not_covered(spec, name, laws, now)];
        }
        demanded
            .into_iter()
            .map(|notice| of_notice(spec, name, notice, now))
            .collect()
    };
    concerned.iter().flat_map(of_law).take(MOST).collect()
}

/// When the term of a notice began.
fn started(spec: &PrivacyIncidentSpec, from: NoticeStart) -> Timestamp {
    let aware = spec
        .acknowledged
        .as_ref()
        .map_or(spec.detected_at, |known| known.aware_since);
    match from {
        NoticeStart::Awareness => aware,
        NoticeStart::Discovery => aware.min(spec.detected_at),
    }
}

fn applies(spec: &PrivacyIncidentSpec, notice: &BreachNotice) -> bool {
    notice.in_force(started(spec, notice.from))
}

fn of_notice(spec: &PrivacyIncidentSpec, law: &JurisdictionName, notice: &BreachNotice, now: Timestamp) -> LegalClock {
    let started = started(spec, notice.from);
    let due = notice.due(started);
    LegalClock {
        jurisdiction: law.clone(),
        notice: notice.name.clone(),
        to: notice.to,
        recipient: notice.recipient.clone(),
        article: notice.article.clone(),
        term: notice.term.clone(),
        started,
        due,
        state: state(spec, (law, &notice.name), notice.owed_from, due, now),
    }
}

fn not_covered(spec: &PrivacyIncidentSpec, law: &JurisdictionName, laws: &Laws, now: Timestamp) -> LegalClock {
    let started = started(spec, NoticeStart::Discovery);
    let every = laws.values().flat_map(|law| &law.breach_notices);
    let shortest = every
        .filter(|one| applies(spec, one))
        .filter_map(|one| Some((one.due(started)?, one)))
        .min_by_key(|(due, _)| *due);
    // Where no law here names a term, it has ended.
    let due = shortest.map_or(started, |(due, _)| due);
    let article = match shortest {
        Some((_, one)) => format!("not covered; as {}, the shortest that is known", one.article),
        None => "not covered, and no jurisdiction lists a term".to_owned(),
    };
    LegalClock {
        jurisdiction: law.clone(),
        notice: NOT_COVERED.to_owned(),
        to: NoticeRecipient::Authority,
        recipient: "whom the law names: ask counsel".to_owned(),
        article: article.chars().take(200).collect(),
        term: "breachNotices of this Jurisdiction says nothing that is in force".to_owned(),
        started,
        due: Some(due),
        state: state(spec, (law, NOT_COVERED), BreachRisk::Unlikely, Some(due), now),
    }
}

fn state(
    spec: &PrivacyIncidentSpec,
    (law, notice): (&JurisdictionName, &str),
    owed_from: BreachRisk,
    due: Option<Timestamp>,
    now: Timestamp,
) -> ClockState {
    let mut given = spec
        .notices
        .iter()
        .filter(|one| one.jurisdiction == *law && one.notice == notice);
    // One that is dated ahead has not been given yet.
    if let Some(given) = given.find(|one| one.at <= now) {
        return match due {
            Some(due) if given.at > due => ClockState::NotifiedLate,
            _ => ClockState::Notified,
        };
    }
    if spec
        .assessment
        .as_ref()
        .is_some_and(|assessed| assessed.risk < owed_from)
    {
        return ClockState::NotOwed;
    }
    match due {
        None => ClockState::AtOnce,
        Some(due) if due <= now => ClockState::Overdue,
        Some(due) if due.duration_since(now) <= NEAR => ClockState::Near,
        Some(_) => ClockState::Running,
    }
}

/// The clocks whose notice is still to be given.
pub(crate) fn owed(clocks: &[LegalClock]) -> impl Iterator<Item = &LegalClock> {
    clocks.iter().filter(|clock| clock.state.is_owed())
}

/// When a clock will say something else by itself.
pub(crate) fn turns_at(spec: &PrivacyIncidentSpec, clocks: &[LegalClock], now: Timestamp) -> Option<Timestamp> {
    let ends = owed(clocks).filter_map(|clock| clock.due);
    let turns = ends.flat_map(|due| [due, due.checked_sub(NEAR).unwrap_or(due)]);
    let ahead = spec.notices.iter().map(|notice| notice.at);
    turns.chain(ahead).filter(|at| *at > now).min()
}

/// A clock by its name and article, for a sentence.
pub(crate) fn told(clock: &LegalClock) -> String {
    format!("{}/{} ({})", clock.jurisdiction, clock.notice, clock.article)
}

#[cfg(test)]
mod tests;
