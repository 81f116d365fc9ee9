//! Is there a transfer mechanism, is it in force, and do its companions (assessment, certification) stand?

use jiff::Timestamp;

use super::{AskedEdge, Assessed, Ends, Found, Span, found, nothing_needed};
use crate::rule::{Denial, Rule};
use crate::spec::OfferedMechanism;
use crate::vocabulary::{Art9Condition, Mechanism};

impl<'a> AskedEdge<'a> {
    pub(super) fn not_a_derogation(&self) -> Result<Found<()>, Denial> {
        if self.ask.mechanism == Mechanism::Art49Derogation {
            let because = "a derogation is for specific situations and never carries systematic replication; cite another mechanism";
            return Err(self.deny(Rule::DerogationNeverSystematic, because.to_owned()));
        }
        Ok(nothing_needed(()))
    }

    /// An athlete who agrees to share a workout has not agreed to the risks of a transfer without safeguards.
    pub(super) fn consent_is_not_a_derogation(&self) -> Result<Found<()>, Denial> {
        let leans_on_consent = self.ask.purposes.iter().any(|purpose| purpose.needs_consent())
            || self.ask.art9_condition == Some(Art9Condition::ExplicitConsent);
        if self.ask.mechanism == Mechanism::Art49Derogation && leans_on_consent {
            let because = "the athlete's consent to share is not consent to a transfer without safeguards; cite a mechanism that has safeguards";
            return Err(self.deny(Rule::ConsentIsNotArt49, because.to_owned()));
        }
        Ok(nothing_needed(()))
    }

    pub(super) fn offer(&self, ends: &Ends<'a>) -> Result<Found<Span>, Denial> {
        self.importer_is_where_the_law_holds(ends)?;
        if ends.exporter.jurisdiction == ends.importer.jurisdiction {
            return self.inside_one_jurisdiction(ends);
        }
        let (home, target) = (&ends.exporter.jurisdiction, &ends.importer.jurisdiction);
        let cited = format!("{} '{}'", self.ask.mechanism, self.ask.instrument);
        let offered: Vec<&OfferedMechanism> = ends
            .home_law
            .mechanisms
            .iter()
            .filter(|offer| {
                offer.to == *target && offer.mechanism == self.ask.mechanism && offer.instrument == self.ask.instrument
            })
            .collect();
        if offered.is_empty() {
            let because = format!("jurisdiction {home} does not offer {cited} to {target}; cite one that it offers");
            return Err(self.deny(Rule::MechanismNotOffered, because));
        }
        let listing: Vec<_> = offered
            .into_iter()
            .filter(|offer| offer.classes.contains(&self.class))
            .collect();
        if listing.is_empty() {
            let because = format!(
                "jurisdiction {home} offers {cited} to {target}, but not for {}; this class stays at home",
                self.class
            );
            return Err(self.deny(Rule::ClassNotListed, because));
        }
        self.in_force(&listing, &cited)
    }

    /// A mechanism reaches a country, not the region's machines: an importer established elsewhere takes the data to a
    /// country that nobody looked at. Inside one legal entity there is no second party that could.
    fn importer_is_where_the_law_holds(&self, ends: &Ends<'a>) -> Result<(), Denial> {
        let country = &ends.importing_party.country;
        if ends.target_law.holds_in(country) || ends.exporter.operated_by == ends.importer.operated_by {
            return Ok(());
        }
        let because = format!(
            "its importer {} is established in {country}, where the law of {} does not hold; let a party established there operate {}",
            ends.importer.operated_by, ends.importer.jurisdiction, ends.importer.name
        );
        Err(self.deny(Rule::MechanismNotOffered, because))
    }

    fn inside_one_jurisdiction(&self, ends: &Ends<'a>) -> Result<Found<Span>, Denial> {
        let law = &ends.exporter.jurisdiction;
        if self.ask.mechanism != Mechanism::NotRestricted {
            let because = format!(
                "both regions are in {law}, where no transfer mechanism applies; cite NotRestricted instead of {}",
                self.ask.mechanism
            );
            return Err(self.deny(Rule::MechanismNotOffered, because));
        }
        let span = Span {
            from: None,
            until: None,
            ends_with: Rule::MechanismExpired,
        };
        Ok(found(
            "mechanism",
            format!("both regions are in {law}: the data crosses no border"),
            span,
        ))
    }

    fn in_force(&self, listing: &[&OfferedMechanism], cited: &str) -> Result<Found<Span>, Denial> {
        let begun: Vec<_> = listing
            .iter()
            .filter(|offer| offer.effective_from <= self.now)
            .collect();
        if begun.is_empty() {
            let from = listing
                .iter()
                .map(|offer| offer.effective_from)
                .min()
                .unwrap_or(Timestamp::MAX);
            return Err(self.deny(
                Rule::MechanismNotInForce,
                format!("{cited} is in force only from {from}"),
            ));
        }
        // Of several that say the same the one that ends last: taking one away can then never prolong an edge.
        let last = begun.iter().max_by_key(|offer| offer.expires.unwrap_or(Timestamp::MAX));
        match last {
            Some(offer) if offer.expires.is_none_or(|end| self.now < end) => {
                let article = self.ask.mechanism.article(self.framework());
                let sentence = format!(
                    "{cited} lists {} to {}{}",
                    self.class,
                    offer.to,
                    article.map(|article| format!(" ({article})")).unwrap_or_default()
                );
                let span = Span {
                    from: Some(offer.effective_from),
                    until: offer.expires,
                    ends_with: Rule::MechanismExpired,
                };
                Ok(found("mechanism", sentence, span))
            }
            _ => {
                let end = last.and_then(|offer| offer.expires).unwrap_or(Timestamp::MIN);
                Err(self.deny(Rule::MechanismExpired, format!("{cited} expired at {end}")))
            }
        }
    }

    pub(super) fn assessment(&self) -> Result<Found<Assessed>, Denial> {
        let mechanism = self.ask.mechanism;
        match &self.ask.tia {
            None if mechanism.needs_assessment() => {
                let because =
                    format!("{mechanism} needs a transfer impact assessment; give its digest and review date in tia");
                Err(self.deny(Rule::AssessmentMissing, because))
            }
            None => Ok(nothing_needed(Assessed::default())),
            // An assessment given without need is still a limit that people set: it counts.
            Some(tia) if tia.review_by <= self.now => {
                let because = format!(
                    "its transfer impact assessment was due for review at {}; review it and give the new digest and date",
                    tia.review_by
                );
                Err(self.deny(Rule::AssessmentStale, because))
            }
            Some(tia) => {
                let span = Span {
                    from: None,
                    until: Some(tia.review_by),
                    ends_with: Rule::AssessmentStale,
                };
                let sentence = format!("assessment {} counts until {}", tia.digest, tia.review_by);
                Ok(found(
                    "assessment",
                    sentence,
                    Assessed {
                        digest: Some(tia.digest.clone()),
                        span: Some(span),
                    },
                ))
            }
        }
    }

    pub(super) fn certification(&self, ends: &Ends<'a>) -> Result<Found<Option<Span>>, Denial> {
        // Binding corporate rules bind both sides; a certification is the importer's alone.
        let bound = match self.ask.mechanism {
            Mechanism::Bcr => vec![
                (&ends.exporter.operated_by, ends.exporting_party),
                (&ends.importer.operated_by, ends.importing_party),
            ],
            mechanism if mechanism.binds_the_importer() => vec![(&ends.importer.operated_by, ends.importing_party)],
            _ => return Ok(nothing_needed(None)),
        };
        let mut span = Span {
            from: None,
            until: None,
            ends_with: Rule::PartyNotCertified,
        };
        let mut names = Vec::new();
        for (name, party) in bound {
            let Some(held) = party.certified(&self.ask.instrument, self.now) else {
                let because = format!(
                    "{name} ({}) holds no current certification under '{}'; it must be certified itself, its country is not",
                    party.legal_name, self.ask.instrument
                );
                return Err(self.deny(Rule::PartyNotCertified, because));
            };
            span.from = span.from.max(Some(held.effective_from));
            span.until = Some(span.until.map_or(held.expires, |until| until.min(held.expires)));
            names.push(name.as_str());
        }
        let sentence = format!("{} certified under '{}'", names.join(" and "), self.ask.instrument);
        Ok(found("certification", sentence, Some(span)))
    }
}
