//! May a copy be passed on from where it was imported? Copies follow the law of their origin.

use crate::compile::CompiledPolicy;
use crate::decision::{Decision, Question};
use crate::names::RegionName;
use crate::rule::Rule;

impl CompiledPolicy {
    /// May what came to `via` go on to where `question` asks? Only if the edge to `via` says so, and could carry this now,
    /// and the origin's own edge to the third place could too: nobody receives through an importer what the origin would
    /// not send. GDPR Art 44 holds onward transfers to the same conditions.
    #[must_use]
    pub fn decide_onward(&self, via: &RegionName, question: &Question) -> Decision {
        let to_importer = Question {
            to: via.clone(),
            ..question.clone()
        };
        let first = match self.decide(&to_importer) {
            Decision::Allow(permission) => permission,
            denied @ Decision::Deny { .. } => return denied,
        };
        let first = first.edge();
        if *via == question.to {
            let because = format!("{via} has it already: going nowhere is no onward transfer");
            return first.deny(Rule::NoEdge, because).into();
        }
        if !first.onward {
            let because = format!(
                "the copy in {via} may not be passed on to {}; an edge says so with onward: true",
                question.to
            );
            return first.deny(Rule::NoEdge, because).into();
        }
        match self.decide(question) {
            Decision::Allow(permission) => Decision::Allow(permission.passed_on_from(via.clone())),
            denied @ Decision::Deny { .. } => denied,
        }
    }
}
