//! Makes a policy's source what it would be if a hypothesis were true.

use jiff::Timestamp;

use super::error::WhatIfError;
use super::hypothesis::Hypothesis;
use crate::names::{JurisdictionName, PartyName};
use crate::source::PolicySource;
use crate::spec::OfferedMechanism;
use crate::vocabulary::Mechanism;

/// Applies the hypothesis number `number`. One that strikes nothing is an error: whoever asks about a decision that no
/// jurisdiction lists has misspelt it, and "nothing changes" would be a dangerous answer.
pub(super) fn suppose(
    source: &mut PolicySource,
    number: usize,
    hypothesis: &Hypothesis,
    now: Timestamp,
) -> Result<(), WhatIfError> {
    let at = |field: &str| format!("hypotheses[{number}].{}.{field}", hypothesis.word());
    match hypothesis {
        Hypothesis::MechanismAnnulled {
            from,
            to,
            mechanism,
            instrument,
        } => {
            jurisdiction(source, from.as_ref(), &at("from"))?;
            jurisdiction(source, Some(to), &at("to"))?;
            annul(source, from.as_ref(), to, *mechanism, instrument.as_deref())
                .map_err(|offered| unknown_mechanism(&at, *mechanism, instrument.as_deref(), offered))
        }
        Hypothesis::CertificationLost { party, instrument } => lose(source, party, instrument.as_deref(), &at),
        Hypothesis::InstrumentExpires { instrument, on } => expire(source, instrument, *on, at("instrument")),
        Hypothesis::MechanismOffered {
            from,
            to,
            mechanism,
            instrument,
            classes,
            effective_from,
            expires,
        } => {
            jurisdiction(source, Some(to), &at("to"))?;
            jurisdiction(source, Some(from), &at("from"))?;
            let offer = OfferedMechanism {
                to: to.clone(),
                mechanism: *mechanism,
                instrument: instrument.clone(),
                classes: classes.clone(),
                effective_from: effective_from.unwrap_or(now),
                review_by: None,
                expires: *expires,
            };
            let law = source.jurisdictions.get_mut(from);
            law.into_iter().for_each(|law| law.mechanisms.push(offer.clone()));
            Ok(())
        }
        Hypothesis::AsOf { moment } if *moment > now => Ok(()),
        Hypothesis::AsOf { moment } => Err(WhatIfError::NotInTheFuture {
            field: at("moment"),
            moment: *moment,
            now,
        }),
    }
}

fn jurisdiction(source: &PolicySource, name: Option<&JurisdictionName>, field: &str) -> Result<(), WhatIfError> {
    match name {
        Some(name) if !source.jurisdictions.contains_key(name) => {
            let known = source.jurisdictions.keys().map(ToString::to_string);
            Err(WhatIfError::unknown(
                field.to_owned(),
                "jurisdiction",
                name.as_str(),
                known,
            ))
        }
        _ => Ok(()),
    }
}

/// Takes the offers away, or says what is offered there.
fn annul(
    source: &mut PolicySource,
    from: Option<&JurisdictionName>,
    to: &JurisdictionName,
    mechanism: Option<Mechanism>,
    instrument: Option<&str>,
) -> Result<(), Vec<String>> {
    let mut there = Vec::new();
    let mut annulled = false;
    let laws = source.jurisdictions.iter_mut();
    for (_, law) in laws.filter(|(name, _)| from.is_none_or(|from| from == *name)) {
        law.mechanisms.retain(|offer| {
            if offer.to != *to {
                return true;
            }
            there.push(format!("{} '{}'", offer.mechanism, offer.instrument));
            let meant = mechanism.is_none_or(|one| one == offer.mechanism)
                && instrument.is_none_or(|name| name == offer.instrument);
            annulled |= meant;
            !meant
        });
    }
    if annulled { Ok(()) } else { Err(there) }
}

fn unknown_mechanism(
    at: &impl Fn(&str) -> String,
    mechanism: Option<Mechanism>,
    instrument: Option<&str>,
    offered: Vec<String>,
) -> WhatIfError {
    let (field, name) = match (mechanism, instrument) {
        (Some(mechanism), Some(instrument)) => ("instrument", format!("{mechanism} {instrument}")),
        (None, Some(instrument)) => ("instrument", instrument.to_owned()),
        (Some(mechanism), None) => ("mechanism", mechanism.to_string()),
        (None, None) => ("to", "of any kind".to_owned()),
    };
    WhatIfError::unknown(at(field), "mechanism", &name, offered)
}

fn lose(
    source: &mut PolicySource,
    name: &PartyName,
    instrument: Option<&str>,
    at: &impl Fn(&str) -> String,
) -> Result<(), WhatIfError> {
    let known: Vec<String> = source.parties.keys().map(ToString::to_string).collect();
    let Some(party) = source.parties.get_mut(name) else {
        return Err(WhatIfError::unknown(at("party"), "party", name.as_str(), known));
    };
    let held: Vec<String> = party
        .certifications
        .iter()
        .map(|held| held.instrument.clone())
        .collect();
    party
        .certifications
        .retain(|held| instrument.is_some_and(|instrument| instrument != held.instrument));
    if party.certifications.len() < held.len() {
        return Ok(());
    }
    let (field, what) = match instrument {
        Some(instrument) => ("instrument", instrument),
        None => ("party", "of any kind"),
    };
    Err(WhatIfError::unknown(at(field), "certification", what, held))
}

/// Ends offers, certifications and edges that cite the instrument, where they do not end sooner.
fn expire(source: &mut PolicySource, instrument: &str, on: Timestamp, field: String) -> Result<(), WhatIfError> {
    let mut known = Vec::new();
    let mut found = false;
    let mut cites = |name: &String| {
        let cited = name == instrument;
        found |= cited;
        if !cited {
            known.push(name.clone());
        }
        cited
    };
    for offer in source.jurisdictions.values_mut().flat_map(|law| &mut law.mechanisms) {
        if cites(&offer.instrument) {
            offer.expires = Some(offer.expires.map_or(on, |end| end.min(on)));
        }
    }
    for held in source.parties.values_mut().flat_map(|party| &mut party.certifications) {
        if cites(&held.instrument) {
            held.expires = held.expires.min(on);
        }
    }
    let entries = source.tenants.values_mut().flat_map(|tenant| &mut tenant.spec.classes);
    for ask in entries.flat_map(|entry| &mut entry.replicate_to) {
        if cites(&ask.instrument) {
            ask.expires = ask.expires.min(on);
        }
    }
    if found {
        return Ok(());
    }
    Err(WhatIfError::unknown(field, "instrument", instrument, known))
}
