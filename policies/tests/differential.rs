//! The engine against the reference: two hands wrote the law down, and over generated worlds they answer alike.
//!
//! `MERIDIAN_CASES=5000000 cargo test --release -p meridian-policy --test differential` asks more often.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod reference;
mod world;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use meridian_policy::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use reference::Asked;
use world::generated::{Case, any_case};
use world::*;

/// As many as a development build answers in some seconds.
const CASES: u32 = 20_000;

fn cases() -> u32 {
    std::env::var("MERIDIAN_CASES").map_or(CASES, |text| {
        text.parse().unwrap_or_else(|_| {
            panic!(
                "MERIDIAN_CASES is a number of cases from 1 to {}, not '{text}'",
                u32::MAX
            )
        })
    })
}

/// What the cases came to.
#[derive(Debug, Default)]
struct Tally {
    asked: u32,
    allowed: u32,
    named: BTreeMap<Rule, u32>,
}

impl Tally {
    fn count(&mut self, rules: impl IntoIterator<Item = Rule>) {
        for rule in rules {
            *self.named.entry(rule).or_default() += 1;
        }
    }
}

#[test]
fn engine_and_reference_agree() {
    let tally = RefCell::new(Tally::default());
    let config = Config {
        failure_persistence: None,
        ..Config::with_cases(cases())
    };
    TestRunner::new(config)
        .run(&any_case(), |case| {
            let policy = compile_with(&case.source, fields(), case.question.now);
            let tally = &mut tally.borrow_mut();
            the_answer(&policy, &case, tally)?;
            every_refusal(&policy, &case, tally)?;
            later_without_compiling_again(&policy, &case)?;
            passing_on(&policy, &case)?;
            retention(&policy, &case, tally)?;
            age(&case)
        })
        .unwrap_or_else(|failure| panic!("{failure}"));

    let Tally { asked, allowed, named } = tally.into_inner();
    assert!(allowed * 5 >= asked, "of {asked} answers only {allowed} were Allow");
    let silent: Vec<&Rule> = Rule::ALL.iter().filter(|rule| !named.contains_key(rule)).collect();
    // Whoever asks for fewer cases, as each mutant does, may miss the rarest rule.
    assert!(
        silent.is_empty() || cases() < CASES,
        "no case was refused by {silent:?}"
    );
}

fn asked(case: &Case) -> Asked {
    Asked {
        question: case.question.clone(),
        class: case.unknown_class.unwrap_or(case.question.class.as_str()).to_owned(),
        lease_valid: case.lease_valid,
    }
}

/// What an enforcement point does with words from outside: its lease first, then the class, then the policy.
fn answer(policy: &CompiledPolicy, asked: &Asked) -> Decision {
    if !asked.lease_valid {
        return Denial::policy_stale().into();
    }
    match asked.class.parse::<DataClass>() {
        Ok(class) => policy.decide(&Question {
            class,
            ..asked.question.clone()
        }),
        Err(_) => Denial::unknown_class(&asked.class).into(),
    }
}

fn the_answer(policy: &CompiledPolicy, case: &Case, tally: &mut Tally) -> Result<(), TestCaseError> {
    let asked = asked(case);
    let against = reference::against(&case.source, &fields(), &asked);
    let decision = answer(policy, &asked);
    tally.asked += 1;
    match decision.refused_by() {
        None => {
            tally.allowed += 1;
            prop_assert!(against.is_empty(), "allowed, against {against:?}");
        }
        Some(rule) => {
            prop_assert!(
                against.contains(&rule),
                "refused by {rule}, while the reference has {against:?}"
            );
            tally.count([rule]);
        }
    }
    let (home, question) = (case.source.tenants.get(&case.question.tenant), &case.question);
    if let Some(region) = home.and_then(|facts| policy.for_region(&facts.spec.home.region, PolicyRevision(1)).ok()) {
        let there = region.decide(question).is_allowed();
        prop_assert_eq!(there, policy.decide(question).is_allowed(), "hub and region");
    }
    Ok(())
}

/// Not the verdict alone: every rule that the engine names, and, where both ends of the edge are known, no rule left out.
fn every_refusal(policy: &CompiledPolicy, case: &Case, tally: &mut Tally) -> Result<(), TestCaseError> {
    for (id, denials) in policy.refusals() {
        let named: BTreeSet<Rule> = denials.iter().map(|denial| denial.rule).collect();
        let (tenant, class, to) = parts(id);
        let against = reference::against_edge(&case.source, &fields(), &tenant, class, &to, case.question.now);
        prop_assert!(named.is_subset(&against), "{id}: {named:?} and not {against:?}");
        let ends_known = !against.iter().any(|rule| {
            matches!(
                rule,
                Rule::UnknownRegion | Rule::UnknownJurisdiction | Rule::UnknownParty
            )
        });
        if ends_known {
            prop_assert_eq!(&named, &against, "{}", id);
        }
        tally.count(named);
    }
    Ok(())
}

fn parts(id: &EdgeId) -> (TenantId, DataClass, RegionName) {
    let parts: Vec<&str> = id.as_str().split('.').collect();
    (
        parts[0].parse().unwrap(),
        parts[1].parse().unwrap(),
        parts[2].parse().unwrap(),
    )
}

/// A region may hold on to its policy for a while: what it still allows then must be lawful then.
fn later_without_compiling_again(policy: &CompiledPolicy, case: &Case) -> Result<(), TestCaseError> {
    let question = Question {
        now: case.later,
        ..case.question.clone()
    };
    if policy.decide(&question).is_allowed() {
        let against = reference::against_question(&case.source, &fields(), &question);
        prop_assert!(
            against.is_empty(),
            "still allowed at {}, against {against:?}",
            case.later
        );
    }
    Ok(())
}

fn passing_on(policy: &CompiledPolicy, case: &Case) -> Result<(), TestCaseError> {
    let may = reference::may_go_on(&case.source, &fields(), &case.via, &case.question);
    let decision = policy.decide_onward(&case.via, &case.question);
    prop_assert_eq!(decision.is_allowed(), may, "{:?}", decision);
    Ok(())
}

fn retention(policy: &CompiledPolicy, case: &Case, tally: &mut Tally) -> Result<(), TestCaseError> {
    for tenant in case.source.tenants.keys() {
        let violations = policy.violations_of(tenant, case.question.now);
        let outside: BTreeSet<String> = violations
            .iter()
            .filter(|violation| violation.rule == Rule::RetentionOutsideLaw)
            .map(|violation| violation.path.clone())
            .collect();
        let expected = reference::retention_outside_law(&case.source, tenant);
        let expected = expected.iter().map(|class| format!("spec.retention.{class}")).collect();
        prop_assert_eq!(&outside, &expected);
        tally.count(outside.iter().map(|_| Rule::RetentionOutsideLaw));
    }
    Ok(())
}

fn age(case: &Case) -> Result<(), TestCaseError> {
    for law in case.source.jurisdictions.values() {
        let permitted = law.permits_at_age(case.question.purpose, &case.country, case.years);
        let kept = reference::kept_from(law, &case.country, case.years, case.question.purpose);
        prop_assert_eq!(permitted.is_err(), kept, "{:?}", permitted);
    }
    Ok(())
}
