//! Answers questions from the compiled policy, at the hub and in a region alike.

use jiff::Timestamp;

use crate::assess::{AskedEdge, framework_of};
use crate::compile::{CompiledPolicy, asked_twice, asks, duplicate};
use crate::condition::Facts;
use crate::decision::{Check, Decision, Explanation, Ground, Permission, Question, Subject};
use crate::edge::{CompiledEdge, EdgeId};
use crate::index::{Verdicts, position};
use crate::names::{RegionName, TenantId};
use crate::refusal::{Objection, Reason, home_as_target, no_edge, tenant_unknown};
use crate::region_policy::RegionPolicy;
use crate::rule::{Denial, Rule};
use crate::source::TenantFacts;
use crate::spec::AgeOfConsent;
use crate::vocabulary::{DataClass, LegalFramework, Purpose};

impl CompiledEdge {
    fn permits(&self, question: &Question) -> Result<(), Objection> {
        if (&question.tenant, question.class, &question.to) != (&self.tenant, self.class, &self.to) {
            let asked = EdgeId::new(&question.tenant, question.class, &question.to);
            let because = format!("edge {} does not carry what {asked} asks for", self.id);
            return Err(self.deny(Rule::NoEdge, because).into());
        }
        if let Some(objection) = self.objection_at(question.now) {
            return Err(objection);
        }
        if !self.purposes.contains(&question.purpose) {
            return Err(Objection::Purpose(question.purpose));
        }
        if !question.fields.is_subset(&self.fields) {
            return Err(Objection::fields(question.fields.difference(&self.fields)));
        }
        if let Some(subject) = &question.subject {
            self.subject_permits(subject, question.purpose)?;
        }
        if self.condition.is_some() {
            let subject = question.subject.as_ref();
            self.condition_holds(&Facts {
                edge: self,
                purpose: question.purpose,
                fields: &question.fields,
                now: question.now,
                age: subject.and_then(|subject| subject.age),
                country: subject.and_then(|subject| subject.country.as_ref()),
            })?;
        }
        Ok(())
    }

    /// An objection or a restriction outranks every ground that the edge has.
    fn subject_permits(&self, subject: &Subject, purpose: Purpose) -> Result<(), Denial> {
        if subject.restricted {
            let because = "the data subject has had the use of their data restricted: it is stored, and nothing else";
            return Err(self.deny(Rule::ProcessingRestricted, because));
        }
        if subject.objects_to.contains(&purpose) {
            return Err(self.deny(Rule::SubjectObjects, format!("the data subject objects to {purpose}")));
        }
        Ok(())
    }

    /// Whether the subject's age lets them be the subject of the purpose, under the law that they live under.
    fn of_age(&self, question: &Question, ages: Option<&AgeOfConsent>) -> Result<(), Denial> {
        let Some(subject) = &question.subject else {
            return Ok(());
        };
        // Where the law's ages are not known, the highest that any law has.
        let highest = AgeOfConsent::highest();
        let ages = ages.unwrap_or(&highest);
        let permitted = ages.permit(self.framework, question.purpose, subject.country.as_ref(), subject.age);
        permitted.map_err(|denial| Denial {
            reason: format!(
                "{} of {} may not go from {} to {}: {}",
                self.class, self.tenant, self.from, self.to, denial.reason
            ),
            ..denial
        })
    }

    /// Whether this edge may carry what `question` asks about. `ages`: those of its exporter's law, as far as they are known.
    /// What the edge itself refuses is said before what the subject's age does.
    fn decide(&self, question: &Question, ages: Option<&AgeOfConsent>) -> Result<(), Objection> {
        self.permits(question)?;
        Ok(self.of_age(question, ages)?)
    }

    /// What the edge rests on, whatever is asked of it. The mechanism comes first.
    pub(crate) fn standing_grounds(&self) -> Vec<Ground> {
        let ground = |kind, sentence| Ground { kind, sentence };
        let mut grounds = vec![
            ground("mechanism", self.rule.clone()),
            ground(
                "validity",
                format!("from {} until {}", self.effective_from, self.expires),
            ),
        ];
        if let Some(digest) = &self.assessment {
            grounds.push(ground("assessment", format!("transfer impact assessment {digest}")));
        }
        if self.mechanism.binds_the_importer() {
            grounds.push(ground(
                "certification",
                format!("{} is certified under '{}'", self.importer, self.instrument),
            ));
        }
        if let Some(condition) = self.art9_condition {
            grounds.push(ground("art9-condition", condition.to_string()));
        }
        if let Some(condition) = &self.condition {
            grounds.push(ground("condition", format!("only while {}", condition.as_str())));
        }
        if self.needs_consent {
            grounds.push(ground(
                "consent",
                "only with the subject's consent, confirmed at delivery".to_owned(),
            ));
        }
        grounds
    }
}

impl CompiledPolicy {
    /// May this go there, at that moment? What nothing allows is refused.
    #[must_use]
    pub fn decide(&self, question: &Question) -> Decision {
        let Question { tenant, class, to, .. } = question;
        let Some(verdicts) = self.index.of_tenant(tenant) else {
            return refuse(
                Rule::TenantUnknown,
                LegalFramework::Other,
                Reason::unknown_tenant(tenant),
            );
        };
        let Some(at) = position(verdicts, *class, to) else {
            return self.refusal_beside(verdicts, tenant, *class, to);
        };
        let verdict = &verdicts[at];
        let (objection, ends_with, framework) = if let Some(terms) = verdict.terms(question) {
            (terms.objection(question), terms.ends_with, terms.framework)
        } else {
            let Some(edge) = verdict.edge() else {
                // There is at least one.
                let first = verdict.refusals().first().cloned();
                return first.unwrap_or_else(|| self.refusal_of(tenant, *class, to)).into();
            };
            let objection = edge.decide(question, self.ages(question, edge)).err();
            (objection, edge.ends_with, edge.framework)
        };
        match objection {
            None => Permission::indexed(verdicts, at, question.purpose)
                .map_or_else(|| self.refusal_of(tenant, *class, to).into(), Decision::Allow),
            Some(Objection::Said(denial)) => (*denial).into(),
            Some(objection) => {
                let rule = objection.rule(ends_with);
                refuse(rule, framework, Reason::objection(verdicts, at, objection))
            }
        }
    }

    /// The ages of the exporter's law, where a person is asked about.
    fn ages(&self, question: &Question, edge: &CompiledEdge) -> Option<&AgeOfConsent> {
        question.subject.as_ref()?;
        let home = self.source.regions.get(&edge.from)?;
        let law = self.source.jurisdictions.get(&home.jurisdiction)?;
        Some(&law.age_of_digital_consent)
    }

    /// The same as [`Self::refusal_of`], where another edge of the tenant knows its home and law.
    fn refusal_beside(&self, beside: &Verdicts, tenant: &TenantId, class: DataClass, to: &RegionName) -> Decision {
        let open = beside.iter().enumerate();
        let mut open = open.filter_map(|(at, verdict)| Some((at, verdict.edge()?)));
        match open.next() {
            Some((at, edge)) if self.source.regions.contains_key(to) => {
                if edge.from == *to {
                    return refuse(Rule::HomeNamedAsTarget, edge.framework, Reason::home(beside, at));
                }
                refuse(Rule::NoEdge, edge.framework, Reason::no_edge(beside, at, class, to))
            }
            _ => self.refusal_of(tenant, class, to).into(),
        }
    }

    /// Why an edge that nobody asks for may not carry data.
    pub(crate) fn refusal_of(&self, tenant: &TenantId, class: DataClass, to: &RegionName) -> Denial {
        match self.tenant(tenant) {
            Ok(facts) => self.not_asked_for(facts, class, to),
            Err(unknown) => unknown,
        }
    }

    fn tenant(&self, tenant: &TenantId) -> Result<&TenantFacts, Denial> {
        self.source.tenants.get(tenant).ok_or_else(|| tenant_unknown(tenant))
    }

    /// Why an edge that no tenant asked for carries nothing.
    fn not_asked_for(&self, facts: &TenantFacts, class: DataClass, to: &RegionName) -> Denial {
        let framework = framework_of(&self.source, facts);
        let spec = &facts.spec;
        if !self.source.regions.contains_key(to) {
            return Denial::new(
                Rule::UnknownRegion,
                framework,
                format!("there is no FitnessRegion '{to}'"),
            );
        }
        if spec.home.region == *to {
            return home_as_target(framework, &spec.tenant, to);
        }
        no_edge(framework, &spec.tenant, class, &spec.home.region, to)
    }

    /// Why an edge is allowed or refused at `now`, check by check.
    #[must_use]
    pub fn explain(
        &self,
        tenant: &TenantId,
        class: DataClass,
        from: &RegionName,
        to: &RegionName,
        now: Timestamp,
    ) -> Explanation {
        let (checks, expires) = self.checks(tenant, class, from, to, now);
        let lawful = expires.is_some() && !checks.iter().any(|check| matches!(check, Check::Refuses(_)));
        Explanation {
            tenant: tenant.clone(),
            class,
            from: from.clone(),
            to: to.clone(),
            lawful,
            expires,
            checks,
        }
    }

    fn checks(
        &self,
        tenant: &TenantId,
        class: DataClass,
        from: &RegionName,
        to: &RegionName,
        now: Timestamp,
    ) -> (Vec<Check>, Option<Timestamp>) {
        let refuse = |denial| (vec![Check::Refuses(denial)], None);
        let facts = match self.tenant(tenant) {
            Ok(facts) => facts,
            Err(denial) => return refuse(denial),
        };
        let home = &facts.spec.home.region;
        if home != from {
            let reason = format!("{tenant} has its home in {home}: its data leaves from there, not from {from}");
            return refuse(Denial::new(Rule::NoEdge, framework_of(&self.source, facts), reason));
        }
        let id = EdgeId::new(tenant, class, to);
        if asked_twice(facts).contains(&id) {
            return refuse(duplicate(&self.source, facts, &id));
        }
        let Some((_, ask)) = asks(facts).find(|(asked, ask)| *asked == class && ask.region == *to) else {
            return refuse(self.not_asked_for(facts, class, to));
        };
        let asked = AskedEdge {
            source: &self.source,
            homes: &self.homes,
            fields: &self.fields,
            tenant: facts,
            class,
            ask,
            now,
        };
        let assessed = asked.assess();
        let expires = assessed.edge.as_ref().map(|edge| edge.expires);
        (assessed.findings.into_iter().map(|(_, check)| check).collect(), expires)
    }
}

impl RegionPolicy {
    /// May this leave from here, at that moment? The same answer as the hub's, from what the region has.
    #[must_use]
    pub fn decide(&self, question: &Question) -> Decision {
        let id = EdgeId::new(&question.tenant, question.class, &question.to);
        if self.home(&question.tenant).is_none() {
            return tenant_unknown(&question.tenant).into();
        }
        match self.export(&id) {
            Some(edge) => match edge.decide(question, self.age_of_digital_consent.as_ref()) {
                Ok(()) => Decision::Allow(Permission::along(edge.clone(), question.purpose)),
                Err(objection) => objection.said_by(edge).into(),
            },
            None => no_edge(
                LegalFramework::Other,
                &question.tenant,
                question.class,
                &self.region,
                &question.to,
            )
            .into(),
        }
    }
}

const fn refuse(rule: Rule, framework: LegalFramework, reason: Reason) -> Decision {
    let article = rule.article(framework);
    Decision::Deny { rule, reason, article }
}
