//! `meridian-bench policy`: the policy engine against its promises, and the same decisions by cedar-policy alone and by
//! OPA's Go library; and the verifier, which holds a region's rows against it (`verify/`).
//!
//! What is compared: 10,000 tenants with two edges each, compiled by Meridian; the peers are given those edges, not
//! the law that they come from. Each side finds an edge by its key (ours and OPA's by tenant, class and region, Cedar's as
//! an entity by its name) and compares moment, purpose and fields. Questions are in each side's own form before the clock
//! runs. Ours also keeps why it refuses, for who wants it in words. Every answer must be the same on all sides, or there is no figure.
//!
//! Percentiles are of single decisions, clock reads included; ratios are of whole rounds without them, in turns. A tenant's
//! change is from the new source to the new policy; making the source and dropping the old policy are outside of it.

mod conditions;
mod peers;
mod random;
#[cfg(feature = "verifier")]
pub mod verify;
mod world;

use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use meridian_policy::{CompiledPolicy, Condition, PolicySource, Question, compile};

use crate::measure::{compare, median, percentile};
use crate::report::{Bound, Metric, Report};
use crate::{Arguments, Peers};
use peers::Peer;

/// The figures of the engine, the quick ones first.
const OF_THE_ENGINE: [&str; 5] = ["decide", "condition", "compile", "peers", "conditions"];
/// The figure of the verifier.
const VERIFY: &str = "verify";
const TENANTS: usize = 10_000;
const QUESTIONS: usize = 20_000;
/// Turns with each peer.
const TURNS: usize = 5;
/// Twenty times as fast.
const TWENTY: f64 = 0.05;

/// Measures the figures that are wanted, or all.
///
/// # Errors
/// Which figures could not be measured.
pub async fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let only = &arguments.only;
    let known = || OF_THE_ENGINE.into_iter().chain([VERIFY]);
    if let Some(unknown) = only.iter().find(|figure| known().all(|known| known != *figure)) {
        let known: Vec<&str> = known().collect();
        bail!("no figure is called `{unknown}`; there are: {}", known.join(", "));
    }
    let wanted = |figure: &&str| only.is_empty() || only.iter().any(|wanted| wanted == figure);
    let of_the_engine: Vec<&str> = OF_THE_ENGINE.into_iter().filter(wanted).collect();
    let mut failed = Vec::new();
    if !of_the_engine.is_empty() {
        failed.extend(of_the_engine_failed(&of_the_engine, &arguments.peers, report)?);
    }
    if wanted(&VERIFY) {
        failed.extend(unless_measured(VERIFY, verifying(arguments, report).await));
    }
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("could not be measured: {}", failed.join(", "))
    }
}

/// Measures figures of the engine, and names those that could not be measured.
fn of_the_engine_failed<'a>(figures: &[&'a str], peers: &Peers, report: &mut Report) -> Result<Vec<&'a str>> {
    let source = world::source(TENANTS)?;
    let policy = compile(&source, world::now());
    let edges = policy.edges().count();
    ensure!(policy.refusals().count() == 0, "an edge of the bench is refused");
    let questions = world::questions(&policy, QUESTIONS)?;
    eprintln!("policy: {TENANTS} tenants, {edges} edges, {QUESTIONS} questions");
    let mut failed = Vec::new();
    for figure in figures {
        eprintln!("policy: {figure} …");
        let measured = match *figure {
            "decide" => decide(&policy, &questions, report),
            "condition" => condition(&source, &questions, report),
            "compile" => compiling(&source, report),
            "peers" => against_peers(&policy, &questions, peers, report),
            _ => conditions::agree(&policy, peers, report),
        };
        failed.extend(unless_measured(figure, measured));
    }
    Ok(failed)
}

/// The figure, with a word about why, when it could not be measured.
fn unless_measured(figure: &str, measured: Result<()>) -> Option<&str> {
    let error = measured.err()?;
    eprintln!("policy: {figure}: {error:#}");
    Some(figure)
}

#[cfg(feature = "verifier")]
async fn verifying(arguments: &Arguments, report: &mut Report) -> Result<()> {
    eprintln!("policy: {VERIFY} …");
    verify::measure(&arguments.programs, arguments.rows, report).await
}

#[cfg(not(feature = "verifier"))]
async fn verifying(_: &Arguments, _: &mut Report) -> Result<()> {
    bail!("this program was built without the feature `verifier`")
}

fn micros(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e6
}

/// Microseconds of every decision of three rounds, after one that is not counted.
fn timed(policy: &CompiledPolicy, questions: &[Question]) -> Vec<f64> {
    round(policy, questions);
    let ask = |question: &Question| {
        let asked = Instant::now();
        black_box(policy.decide(black_box(question)));
        micros(asked)
    };
    (0..3).flat_map(|_| questions.iter().map(ask)).collect()
}

/// Seconds of one round.
fn round(policy: &CompiledPolicy, questions: &[Question]) -> f64 {
    let began = Instant::now();
    for question in questions {
        black_box(policy.decide(black_box(question)));
    }
    began.elapsed().as_secs_f64()
}

fn told(report: &mut Report, name: &str, value: Option<f64>, unit: &'static str, bound: Bound) -> Result<()> {
    let value = value.with_context(|| format!("nothing was measured of {name}"))?;
    report.add(Metric::own(name, value, unit, bound))
}

fn decide(policy: &CompiledPolicy, questions: &[Question], report: &mut Report) -> Result<()> {
    let times = timed(policy, questions);
    told(
        report,
        "decide, 10,000 tenants: p50",
        percentile(&times, 0.5),
        "µs",
        Bound::AtMost(1.0),
    )?;
    told(
        report,
        "decide, 10,000 tenants: p99",
        percentile(&times, 0.99),
        "µs",
        Bound::AtMost(5.0),
    )
}

fn condition(source: &PolicySource, questions: &[Question], report: &mut Report) -> Result<()> {
    let mut source = source.clone();
    let text = "context.purpose == \"cross-border-sharing\" && context.hour < 24 && context.fields.containsAny([\"sport_type\", \
                \"distance_meters\"]) && (context.tenant like \"tenant-*\" || context has age && context.age >= 18)";
    let condition = Condition::new(text);
    condition
        .check()
        .map_err(Clone::clone)
        .context("the bench's own condition")?;
    let entries = source.tenants.values_mut().flat_map(|tenant| &mut tenant.spec.classes);
    for ask in entries.flat_map(|entry| &mut entry.replicate_to) {
        ask.condition = Some(condition.clone());
    }
    let policy = compile(&source, world::now());
    let allowed = questions
        .iter()
        .filter(|question| policy.decide(question).is_allowed())
        .count();
    ensure!(
        allowed * 4 > questions.len(),
        "only {allowed} questions are allowed with the condition"
    );
    let times = timed(&policy, questions);
    let name = "decide with a Cedar condition: p99";
    told(report, name, percentile(&times, 0.99), "µs", Bound::AtMost(50.0))
}

fn compiling(source: &PolicySource, report: &mut Report) -> Result<()> {
    let mut whole = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        black_box(compile(black_box(source), world::now()));
        whole.push(began.elapsed().as_secs_f64());
    }
    told(
        report,
        "compile 10,000 tenants",
        median(&whole),
        "s",
        Bound::AtMost(1.0),
    )?;

    let mut policy = compile(source, world::now());
    let ids: Vec<_> = source.tenants.keys().cloned().collect();
    let mut changes = Vec::new();
    for turn in 0..100 {
        let id = ids[(turn * 97) % ids.len()].clone();
        let mut changed = policy.source().clone();
        let facts = changed.tenants.get_mut(&id).context("the tenant")?;
        let organization = facts.spec.organization.clone();
        // Opens and closes by turns: the most that a change can do.
        match facts.spec.classes.pop() {
            Some(entry) if turn % 2 == 0 => facts.spec.classes.insert(0, entry),
            _ => {}
        }
        facts.epoch = facts.epoch.next();
        let concerned: BTreeSet<_> = changed
            .tenants
            .iter()
            .filter(|(_, facts)| facts.spec.organization == organization)
            .map(|(id, _)| id.clone())
            .collect();
        let began = Instant::now();
        let next = policy.recompile(changed, &concerned, world::now());
        changes.push(began.elapsed().as_secs_f64() * 1e3);
        policy = next;
    }
    let anew = compile(policy.source(), world::now());
    ensure!(
        policy.edges().eq(anew.edges()),
        "changes came to another policy than compiling anew"
    );
    told(
        report,
        "one tenant's change: p50",
        percentile(&changes, 0.5),
        "ms",
        Bound::AtMost(1.0),
    )?;
    told(
        report,
        "one tenant's change: p99",
        percentile(&changes, 0.99),
        "ms",
        Bound::AtMost(1.0),
    )
}

fn against_peers(policy: &CompiledPolicy, questions: &[Question], peers: &Peers, report: &mut Report) -> Result<()> {
    let folder = report.beside("policy");
    peers::write(&folder, policy, questions)?;
    let ours: String = questions
        .iter()
        .map(|question| if policy.decide(question).is_allowed() { '1' } else { '0' })
        .collect();
    let allowed = ours.matches('1').count();
    ensure!(
        allowed * 5 >= questions.len() && allowed < questions.len(),
        "{allowed} of {QUESTIONS} allowed compares nothing"
    );
    let names = [
        (Peer::Cedar, "decide, against cedar-policy alone"),
        (Peer::Opa, "decide, against OPA's Go library"),
    ];
    for (peer, name) in names {
        let mut pairs = Vec::new();
        for _ in 0..TURNS {
            let mut rounds: Vec<f64> = (0..5).map(|_| round(policy, questions)).collect();
            rounds.remove(0);
            let answered = peer.decide(peers, &folder)?;
            if let Some(at) = ours
                .bytes()
                .zip(answered.allowed.bytes())
                .position(|(one, other)| one != other)
            {
                bail!("{name}: question {at} is answered otherwise: {:?}", questions[at]);
            }
            ensure!(
                answered.allowed.len() == ours.len(),
                "{name}: some questions were not answered"
            );
            let theirs = median(&answered.rounds).context("no rounds")? / 1e9;
            pairs.push((median(&rounds).context("no rounds")?, theirs));
        }
        let compared = compare(&pairs).with_context(|| format!("{name}: nothing to compare"))?;
        #[expect(clippy::cast_precision_loss, reason = "a number of questions")]
        let each = 1e6 / questions.len() as f64;
        report.add(Metric {
            name: name.to_owned(),
            ours: compared.ours * each,
            peer: Some(compared.peer * each),
            ratio: Some(compared.ratio),
            unit: "µs",
            bound: Bound::RatioAtMost(TWENTY),
        })?;
    }
    Ok(())
}
