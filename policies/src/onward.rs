//! May a copy be passed on from where it was imported? Copies follow the law of their origin.

use crate::compile::CompiledPolicy;
use crate::decision::{Decision, Ground, Question};
use crate::edge::EdgeId;
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
        let Decision::Allow { edge: first, .. } = self.decide(&to_importer) else {
            return self.decide(&to_importer);
        };
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
            Decision::Allow { edge, mut grounds } => {
                let origin = EdgeId::new(&first.tenant, first.class, via);
                grounds.push(Ground {
                    kind: "onward",
                    sentence: format!("edge {origin} lets its copy be passed on"),
                });
                Decision::Allow { edge, grounds }
            }
            denied @ Decision::Deny { .. } => denied,
        }
    }
}
