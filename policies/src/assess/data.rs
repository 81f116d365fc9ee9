//! What goes, what for, under which condition, and how long the tenant itself lets it.

use super::{AskedEdge, Ends, Found, Span, found, nothing_needed};
use crate::rule::{Denial, Rule};
use crate::spec::JurisdictionSpec;
use crate::vocabulary::{Art9Condition, Sensitivity};

impl<'a> AskedEdge<'a> {
    pub(super) fn special_category(&self, ends: &Ends<'a>) -> Result<Found<Option<Art9Condition>>, Denial> {
        let special_at = |law: &JurisdictionSpec| law.sensitivity_of(self.class) == Sensitivity::Special;
        if !special_at(ends.home_law) && !special_at(ends.target_law) {
            return Ok(nothing_needed(self.ask.art9_condition));
        }
        match self.ask.art9_condition {
            Some(condition) => {
                if let Some(purpose) = self.ask.purposes.iter().find(|purpose| !condition.carries(**purpose)) {
                    let because = format!(
                        "{} is a special category, and {condition} cannot carry it for {purpose}; name another art9Condition or leave the purpose out",
                        self.class
                    );
                    return Err(self.deny(Rule::Art9ConditionMissing, because));
                }
                let sentence = format!("{} is a special category; {condition} is the condition", self.class);
                Ok(found("art9-condition", sentence, Some(condition)))
            }
            None => {
                let because = format!(
                    "{} is a special category there or here; name the art9Condition",
                    self.class
                );
                Err(self.deny(Rule::Art9ConditionMissing, because))
            }
        }
    }

    pub(super) fn fields(&self) -> Result<Found<()>, Denial> {
        if self.ask.fields.is_empty() {
            return Err(self.deny(
                Rule::FieldNotAllowed,
                "no field is listed; list those that may go".to_owned(),
            ));
        }
        let foreign: Vec<&str> = self
            .ask
            .fields
            .iter()
            .map(String::as_str)
            .filter(|field| !self.fields.has(self.class, field))
            .collect();
        if !foreign.is_empty() {
            let because = format!(
                "{} is not a field of {}; the catalogue lists {}",
                foreign.join(", "),
                self.class,
                self.fields.names_of(self.class)
            );
            return Err(self.deny(Rule::FieldNotAllowed, because));
        }
        Ok(found(
            "fields",
            format!("{} go, no other field", self.ask.fields.join(", ")),
            (),
        ))
    }

    pub(super) fn purposes(&self) -> Result<Found<()>, Denial> {
        if self.ask.purposes.is_empty() {
            return Err(self.deny(
                Rule::PurposeNotAllowed,
                "no purpose is listed; list what it is for".to_owned(),
            ));
        }
        let names: Vec<&str> = self.ask.purposes.iter().map(|purpose| purpose.as_str()).collect();
        Ok(found("purposes", format!("for {}", names.join(", ")), ()))
    }

    /// Each purpose's lawful basis (Art 6), which no mechanism and no condition replaces.
    pub(super) fn lawful_basis(&self) -> Found<()> {
        let sentences: Vec<String> = self
            .ask
            .purposes
            .iter()
            .map(|purpose| purpose.basis_sentence(self.framework()))
            .collect();
        if sentences.is_empty() {
            return nothing_needed(());
        }
        found("lawful-basis", sentences.join("; "), ())
    }

    /// What the tenant demands besides, at each transfer.
    pub(super) fn condition(&self) -> Result<Found<()>, Denial> {
        let Some(condition) = &self.ask.condition else {
            return Ok(nothing_needed(()));
        };
        match condition.check() {
            Ok(()) => Ok(found("condition", format!("only while {}", condition.as_str()), ())),
            Err(error) => {
                let because = format!("its condition is not valid: {error}");
                Err(self.deny(Rule::ConditionInvalid, because))
            }
        }
    }

    pub(super) fn own_expiry(&self) -> Result<Found<Span>, Denial> {
        let end = self.ask.expires;
        if end <= self.now {
            let because = format!("the tenant allowed it until {end}; prolong it in replicateTo.expires");
            return Err(self.deny(Rule::MechanismExpired, because));
        }
        let span = Span {
            from: None,
            until: Some(end),
            ends_with: Rule::MechanismExpired,
        };
        Ok(found("validity", format!("the tenant allows it until {end}"), span))
    }
}
