//! What waits to leave along an edge, as its region said last.

use meridian_policy::{EdgeId, RegionName};

use crate::hub::source;
use crate::plugin::observe::States;
use crate::watch::Cache;

/// Copies that wait to leave along an edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// So many.
    Copies(u64),
    /// It is not known how many.
    Unknown(String),
}

/// What waits at `edge`, which leaves from `from`. `states`: none when the members were not asked.
pub(super) fn waiting(hub: &Cache, states: Option<&States>, from: &RegionName, edge: &EdgeId) -> Waiting {
    let unknown = |why: &str| Waiting::Unknown(why.to_owned());
    let Some(states) = states else {
        return unknown("the members were not asked");
    };
    let regions = source::regions(hub);
    let cluster = regions.get(from).and_then(|spec| spec.primary());
    let state = match cluster.and_then(|cluster| states.get(&cluster.name)) {
        Some(Ok(state)) => state,
        Some(Err(silence)) => return Waiting::Unknown(silence.message.clone()),
        None => return unknown("no cluster of the region was asked"),
    };
    let stack = source::stack(&state.stacks, from);
    let backlog = stack.as_ref().map(|stack| &stack["status"]["backlog"]);
    let Some(backlog) = backlog.filter(|backlog| backlog.is_object()) else {
        return Waiting::Unknown(format!("{from} has not reported a backlog"));
    };
    let count = |entry: &serde_json::Value| entry["waiting"].as_u64().unwrap_or_default();
    let listed = backlog["edges"].as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(entry) = listed.iter().find(|entry| entry["edge"] == edge.as_str()) {
        return Waiting::Copies(count(entry));
    }
    let told: u64 = listed.iter().map(count).sum();
    if told == backlog["waiting"].as_u64().unwrap_or_default() {
        return Waiting::Copies(0);
    }
    let least = listed.iter().map(count).min().unwrap_or_default();
    Waiting::Unknown(format!(
        "{from} lists other edges, where more waits; at most {least} here"
    ))
}
