//! The changes that a lawful world can suffer: each takes one ground away, moves it in time, or adds to it.

use jiff::{SignedDuration, Timestamp};
use meridian_policy::*;
use proptest::prelude::*;

use super::*;

/// One change, with the numbers that say where it strikes.
#[derive(Debug, Clone)]
pub struct AnyChange {
    what: What,
    which: usize,
    day: i64,
}

#[derive(Debug, Clone, Copy)]
enum What {
    DropRegion,
    DropJurisdiction,
    DropParty,
    DropReceiver,
    SecondReceiver,
    ReceiverOfAnother,
    Misfile,
    ImporterSitsElsewhere,
    OnePartyRunsBoth,
    NoOffers,
    OfferElsewhere,
    OfferAnotherInstrument,
    OfferFewerClasses,
    OfferBegins,
    OfferEnds,
    OfferAgain,
    AskMechanism,
    AskInstrument,
    AskDerogation,
    AskNoAssessment,
    AskAssessmentDue,
    AskCondition,
    AskForeignField,
    AskNoFields,
    AskPurposes,
    AskNoPurposes,
    AskEnds,
    AskTwice,
    AskClassTwice,
    AskHome,
    AskNowhere,
    AskNoOnward,
    AskSays,
    Uncertified,
    CertificateMoves,
    Sensitive,
    Insensitive,
    Retention,
    Ages,
}

use What::*;

const WHATS: &[What] = &[
    DropRegion,
    DropJurisdiction,
    DropParty,
    DropReceiver,
    SecondReceiver,
    ReceiverOfAnother,
    Misfile,
    ImporterSitsElsewhere,
    OnePartyRunsBoth,
    NoOffers,
    OfferElsewhere,
    OfferAnotherInstrument,
    OfferFewerClasses,
    OfferBegins,
    OfferEnds,
    OfferAgain,
    AskMechanism,
    AskInstrument,
    AskDerogation,
    AskNoAssessment,
    AskAssessmentDue,
    AskCondition,
    AskForeignField,
    AskNoFields,
    AskPurposes,
    AskNoPurposes,
    AskEnds,
    AskTwice,
    AskClassTwice,
    AskHome,
    AskNowhere,
    AskNoOnward,
    AskSays,
    Uncertified,
    CertificateMoves,
    Sensitive,
    Insensitive,
    Retention,
    Ages,
];

prop_compose! {
    /// Any change, anywhere, with days around the moment of the question.
    pub fn any_change()(
        what in proptest::sample::select(WHATS),
        which in 0usize..10_000,
        day in -3i64..4,
    ) -> AnyChange {
        AnyChange { what, which, day }
    }
}

impl AnyChange {
    /// Changes the world; where there is nothing to strike, nothing changes.
    pub fn apply(&self, source: &mut PolicySource) {
        match self.what {
            DropRegion => drop(source.regions.remove(self.pick(&["us", "eu-north", "eu"]))),
            DropJurisdiction => drop(source.jurisdictions.remove(self.pick(&["us", "eu"]))),
            DropParty => drop(source.parties.remove(self.pick(&["stride-inc", "stride-europe"]))),
            DropReceiver | SecondReceiver | ReceiverOfAnother | Misfile => self.tenants(source),
            ImporterSitsElsewhere | OnePartyRunsBoth | Uncertified | CertificateMoves => self.parties(source),
            NoOffers
            | OfferElsewhere
            | OfferAnotherInstrument
            | OfferFewerClasses
            | OfferBegins
            | OfferEnds
            | OfferAgain => self.offers(source),
            Sensitive | Insensitive | Retention | Ages => self.law(source),
            AskTwice | AskClassTwice => self.twice(source),
            _ => self.ask(source),
        }
    }

    fn pick<T: Copy>(&self, list: &[T]) -> T {
        list[self.which % list.len()]
    }

    fn moment(&self) -> Timestamp {
        now() + SignedDuration::from_hours(24 * self.day)
    }

    fn tenants(&self, source: &mut PolicySource) {
        let receiver = self.pick(&["stride-us", "stride-north"]);
        match self.what {
            DropReceiver => drop(source.tenants.remove(receiver)),
            SecondReceiver => {
                let home = self.pick(&["us", "eu-north"]);
                let other = residency("stride-too", home, vec![]);
                source.tenants.insert(tenant("stride-too"), other);
            }
            ReceiverOfAnother => {
                if let Some(facts) = source.tenants.get_mut(receiver) {
                    facts.spec.organization = "other".parse().unwrap();
                }
            }
            _ => {
                let filed = self.pick(&["stride-us", "stride-north", "stride-eu"]);
                if let Some(facts) = source.tenants.get_mut(filed) {
                    facts.spec.tenant = tenant("stride-other");
                }
            }
        }
    }

    fn parties(&self, source: &mut PolicySource) {
        let name = self.pick(&["stride-inc", "stride-europe"]);
        match self.what {
            OnePartyRunsBoth => source
                .regions
                .values_mut()
                .for_each(|region| region.operated_by = name.parse().unwrap()),
            what => {
                let Some(party) = source.parties.get_mut(name) else {
                    return;
                };
                let held = party.certifications.len().max(1);
                match what {
                    ImporterSitsElsewhere => party.country = self.pick(&["CN", "US", "DE"]).parse().unwrap(),
                    Uncertified => party.certifications.clear(),
                    _ => {
                        if let Some(held) = party.certifications.get_mut(self.which % held) {
                            if self.which.is_multiple_of(3) {
                                held.effective_from = self.moment();
                            } else {
                                held.expires = self.moment();
                            }
                        }
                    }
                }
            }
        }
    }

    fn offers(&self, source: &mut PolicySource) {
        let Some(law) = source.jurisdictions.get_mut("eu") else {
            return;
        };
        if matches!(self.what, NoOffers) {
            law.mechanisms.clear();
        }
        let count = law.mechanisms.len().max(1);
        let Some(offer) = law.mechanisms.get_mut(self.which % count) else {
            return;
        };
        match self.what {
            OfferElsewhere => offer.to = "uk".parse().unwrap(),
            OfferAnotherInstrument => offer.instrument = "another".into(),
            OfferFewerClasses => drop(offer.classes.pop()),
            OfferBegins => offer.effective_from = self.moment(),
            OfferEnds => offer.expires = Some(self.moment()),
            _ => {
                let again = OfferedMechanism {
                    effective_from: self.moment(),
                    expires: self
                        .which
                        .is_multiple_of(2)
                        .then(|| self.moment() + SignedDuration::from_hours(48)),
                    ..offer.clone()
                };
                law.mechanisms.push(again);
            }
        }
    }

    fn law(&self, source: &mut PolicySource) {
        let class = self.pick(DataClass::ALL);
        let name = self.pick(&["eu", "us"]);
        if matches!(self.what, Retention)
            && let Some(facts) = source.tenants.get_mut("stride-eu")
        {
            facts.spec.retention.insert(class, 30 + u32::from(self.day > 0));
        }
        let Some(law) = source.jurisdictions.get_mut(name) else {
            return;
        };
        match self.what {
            Sensitive => {
                // Every class that has an edge at once, since most have none.
                let all = DataClass::ALL.iter().map(|class| (*class, Sensitivity::Special));
                law.sensitivity.extend(all);
            }
            Insensitive => {
                let all = DataClass::ALL.iter().map(|class| (*class, Sensitivity::Ordinary));
                law.sensitivity.extend(all);
            }
            Retention => {
                let limits = RetentionLimits {
                    min_days: Some(28 + self.day.unsigned_abs() as u32),
                    max_days: Some(30),
                };
                law.retention.insert(class, limits);
            }
            _ => {
                let country = self.pick(&["DE", "FR", "US"]).parse().unwrap();
                law.age_of_digital_consent.by_country.insert(country, 13);
            }
        }
    }

    fn twice(&self, source: &mut PolicySource) {
        let Some(facts) = source.tenants.get_mut("stride-eu") else {
            return;
        };
        let count = facts.spec.classes.len().max(1);
        let Some(entry) = facts.spec.classes.get_mut(self.which % count) else {
            return;
        };
        if matches!(self.what, AskTwice) {
            entry.replicate_to.extend_from_within(..);
        } else {
            let again = entry.clone();
            facts.spec.classes.push(again);
        }
    }

    fn ask(&self, source: &mut PolicySource) {
        let Some(facts) = source.tenants.get_mut("stride-eu") else {
            return;
        };
        let count = facts.spec.classes.len().max(1);
        let Some(entry) = facts.spec.classes.get_mut(self.which % count) else {
            return;
        };
        let Some(ask) = entry.replicate_to.first_mut() else {
            return;
        };
        match self.what {
            AskMechanism => ask.mechanism = self.pick(Mechanism::ALL),
            AskInstrument => ask.instrument = self.pick(&[SCC, DPF, BCR, "another"]).to_owned(),
            AskDerogation => {
                ask.mechanism = Mechanism::Art49Derogation;
                ask.instrument = "Art 49(1)(a)".into();
            }
            AskNoAssessment => ask.tia = None,
            AskAssessmentDue => {
                ask.tia = Some(ImpactAssessment {
                    digest: digest(),
                    review_by: self.moment(),
                });
            }
            AskCondition => {
                let all = Art9Condition::ALL
                    .iter()
                    .map(|condition| Some(*condition))
                    .chain([None]);
                ask.art9_condition = self.pick(&all.collect::<Vec<_>>());
            }
            AskForeignField => ask.fields.push(self.pick(&["hr", "title", "no_such_field"]).to_owned()),
            AskNoFields => ask.fields.clear(),
            AskPurposes => ask.purposes = vec![self.pick(Purpose::ALL)],
            AskNoPurposes => ask.purposes.clear(),
            AskEnds => ask.expires = self.moment(),
            AskHome => ask.region = region("eu"),
            AskNowhere => ask.region = region("mars"),
            AskSays => ask.condition = Some(Condition::new(self.pick(&super::generated::CONDITIONS))),
            _ => ask.onward = false,
        }
    }
}
