//! What holds in every world: nothing is allowed without all its grounds, and taking away never opens.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod reference;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use meridian_policy::*;
use proptest::prelude::*;
use reference::against_question;
use world::changes::any_change;
use world::generated::{any_question, any_world, nearly_lawful_world};
use world::*;

/// The edges of a compiled policy, as questions that they allow at most.
fn questions(policy: &CompiledPolicy) -> Vec<Question> {
    policy
        .edges()
        .flat_map(|edge| {
            edge.purposes.iter().map(|purpose| Question {
                tenant: edge.tenant.clone(),
                class: edge.class,
                purpose: *purpose,
                to: edge.to.clone(),
                fields: edge.fields.clone(),
                now: now(),
                subject: None,
            })
        })
        .collect()
}

fn allows_no_more(before: &CompiledPolicy, after: &CompiledPolicy, taken: &str) -> Result<(), TestCaseError> {
    for question in questions(after) {
        prop_assert!(
            !after.decide(&question).is_allowed() || before.decide(&question).is_allowed(),
            "taking away {taken} opened {question:?}"
        );
    }
    for edge in after.edges() {
        let earlier = before.edge(&edge.id);
        prop_assert!(
            earlier.is_some_and(|earlier| edge.expires <= earlier.expires),
            "{taken} prolonged {}",
            edge.id
        );
    }
    Ok(())
}

/// Days that each class of a tenant is kept at its home.
fn kept(policy: &CompiledPolicy) -> BTreeMap<((RegionName, TenantId), DataClass), u32> {
    let regions = policy.source().regions.keys();
    let known = regions.filter_map(|region| policy.for_region(region, PolicyRevision::default()).ok());
    let homes = known.flat_map(|known| known.homes.into_iter().map(move |home| (known.region.clone(), home)));
    homes
        .flat_map(|(region, home)| {
            let of = (region, home.tenant);
            home.retention
                .into_iter()
                .map(move |(class, days)| ((of.clone(), class), days))
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn nothing_is_allowed_without_all_its_grounds(source in any_world(), question in any_question()) {
        let policy = compiled(&source);
        for asked in questions(&policy).into_iter().chain([question]) {
            if policy.decide(&asked).is_allowed() {
                let against = against_question(&source, &fields(), &asked);
                prop_assert!(against.is_empty(), "allowed {:?} against {:?}", asked, against);
            }
        }
    }

    #[test]
    fn what_has_all_its_grounds_is_allowed_now(source in any_world(), question in any_question()) {
        let asked = Question { now: now(), ..question };
        if against_question(&source, &fields(), &asked).is_empty() {
            prop_assert!(compiled(&source).decide(&asked).is_allowed(), "{:?}", compiled(&source).decide(&asked));
        }
    }

    #[test]
    fn removing_a_mechanism_never_opens_an_edge(source in any_world(), which in any::<proptest::sample::Index>()) {
        let before = compiled(&source);
        let mut less = source;
        if less.eu().mechanisms.is_empty() {
            return Ok(());
        }
        let at = which.index(less.eu().mechanisms.len());
        less.eu().mechanisms.remove(at);
        allows_no_more(&before, &compiled(&less), "a mechanism")?;
    }

    #[test]
    fn removing_a_certification_never_opens_an_edge(source in any_world(), which in any::<proptest::sample::Index>()) {
        let before = compiled(&source);
        let mut less = source;
        if !less.parties.contains_key("stride-inc") || less.importer().certifications.is_empty() {
            return Ok(());
        }
        let at = which.index(less.importer().certifications.len());
        less.importer().certifications.remove(at);
        allows_no_more(&before, &compiled(&less), "a certification")?;
    }

    #[test]
    fn narrowing_is_monotone(
        source in any_world(),
        fields_kept in any::<u8>(),
        purposes_kept in any::<u8>(),
        sooner in 0i64..10,
        edges_dropped in any::<u8>(),
    ) {
        let source = well_formed(source);
        let mut less = source.clone();
        for (number, entry) in less.stride_eu().classes.iter_mut().enumerate() {
            if edges_dropped & (1 << number) != 0 {
                entry.replicate_to.pop();
            }
            for ask in &mut entry.replicate_to {
                keep(&mut ask.fields, fields_kept);
                keep(&mut ask.purposes, purposes_kept);
                ask.expires -= SignedDuration::from_hours(24 * sooner);
            }
        }
        prop_assert!(less.tenants["stride-eu"].spec.narrows(&source.tenants["stride-eu"].spec));
        let (before, after) = (compiled(&source), compiled(&less));
        // An edge whose condition never holds allows nothing on either side.
        for question in questions(&after).into_iter().filter(|question| after.decide(question).is_allowed()) {
            let id = EdgeId::new(&question.tenant, question.class, &question.to);
            if before.edge(&id).is_some() {
                prop_assert!(before.decide(&question).is_allowed(), "narrowing opened {question:?}");
            } else {
                // It was refused as a whole, for a purpose that is not asked for any more.
                let refusals = before.refusals_of(&id);
                let for_a_purpose = |denial: &Denial| denial.rule == Rule::Art9ConditionMissing;
                prop_assert!(!refusals.is_empty() && refusals.iter().all(for_a_purpose), "{refusals:?}");
            }
        }
        for (edge, earlier) in after.edges().filter_map(|edge| Some((edge, before.edge(&edge.id)?))) {
            prop_assert!(edge.expires <= earlier.expires, "narrowing prolonged {}", edge.id);
        }
    }

    #[test]
    fn compiling_only_the_organization_that_changed_comes_to_the_same(
        source in any_world(),
        other in any_world(),
        changed in any_world(),
    ) {
        let mut before = source;
        for mut stranger in other.tenants.into_values() {
            stranger.spec.tenant = tenant(&stranger.spec.tenant.as_str().replace("stride", "other"));
            stranger.spec.organization = "other".parse().unwrap();
            before.tenants.insert(stranger.spec.tenant.clone(), stranger);
        }
        let is_changed = |facts: &TenantFacts| facts.spec.organization.as_str() == "stride";
        let mut after = before.clone();
        after.tenants.retain(|_, facts| !is_changed(facts));
        after.tenants.extend(changed.tenants);
        let both = before.tenants.iter().chain(&after.tenants);
        let tenants = both.filter(|(_, facts)| is_changed(facts)).map(|(id, _)| id.clone()).collect();

        let again = compiled(&before).recompile(after.clone(), &tenants, now());
        let anew = compiled(&after);
        prop_assert_eq!(again.edges().collect::<Vec<_>>(), anew.edges().collect::<Vec<_>>());
        prop_assert_eq!(again.refusals().collect::<Vec<_>>(), anew.refusals().collect::<Vec<_>>());
        for region in after.regions.keys() {
            let policy = |of: &CompiledPolicy| of.for_region(region, PolicyRevision(1));
            prop_assert_eq!(policy(&again), policy(&anew));
        }
    }

    #[test]
    fn a_refused_edge_always_says_why(source in any_world()) {
        let policy = compiled(&source);
        for (id, denials) in policy.refusals() {
            prop_assert!(!denials.is_empty(), "{id} is refused without a word");
            prop_assert!(policy.edge(id).is_none());
            prop_assert!(denials.iter().all(|denial| !denial.reason.is_empty()));
        }
    }

    #[test]
    fn hub_region_explanation_and_review_agree(source in any_world()) {
        let policy = compiled(&source);
        let eu = policy.for_region(&region("eu"), PolicyRevision(1)).unwrap();
        let violations = policy.violations_of(&tenant("stride-eu"), now());
        for question in questions(&policy) {
            prop_assert_eq!(eu.decide(&question), policy.decide(&question));
            let explained = policy.explain(&question.tenant, question.class, &region("eu"), &question.to, now());
            prop_assert!(explained.lawful);
        }
        for (id, _) in policy.refusals() {
            let class_and_region: Vec<&str> = id.as_str().split('.').skip(1).collect();
            let path = format!("spec.classes[{}].replicateTo[{}]", class_and_region[0], class_and_region[1]);
            prop_assert!(violations.iter().any(|violation| violation.path.starts_with(&path)), "{} not in review", id);
        }
    }

    #[test]
    fn a_policy_differs_from_itself_in_nothing_and_the_way_back_is_the_mirror(
        before in nearly_lawful_world(),
        change in any_change(),
    ) {
        let mut after = before.clone();
        change.apply(&mut after);
        let (before, after) = (compiled(&before), compiled(&after));
        prop_assert!(before.diff(&before).is_empty());
        let (there, back) = (before.diff(&after), after.diff(&before));
        prop_assert_eq!(opened(&there), closed(&back));
        prop_assert_eq!(closed(&there), opened(&back));
        prop_assert_eq!(there.classes.len(), back.classes.len());
        prop_assert_eq!(there.streams.len(), back.streams.len());
    }

    #[test]
    fn a_difference_that_does_not_widen_allows_no_more(before in nearly_lawful_world(), change in any_change()) {
        let mut after = before.clone();
        change.apply(&mut after);
        let (before, after) = (compiled(&before), compiled(&after));
        if before.diff(&after).effect() != Effect::Widens {
            allows_no_more(&before, &after, "what does not widen")?;
        }
    }

    #[test]
    fn what_two_policies_both_allow_each_allows_and_a_narrower_one_is_obeyed_whole(
        approved in nearly_lawful_world(),
        change in any_change(),
    ) {
        let mut written = approved.clone();
        change.apply(&mut written);
        let (approved, written) = (compiled(&approved), compiled(&written));
        let both = approved.within(&written);
        allows_no_more(&approved, &both, "what is not approved")?;
        allows_no_more(&written, &both, "what is not written")?;
        for (home, class) in kept(&both).keys() {
            let days = |policy: &CompiledPolicy| kept(policy).get(&(home.clone(), *class)).copied().unwrap_or(u32::MAX);
            prop_assert!(days(&both) <= days(&approved).min(days(&written)), "{class} of {} is kept longer", home.1);
        }
        if approved.diff(&written).edges.iter().all(|change| change.effect != Effect::Widens) {
            let kept_back = both.diff(&written);
            prop_assert!(kept_back.edges.iter().all(|change| change.effect != Effect::Widens), "{kept_back}");
        }
    }

    #[test]
    fn what_opens_nothing_allows_no_more_at_any_moment(
        before in nearly_lawful_world(),
        change in any_change(),
        days in 0i64..10,
    ) {
        let mut after = before.clone();
        change.apply(&mut after);
        if openings(&before, &after, &HeldPolicy::default(), &fields(), now()).is_empty() {
            let moment = now() + SignedDuration::from_hours(24 * days);
            let before = compile_with(&before, fields(), moment);
            let opened = before.diff(&compile_with(&after, fields(), moment));
            prop_assert!(opened.edges.iter().all(|change| change.effect != Effect::Widens), "{opened}");
        }
    }

    #[test]
    fn what_widens_at_some_moment_is_found_at_the_first(
        before in nearly_lawful_world(),
        change in any_change(),
        days in 0i64..10,
    ) {
        let mut after = before.clone();
        change.apply(&mut after);
        let found = widenings_with(&before, &after, &fields(), now());
        let moment = now() + SignedDuration::from_hours(24 * days);
        let diff = |moment| {
            let before = compile_with(&before, fields(), moment);
            before.diff(&compile_with(&after, fields(), moment))
        };
        for widening in &found {
            let then = diff(widening.from);
            prop_assert!(then.edges.contains(&widening.change), "{then}");
        }
        for change in diff(moment).edges.iter().filter(|change| change.effect == Effect::Widens) {
            let earlier = found.iter().find(|widening| widening.change.edge == change.edge);
            prop_assert!(earlier.is_some_and(|widening| widening.from <= moment), "{change} at {moment}");
        }
    }

    #[test]
    fn to_suppose_a_loss_never_widens(source in nearly_lawful_world(), which in 0usize..5, days in 0i64..10) {
        let eu = || Some("eu".parse().unwrap());
        let hypothesis = match which {
            0 => Hypothesis::MechanismAnnulled { from: eu(), to: "us".parse().unwrap(), mechanism: None, instrument: None },
            1 => Hypothesis::MechanismAnnulled {
                from: None,
                to: "us".parse().unwrap(),
                mechanism: Some(Mechanism::Scc),
                instrument: None,
            },
            2 => Hypothesis::CertificationLost { party: "stride-inc".parse().unwrap(), instrument: None },
            3 => Hypothesis::CertificationLost {
                party: "stride-europe".parse().unwrap(),
                instrument: Some(BCR.to_owned()),
            },
            _ => Hypothesis::InstrumentExpires {
                instrument: SCC.to_owned(),
                on: now() + SignedDuration::from_hours(24 * days),
            },
        };
        let asked = WhatIf { hypotheses: vec![hypothesis] };
        // A world without what is supposed to be lost refuses the question.
        if let Ok(answer) = what_if_with(&source, &fields(), &asked, now()) {
            prop_assert!(answer.effect != Effect::Widens, "{answer}");
            prop_assert_eq!(answer.diff.edges.len(), answer.importers.iter().map(|one| one.edges.len()).sum::<usize>());
        }
    }
}

fn opened(diff: &PolicyDiff) -> BTreeSet<&EdgeId> {
    let changes = diff.edges.iter();
    changes
        .filter(|change| matches!(change.difference, EdgeDifference::Opened { .. }))
        .map(|change| &change.edge)
        .collect()
}

fn closed(diff: &PolicyDiff) -> BTreeSet<&EdgeId> {
    let changes = diff.edges.iter();
    changes
        .filter(|change| matches!(change.difference, EdgeDifference::Closed { .. }))
        .map(|change| &change.edge)
        .collect()
}

/// Without edges that are refused for how they are written (twice, or with a field of another class): there, taking the
/// mistake away is a correction, and may open.
fn well_formed(mut source: PolicySource) -> PolicySource {
    let mut seen = BTreeSet::new();
    for entry in &mut source.stride_eu().classes {
        let class = entry.class;
        entry
            .replicate_to
            .retain(|ask| seen.insert((class, ask.region.clone())));
        for ask in &mut entry.replicate_to {
            ask.fields.retain(|field| fields().has(class, field));
        }
    }
    source
}

/// Keeps the items whose bit is set.
fn keep<T>(list: &mut Vec<T>, bits: u8) {
    let mut kept = (0..8).map(|bit| bits & (1 << bit) != 0);
    list.retain(|_| kept.next().unwrap_or(true));
}
