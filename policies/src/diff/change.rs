//! What can differ between two policies, and which way.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::decision::{Check, Ground};
use crate::edge::EdgeId;
use crate::names::{OrganizationName, PartyName, RegionName, TenantId};
use crate::rule::Denial;
use crate::vocabulary::{DataClass, closed_vocabulary};

closed_vocabulary! {
    /// Which way a change goes. Widening needs a second approver; narrowing is never refused.
    Effect, "effect";
    /// Something may happen that might not before, whatever else is taken away.
    Widens = "widens",
    /// Something may no longer happen, and nothing new may.
    Narrows = "narrows",
    /// The same may happen, on other grounds.
    Neither = "neither",
}

impl Effect {
    /// The effect of several changes together: one that widens makes the whole a widening.
    #[must_use]
    pub fn of(parts: impl IntoIterator<Item = Self>) -> Self {
        parts.into_iter().min().unwrap_or(Self::Neither)
    }
}

/// Everything in which one policy differs from another. Empty lists: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PolicyDiff {
    /// By tenant.
    pub tenants: Vec<TenantChange>,
    /// By edge.
    pub edges: Vec<EdgeChange>,
    /// Classes that begin or cease to cross from one region to another, whoever the tenant.
    pub classes: Vec<FlowChange>,
    /// Event fields that begin or cease to cross from one region to another, whoever the tenant.
    pub streams: Vec<FlowChange>,
}

/// One edge that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeChange {
    /// Its name.
    pub edge: EdgeId,
    /// Whose data.
    pub tenant: TenantId,
    /// What.
    pub class: DataClass,
    /// From where.
    pub from: RegionName,
    /// Where to.
    pub to: RegionName,
    /// The legal entity that imports: after the change, or before it when the edge closes.
    pub importer: PartyName,
    /// Which way.
    pub effect: Effect,
    /// How it differs.
    #[serde(flatten)]
    pub difference: EdgeDifference,
}

/// How an edge differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "difference", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum EdgeDifference {
    /// It may carry data now.
    Opened {
        /// What refused it before.
        refused_before: Vec<Denial>,
        /// What it rests on now.
        grounds: Vec<Ground>,
    },
    /// It may no longer carry data.
    Closed {
        /// What refuses it now, each with its article.
        refused: Vec<Denial>,
    },
    /// It may carry data before and after, but not the same, or on other grounds.
    Changed {
        /// In what.
        aspects: Vec<AspectChange>,
    },
}

closed_vocabulary! {
    /// In what an edge can differ.
    Aspect, "aspect of an edge";
    /// The fields that go.
    Fields = "fields",
    /// What they are used for.
    Purposes = "purposes",
    /// Until when.
    Expires = "expires",
    /// The legal entity that imports.
    Importer = "importer",
    /// The tenant that receives.
    ImporterTenant = "importer-tenant",
    /// Whether the subject's identifier is replaced.
    Pseudonymise = "pseudonymise",
    /// Whether the importer may pass it on.
    Onward = "onward",
    /// Whether the subject's consent must stand at each delivery.
    NeedsConsent = "needs-consent",
    /// What must hold besides at each delivery.
    Condition = "condition",
    /// The mechanism and instrument relied on.
    Mechanism = "mechanism",
    /// The assessment relied on.
    Assessment = "assessment",
    /// The condition for a special category.
    Art9Condition = "art9-condition",
    /// The legal entity and region that export.
    Exporter = "exporter",
}

/// One aspect in which an edge differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AspectChange {
    /// In what.
    pub aspect: Aspect,
    /// What it was.
    pub before: String,
    /// What it is.
    pub after: String,
    /// Which way.
    pub effect: Effect,
    /// The ground that now holds, or the rule that now refuses.
    pub because: Check,
}

/// One tenant that differs, its edges apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TenantChange {
    /// Which.
    pub tenant: TenantId,
    /// Which way.
    pub effect: Effect,
    /// How.
    #[serde(flatten)]
    pub difference: TenantDifference,
}

/// How a tenant differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "difference", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum TenantDifference {
    /// It is new. Its data lives at home; what leaves from there shows among the edges.
    Appeared {
        /// Where it lives.
        home: RegionName,
    },
    /// It is gone.
    Gone {
        /// Where it lived.
        home: RegionName,
    },
    /// Its data moves as a whole.
    Moved {
        /// Where it lived.
        from: RegionName,
        /// Where it lives.
        to: RegionName,
    },
    /// Another controller decides about its data.
    ControllerChanged {
        /// Who did.
        before: OrganizationName,
        /// Who does.
        after: OrganizationName,
    },
    /// Its first edge opens: until now nothing left its home.
    Opened,
    /// Its last edge closes: from now on nothing leaves its home.
    Closed {
        /// What refuses its edges now.
        refused: Vec<Denial>,
    },
    /// A class is kept for longer or shorter.
    Retention {
        /// Which.
        class: DataClass,
        /// Days before; none: without limit.
        before: Option<u32>,
        /// Days after; none: without limit.
        after: Option<u32>,
    },
}

/// A class, or one field of it, that begins or ceases to cross from one region to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FlowChange {
    /// The class.
    pub class: DataClass,
    /// The event field; none: the class as such.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// From where.
    pub from: RegionName,
    /// Where to.
    pub to: RegionName,
    /// `widens`: it begins to cross. `narrows`: it ceases.
    pub effect: Effect,
    /// The edges that carry it now, or no longer.
    pub edges: BTreeSet<EdgeId>,
    /// The grounds that carry it, or the rules that refuse it, in words.
    pub because: BTreeSet<String>,
}

impl PolicyDiff {
    /// True when nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty() && self.edges.is_empty()
    }

    /// Which way the whole goes.
    #[must_use]
    pub fn effect(&self) -> Effect {
        let tenants = self.tenants.iter().map(|change| change.effect);
        Effect::of(tenants.chain(self.edges.iter().map(|change| change.effect)))
    }
}
