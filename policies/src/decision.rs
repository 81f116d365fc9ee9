//! Questions to the policy and its answers.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use crate::edge::{CompiledEdge, EdgeId};
use crate::index::Verdicts;
use crate::names::{CountryCode, RegionName, TenantId};
use crate::refusal::Reason;
use crate::rule::{Denial, Rule};
use crate::vocabulary::{DataClass, Purpose};

/// May this go there, now?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Whose data.
    pub tenant: TenantId,
    /// What.
    pub class: DataClass,
    /// What for.
    pub purpose: Purpose,
    /// Where to.
    pub to: RegionName,
    /// The fields that would go. None: asks about the edge as such.
    pub fields: BTreeSet<String>,
    /// At what moment.
    pub now: Timestamp,
    /// The data subject, with what is known of them. None: asks about no one in particular, and what only a person can
    /// refuse is not asked.
    pub subject: Option<Subject>,
}

/// What is known of a data subject. Nothing that could say who it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// Age in years.
    pub age: Option<u8>,
    /// Where they live.
    pub country: Option<CountryCode>,
    /// The purposes that they object to (GDPR Art 21).
    pub objects_to: BTreeSet<Purpose>,
    /// Whether the use of their data is restricted (GDPR Art 18): then it is stored, and nothing else.
    pub restricted: bool,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "decision", rename_all = "kebab-case")]
pub enum Decision {
    /// It may.
    Allow(Permission),
    /// It may not.
    Deny {
        /// The rule that refuses.
        rule: Rule,
        /// In words.
        reason: Reason,
        /// The article that the rule rests on.
        #[serde(skip_serializing_if = "Option::is_none")]
        article: Option<&'static str>,
    },
}

/// What may go along which edge. The grounds are put into words only for who asks for them.
#[derive(Debug, Clone)]
pub struct Permission {
    along: Along,
    /// What for.
    pub purpose: Purpose,
    /// Where the copy lies that may be passed on, if it is one.
    pub passed_on_from: Option<RegionName>,
}

/// The edge, held together with what lies beside it where that costs nothing.
#[derive(Debug, Clone)]
enum Along {
    Indexed(Verdicts, usize),
    Own(Arc<CompiledEdge>),
}

impl PartialEq for Permission {
    fn eq(&self, other: &Self) -> bool {
        (self.edge(), self.purpose, &self.passed_on_from) == (other.edge(), other.purpose, &other.passed_on_from)
    }
}

impl Eq for Permission {}

impl Permission {
    /// Along the edge at that place. None: it is not open.
    pub(crate) fn indexed(verdicts: &Verdicts, at: usize, purpose: Purpose) -> Option<Self> {
        verdicts.get(at)?.edge()?;
        Some(Self {
            along: Along::Indexed(Arc::clone(verdicts), at),
            purpose,
            passed_on_from: None,
        })
    }

    /// Along this edge.
    pub(crate) fn along(edge: CompiledEdge, purpose: Purpose) -> Self {
        Self {
            along: Along::Own(Arc::new(edge)),
            purpose,
            passed_on_from: None,
        }
    }

    /// The same, of a copy that lies there.
    pub(crate) fn passed_on_from(self, region: RegionName) -> Self {
        Self {
            passed_on_from: Some(region),
            ..self
        }
    }

    /// The edge.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "`indexed` has seen that it is open, and verdicts never change"
    )]
    pub fn edge(&self) -> &CompiledEdge {
        match &self.along {
            Along::Indexed(verdicts, at) => verdicts[*at].edge().expect("an open edge"),
            Along::Own(edge) => edge,
        }
    }

    /// Everything that it rests on, all of which holds.
    #[must_use]
    pub fn grounds(&self) -> Vec<Ground> {
        let ground = |kind, sentence| Ground { kind, sentence };
        let edge = self.edge();
        let mut grounds = edge.standing_grounds();
        grounds.push(ground("purpose", format!("the edge is for {}", self.purpose)));
        grounds.push(ground("lawful-basis", self.purpose.basis_sentence(edge.framework)));
        if let Some(via) = &self.passed_on_from {
            let origin = EdgeId::new(&edge.tenant, edge.class, via);
            grounds.push(ground("onward", format!("edge {origin} lets its copy be passed on")));
        }
        grounds
    }
}

impl Serialize for Permission {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut permission = serializer.serialize_struct("Permission", 2)?;
        permission.serialize_field("edge", self.edge())?;
        permission.serialize_field("grounds", &self.grounds())?;
        permission.end()
    }
}

impl Decision {
    /// True when it may.
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// The rule that refuses, if it may not.
    #[must_use]
    pub const fn refused_by(&self) -> Option<Rule> {
        match self {
            Self::Allow(_) => None,
            Self::Deny { rule, .. } => Some(*rule),
        }
    }
}

impl From<Denial> for Decision {
    fn from(Denial { rule, reason, article }: Denial) -> Self {
        let reason = reason.into();
        Self::Deny { rule, reason, article }
    }
}

/// Something that holds and that a permission rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ground {
    /// What kind of ground: `parties`, `importer`, `mechanism`, `assessment`, `certification`, `art9-condition`, `condition`, `consent`,
    /// `purpose` (of a question), `purposes` (of an edge), `lawful-basis`, `fields`, `validity`, `onward`.
    pub kind: &'static str,
    /// In words.
    pub sentence: String,
}

/// Why an edge is allowed or refused, check by check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Whose data.
    pub tenant: TenantId,
    /// What.
    pub class: DataClass,
    /// From where.
    pub from: RegionName,
    /// Where to.
    pub to: RegionName,
    /// True when every check passed.
    pub lawful: bool,
    /// Until when, if lawful.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// In the order they were made.
    pub checks: Vec<Check>,
}

/// One check of an explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Check {
    /// It holds.
    Holds(Ground),
    /// It refuses.
    Refuses(Denial),
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.lawful { "allowed" } else { "refused" };
        writeln!(
            f,
            "{} of {} from {} to {}: {verdict}",
            self.class, self.tenant, self.from, self.to
        )?;
        for check in &self.checks {
            match check {
                Check::Holds(ground) => writeln!(f, "  holds    {}: {}", ground.kind, ground.sentence)?,
                Check::Refuses(denial) => {
                    write!(f, "  refuses  {}: {}", denial.rule, denial.reason)?;
                    match denial.article {
                        Some(article) => writeln!(f, " ({article})")?,
                        None => writeln!(f)?,
                    }
                }
            }
        }
        Ok(())
    }
}
