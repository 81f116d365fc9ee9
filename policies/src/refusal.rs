//! Why something may not go. Most who are refused ask for the rule alone, so that a refusal keeps what it is about, and is
//! put into words for who reads them.

use std::fmt::{self, Write as _};

use serde::{Serialize, Serializer};

use crate::edge::CompiledEdge;
use crate::index::Verdicts;
use crate::names::{RegionName, TenantId};
use crate::rule::{Denial, Rule};
use crate::vocabulary::{DataClass, LegalFramework, Purpose};

/// Longer names of fields come from somebody who does not mean a field.
const LONGEST_NAME: usize = 64;
/// So many foreign fields are named, the others counted.
const NAMED: usize = 8;

/// What an edge has against a question.
#[derive(Debug, Clone)]
pub(crate) enum Objection {
    /// It has not begun.
    NotYet,
    /// It has ended.
    Ended,
    /// It is not for this purpose.
    Purpose(Purpose),
    /// It does not carry so many fields, of which some are named.
    Fields { count: usize, named: String },
    /// Something that takes more than the edge to say.
    Said(Box<Denial>),
}

impl Objection {
    /// Foreign fields. Their names come from outside and may be long: it is kept how many, and those that are short.
    pub(crate) fn fields<'a>(foreign: impl Iterator<Item = &'a String>) -> Self {
        let (mut count, mut names, mut named) = (0, 0, String::new());
        for name in foreign {
            count += 1;
            if name.len() <= LONGEST_NAME && names < NAMED {
                if names > 0 {
                    named.push_str(", ");
                }
                named.push_str(name);
                names += 1;
            }
        }
        Self::Fields { count, named }
    }

    /// The rule that refuses; `ends_with` is the edge's, for when it has ended.
    pub(crate) const fn rule(&self, ends_with: Rule) -> Rule {
        match self {
            Self::NotYet => Rule::MechanismNotInForce,
            Self::Ended => ends_with,
            Self::Purpose(_) => Rule::PurposeNotAllowed,
            Self::Fields { .. } => Rule::FieldNotAllowed,
            Self::Said(denial) => denial.rule,
        }
    }

    /// The same in words.
    pub(crate) fn said_by(&self, edge: &CompiledEdge) -> Denial {
        let because = match self {
            Self::NotYet => format!(
                "{} {} is in force only from {}",
                edge.mechanism, edge.instrument, edge.effective_from
            ),
            Self::Ended => format!("it ended at {}", edge.expires),
            Self::Purpose(purpose) => format!("the edge is not for {purpose}"),
            Self::Fields { count, named } => {
                format!("{count} field(s) are not of the edge: {named}")
            }
            Self::Said(denial) => return (**denial).clone(),
        };
        edge.deny(self.rule(edge.ends_with), because)
    }
}

impl From<Denial> for Objection {
    fn from(denial: Denial) -> Self {
        Self::Said(Box::new(denial))
    }
}

/// Why something is refused. Its words are found when it is displayed.
#[derive(Clone)]
pub struct Reason(Why);

#[derive(Clone)]
enum Why {
    Said(String),
    /// The edge at that place objects.
    Objection(Verdicts, usize, Objection),
    /// Nobody asks for that edge; the one at that place leaves from the same home.
    NoEdge {
        beside: Verdicts,
        at: usize,
        class: DataClass,
        to: RegionName,
    },
    /// To where the edge at that place leaves from.
    Home(Verdicts, usize),
    UnknownTenant(TenantId),
}

impl Reason {
    pub(crate) fn objection(verdicts: &Verdicts, at: usize, objection: Objection) -> Self {
        Self(Why::Objection(verdicts.clone(), at, objection))
    }

    pub(crate) fn no_edge(beside: &Verdicts, at: usize, class: DataClass, to: &RegionName) -> Self {
        let (beside, to) = (beside.clone(), to.clone());
        Self(Why::NoEdge { beside, at, class, to })
    }

    pub(crate) fn home(verdicts: &Verdicts, at: usize) -> Self {
        Self(Why::Home(verdicts.clone(), at))
    }

    pub(crate) fn unknown_tenant(tenant: &TenantId) -> Self {
        Self(Why::UnknownTenant(tenant.clone()))
    }

    fn words(&self) -> String {
        let denial = match &self.0 {
            Why::Said(reason) => return reason.clone(),
            Why::Objection(verdicts, at, objection) => open(verdicts, *at).map(|edge| objection.said_by(edge)),
            Why::NoEdge { beside, at, class, to } => {
                open(beside, *at).map(|edge| no_edge(edge.framework, &edge.tenant, *class, &edge.from, to))
            }
            Why::Home(verdicts, at) => {
                open(verdicts, *at).map(|edge| home_as_target(edge.framework, &edge.tenant, &edge.from))
            }
            Why::UnknownTenant(tenant) => Some(tenant_unknown(tenant)),
        };
        denial.map(|denial| denial.reason).unwrap_or_default()
    }
}

/// The edge at that place: whoever made the reason has seen it, and verdicts never change.
fn open(verdicts: &Verdicts, at: usize) -> Option<&CompiledEdge> {
    verdicts.get(at)?.edge()
}

impl From<String> for Reason {
    fn from(reason: String) -> Self {
        Self(Why::Said(reason))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words())
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.words(), f)
    }
}

impl PartialEq for Reason {
    fn eq(&self, other: &Self) -> bool {
        self.words() == other.words()
    }
}

impl Eq for Reason {}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.words())
    }
}

pub(crate) fn tenant_unknown(tenant: &TenantId) -> Denial {
    Denial::new(
        Rule::TenantUnknown,
        LegalFramework::Other,
        format!("there is no tenant '{tenant}' here"),
    )
}

pub(crate) fn home_as_target(framework: LegalFramework, tenant: &TenantId, home: &RegionName) -> Denial {
    let reason = format!("{home} is the home of {tenant}: nothing is transferred there");
    Denial::new(Rule::HomeNamedAsTarget, framework, reason)
}

pub(crate) fn no_edge(
    framework: LegalFramework,
    tenant: &TenantId,
    class: DataClass,
    from: &RegionName,
    to: &RegionName,
) -> Denial {
    // Most fit: see [`CompiledEdge::deny`].
    let mut reason = String::with_capacity(192);
    // Writing into a String cannot fail.
    let _ = write!(reason, "nothing allows {class} of {tenant} to go from {from} to {to}");
    Denial::new(Rule::NoEdge, framework, reason)
}
