//! `cedar-policy` alone, for `cargo xtask bench policy`:
//!
//! `decide FOLDER ROUNDS` answers the questions of the bench. The edges are entities, found by their name, and one policy
//! compares what is asked with what the edge says; each request is in Cedar's own form before the clock runs.
//!
//! `conditions FOLDER` says of each condition whether Cedar's strict validator accepts it, and what it comes to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicySet, Request,
    RestrictedExpression, Schema, ValidationMode, Validator,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const POLICY: &str = "permit(principal, action, resource) when {
    context.now >= resource.from && context.now < resource.until
    && resource.purposes.contains(context.purpose) && resource.fields.containsAll(context.fields)
};";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [_, "decide", folder, rounds] => decide(Path::new(folder), rounds.parse()?),
        [_, "conditions", folder] => conditions(Path::new(folder)),
        _ => Err("usage: meridian-bench-cedar decide FOLDER ROUNDS | conditions FOLDER".into()),
    }
}

fn read<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<T> {
    Ok(serde_json::from_slice(&std::fs::read(folder.join(name))?)?)
}

fn uid(of: &str, id: &str) -> Result<EntityUid> {
    Ok(EntityUid::from_type_name_and_id(
        of.parse::<EntityTypeName>()?,
        EntityId::new(id),
    ))
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn set<'a>(values: impl IntoIterator<Item = &'a String>) -> RestrictedExpression {
    RestrictedExpression::new_set(values.into_iter().map(|value| text(value)))
}

#[derive(Deserialize)]
struct Edge {
    from: i64,
    until: i64,
    purposes: BTreeMap<String, bool>,
    fields: BTreeMap<String, bool>,
}

#[derive(Deserialize)]
struct Question {
    tenant: String,
    class: String,
    to: String,
    purpose: String,
    fields: Vec<String>,
    now: i64,
}

/// By tenant, class and region.
type Edges = BTreeMap<String, BTreeMap<String, BTreeMap<String, Edge>>>;

fn decide(folder: &Path, rounds: usize) -> Result<()> {
    let edges: Edges = read(folder, "edges.json")?;
    let questions: Vec<Question> = read(folder, "questions.json")?;
    let mut entities = Vec::new();
    for (tenant, classes) in &edges {
        for (class, regions) in classes {
            for (to, edge) in regions {
                let attributes = HashMap::from([
                    ("from".to_owned(), RestrictedExpression::new_long(edge.from)),
                    ("until".to_owned(), RestrictedExpression::new_long(edge.until)),
                    ("purposes".to_owned(), set(edge.purposes.keys())),
                    ("fields".to_owned(), set(edge.fields.keys())),
                ]);
                let name = uid("Edge", &format!("{tenant}.{class}.{to}"))?;
                entities.push(Entity::new(name, attributes, HashSet::new())?);
            }
        }
    }
    let entities = Entities::from_entities(entities, None)?;
    let policies: PolicySet = POLICY.parse()?;
    let requests: Vec<Request> = questions
        .iter()
        .map(|asked| {
            let context = Context::from_pairs([
                ("now".to_owned(), RestrictedExpression::new_long(asked.now)),
                ("purpose".to_owned(), text(&asked.purpose)),
                ("fields".to_owned(), set(&asked.fields)),
            ])?;
            let edge = uid("Edge", &format!("{}.{}.{}", asked.tenant, asked.class, asked.to))?;
            let (who, what) = (uid("Tenant", &asked.tenant)?, uid("Action", "transfer")?);
            Ok(Request::new(who, what, edge, context, None)?)
        })
        .collect::<Result<_>>()?;

    let authorizer = Authorizer::new();
    let mut allowed = vec![false; requests.len()];
    let (mut times, mut totals) = (Vec::with_capacity(requests.len()), Vec::new());
    for _ in 0..rounds {
        let began = Instant::now();
        for (request, allowed) in requests.iter().zip(&mut allowed) {
            let response = authorizer.is_authorized(request, &policies, &entities);
            *allowed = response.decision() == Decision::Allow;
        }
        totals.push(began.elapsed().as_nanos());
    }
    for request in &requests {
        let asked = Instant::now();
        black_box(authorizer.is_authorized(request, &policies, &entities));
        times.push(asked.elapsed().as_nanos());
    }
    times.sort_unstable();
    let answers: String = allowed.iter().map(|allowed| if *allowed { '1' } else { '0' }).collect();
    let answered = serde_json::json!({"allowed": answers, "rounds": totals, "p50": times[times.len() / 2],
        "p99": times[times.len() * 99 / 100]});
    println!("{answered}");
    Ok(())
}

#[derive(Deserialize)]
struct Conditions {
    schema: String,
    /// Each as it is written.
    texts: Vec<String>,
    /// Every condition is asked with every one.
    contexts: Vec<serde_json::Value>,
}

/// One line for each condition: `!` when it is none, otherwise 1 or 0 for each context.
fn conditions(folder: &Path) -> Result<()> {
    let asked: Conditions = read(folder, "conditions.json")?;
    let (schema, _) = Schema::from_cedarschema_str(&asked.schema)?;
    let validator = Validator::new(schema.clone());
    let authorizer = Authorizer::new();
    let (who, what, whom) = (
        uid("Meridian::Tenant", "t")?,
        uid("Meridian::Action", "transfer")?,
        uid("Meridian::Region", "r")?,
    );
    let requests: Vec<Request> = asked
        .contexts
        .into_iter()
        .map(|context| {
            let context = Context::from_json_value(context, Some((&schema, &what)))?;
            Ok(Request::new(
                who.clone(),
                what.clone(),
                whom.clone(),
                context,
                Some(&schema),
            )?)
        })
        .collect::<Result<_>>()?;
    for condition in &asked.texts {
        let policy = format!(
            "permit(principal is Meridian::Tenant, action == Meridian::Action::\"transfer\", \
             resource is Meridian::Region) when {{ {condition}\n }};"
        );
        let valid = policy
            .parse::<PolicySet>()
            .ok()
            .filter(|policies| validator.validate(policies, ValidationMode::Strict).validation_passed());
        match valid {
            None => println!("!"),
            Some(policies) => {
                let holds = |request| {
                    authorizer
                        .is_authorized(request, &policies, &Entities::empty())
                        .decision()
                        == Decision::Allow
                };
                let line: String = requests
                    .iter()
                    .map(|request| if holds(request) { '1' } else { '0' })
                    .collect();
                println!("{line}");
            }
        }
    }
    Ok(())
}
