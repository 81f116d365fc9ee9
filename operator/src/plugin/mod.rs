//! `kubectl meridian`: what people ask a hub, and what it would do with what they are about to apply.
//!
//! It reads what the hub role itself reads (its resources, the kubeconfigs that it names, and in members the stacks,
//! placements, pools, nodes and the policy lease), decides by the very functions of [`crate::hub`], and writes nothing but approvals.
//!
//! | module | what it is for |
//! |---|---|
//! | [`reach`] | the person's kubeconfig: clients for the hub and the members |
//! | [`observe`] | what is there |
//! | [`status`] | is everything as it should be |
//! | [`explain`] | why an edge is allowed or refused |
//! | [`incidents`] | what was found, and the legal clocks of it |
//! | [`plan`] | what files would change, cluster by cluster |
//! | [`approve`] | another person's word for a change that waits |
//! | [`what_if`] | what would close or open if a ground of the policy fell away |
//! | [`table`] | aligned columns |

pub mod approve;
pub mod explain;
pub mod incidents;
pub mod observe;
pub mod plan;
pub mod reach;
pub mod status;
pub mod table;
pub mod what_if;
#[cfg(test)]
pub(crate) mod world;

use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;

use crate::apply::observed;
use explain::Asked;
use reach::Reach;
use status::Wanted;

/// For whom an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// For people: aligned tables.
    #[default]
    Table,
    /// For machines: one JSON document.
    Json,
}

/// What is printed, and the exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// With its last newline.
    pub text: String,
    /// See each verb.
    pub code: u8,
}

/// The exit code of what is refused, not Ready or could not be found out.
pub const REFUSED: u8 = 1;
/// The exit code of a plan, or of a supposition, that changes something.
pub const CHANGES: u8 = 2;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// No kubeconfig.
    #[error("the kubeconfig cannot be read: {0}; name one with --kubeconfig or KUBECONFIG")]
    Kubeconfig(String),
    /// The context is not in it.
    #[error("there is no context '{context}' in the kubeconfig; there are: {}", listed(.known))]
    NoContext {
        /// The one asked for.
        context: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// No context is chosen.
    #[error("the kubeconfig has no current context; name one with --context: {}", listed(.known))]
    NoCurrentContext {
        /// Those that there are.
        known: Vec<String>,
    },
    /// The hub cannot be asked.
    #[error("the hub (context {context}) does not answer: {cause}")]
    Unreachable {
        /// By which context.
        context: String,
        /// What came back.
        cause: String,
    },
    /// The hub refuses to be read.
    #[error("the hub (context {context}) does not let you list {kind}: {cause}")]
    Forbidden {
        /// By which context.
        context: String,
        /// Which kind.
        kind: &'static str,
        /// What came back.
        cause: String,
    },
    /// It is no hub.
    #[error(
        "the custom resources {} are not installed in the cluster of context {context}: name the hub's context with --context, or install the chart there with role=hub",
        listed(.kinds)
    )]
    NotInstalled {
        /// By which context.
        context: String,
        /// Which kinds.
        kinds: Vec<String>,
    },
    /// A word is not one of the vocabulary.
    #[error("{0}")]
    Word(String),
    /// Something is not on the hub.
    #[error("there is no {what} '{name}' on the hub; there are: {}", listed(.known))]
    Unknown {
        /// Of which kind.
        what: &'static str,
        /// The one asked for.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// A resource on the hub cannot be read.
    #[error("{kind} {name} on the hub cannot be read: {cause}")]
    Unreadable {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Which field, and why.
        cause: String,
    },
    /// What is supposed cannot be read, or strikes nothing.
    #[error(transparent)]
    WhatIf(#[from] meridian_policy::WhatIfError),
    /// A file cannot be planned.
    #[error(transparent)]
    File(#[from] plan::FileError),
    /// An approval cannot be given.
    #[error("the approval was not given: {0}")]
    Approval(String),
    /// The answer cannot be written as JSON.
    #[error("the answer cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// At most so many names are listed in a sentence.
const LISTED: usize = 20;

fn listed(names: &[String]) -> String {
    match names.len() {
        0 => "none".to_owned(),
        all if all <= LISTED => names.join(", "),
        all => format!("{} and {} more", names[..LISTED].join(", "), all - LISTED),
    }
}

/// `kubectl meridian status`: 0 when everything is Ready, fresh and lawful, 1 otherwise.
///
/// # Errors
/// When the hub cannot be read. A member that cannot be read is part of the answer.
pub async fn status(reach: &Reach, wanted: Wanted, output: Output) -> Result<Answer, PluginError> {
    let hub = observe::hub_and_incidents(reach).await?;
    let members = if wanted.hub_only {
        None
    } else {
        Some(observe::states(reach, &hub).await)
    };
    let report = status::report(&hub.cache, members.as_ref(), wanted, Timestamp::now());
    let code = if report.well { 0 } else { REFUSED };
    answer(&report, output, code)
}

/// `kubectl meridian incidents`: 0 when none is open, 1 otherwise. `all`: closed ones are listed too.
///
/// # Errors
/// When the hub cannot be read.
pub async fn incidents(reach: &Reach, all: bool, output: Output) -> Result<Answer, PluginError> {
    let hub = observe::hub_and_incidents(reach).await?;
    let report = incidents::report(&hub.cache, all, Timestamp::now());
    let code = if report.is_well() { 0 } else { REFUSED };
    answer(&report, output, code)
}

/// `kubectl meridian explain`: 0 when every check passed, 1 otherwise.
///
/// # Errors
/// When the hub cannot be read, or has no such tenant, class or region.
pub async fn explain(reach: &Reach, asked: &Asked, output: Output) -> Result<Answer, PluginError> {
    let asked = asked.parse()?;
    let hub = observe::hub(reach).await?;
    let report = explain::report(&hub.cache, &asked, Timestamp::now())?;
    let code = if report.lawful { 0 } else { REFUSED };
    answer(&report, output, code)
}

/// `kubectl meridian plan`: 0 when nothing would change, 2 when something would, 1 when something is refused or could not
/// be found out. Nothing is written anywhere.
///
/// # Errors
/// When a file or the hub cannot be read.
pub async fn plan(reach: &Reach, files: &[PathBuf], output: Output) -> Result<Answer, PluginError> {
    let files = plan::read(files)?;
    let hub = observe::hub(reach).await?;
    let now = Timestamp::now();
    let admitted = plan::admit(&hub.cache, files, now);
    let members = observe::members(reach, &hub, &admitted.hub).await;
    let report = plan::report(&hub.cache, admitted, &members, now);
    let code = report.verdict.code();
    answer(&report, output, code)
}

/// `kubectl meridian approve`: 0 when nothing waits (any more), 2 when a change waits, 1 when the approval is refused.
///
/// # Errors
/// When the hub cannot be read, has no such resource, or does not take the approval.
pub async fn approve(reach: &Reach, asked: &approve::Asked, output: Output) -> Result<Answer, PluginError> {
    let key = asked.key()?;
    let hub = observe::hub(reach).await?;
    let object = hub.cache.get(&key).ok_or_else(|| PluginError::Unknown {
        what: key.kind.kind,
        name: key.name.clone(),
        known: hub.cache.keys_of(key.kind).into_iter().map(|key| key.name).collect(),
    })?;
    let report = match approve::answered(&key, &observed(&object), asked.digest.as_deref()) {
        Ok(change) => approve::approve(&hub.client, &key, change).await?,
        Err(report) => *report,
    };
    answer(&report, output, report.code())
}

/// `kubectl meridian what-if`: 0 when no edge would change, 2 when one would. Nothing is written anywhere. `hub_only`: the
/// members are not asked what waits.
///
/// # Errors
/// When what is supposed is not understood or strikes nothing in the policy, or the hub cannot be read. A member that cannot
/// be read is part of the answer.
pub async fn what_if(
    reach: &Reach,
    asked: &what_if::Asked,
    hub_only: bool,
    output: Output,
) -> Result<Answer, PluginError> {
    let asked = asked.parse()?;
    let hub = observe::hub(reach).await?;
    let states = if hub_only {
        None
    } else {
        Some(observe::states(reach, &hub).await)
    };
    let report = what_if::report(&hub.cache, states.as_ref(), &asked, Timestamp::now())?;
    let code = if report.edges.is_empty() { 0 } else { CHANGES };
    answer(&report, output, code)
}

fn answer(report: &(impl Serialize + fmt::Display), output: Output, code: u8) -> Result<Answer, PluginError> {
    let text = match output {
        Output::Table => report.to_string(),
        Output::Json => format!("{}\n", serde_json::to_string_pretty(report)?),
    };
    Ok(Answer { text, code })
}
