//! What a deleted TenantDataResidency still waits for: first its edges are closed, in both directions, while it is still at
//! home, so that both ends can purge and say so; then its home lets go of it; then its finalizer goes.

use std::collections::BTreeSet;

use meridian_policy::RegionName;
use serde_json::Value;

use super::closing::{self, Missing};
use super::members::{Health, Member};
use super::source;
use crate::apply::observed;
use crate::manifest::{ObjectKey, TENANT_PLACEMENT};
use crate::policy_form;

/// The finalizer of resources whose traces in members must be gone before they are.
pub const FINALIZER: &str = "meridian.sh/members";
/// The phase of a tenant whose edges are being closed.
pub const CLOSING: &str = "Closing";
/// The phase of a tenant that has left the policy. There is no way back from it but to make the tenant anew.
pub const LEAVING: &str = "Leaving";

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Reason of the condition, PascalCase.
    pub reason: &'static str,
    /// What, and what to do about it.
    pub message: String,
}

/// How far a deleted tenant has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Departure {
    /// Edges from or to it may still be open.
    Closing(Waiting),
    /// They are closed; its home has not let go of it yet.
    Leaving(Waiting),
    /// Nothing of it is left in any member.
    Done,
}

/// What one region shows of a tenant, as last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Which region.
    pub region: RegionName,
    /// Why it cannot be asked now.
    pub unanswered: Option<String>,
    /// The tenant's placement is there.
    pub placed: bool,
    /// Edges from or to the tenant that its placement or the region's policy names.
    pub edges: usize,
    /// The region's policy has the tenant at home.
    pub at_home: bool,
    /// What was written into the region is what it applies.
    pub settled: bool,
    /// What the region has not acknowledged of the edges that are closed.
    pub missing: Vec<Missing>,
}

impl View {
    /// A region that holds nothing of the tenant.
    fn nothing(region: &RegionName) -> Self {
        Self {
            region: region.clone(),
            unanswered: None,
            placed: false,
            edges: 0,
            at_home: false,
            settled: true,
            missing: Vec::new(),
        }
    }

    /// What a region's member, if one is connected, shows of a tenant. `missing`: what any region has not acknowledged.
    pub(super) fn of(region: &RegionName, member: Option<&Member>, tenant: &str, missing: &[Missing]) -> Self {
        let missing = missing.iter().filter(|missing| missing.region == *region);
        let nothing = Self {
            missing: missing.cloned().collect(),
            ..Self::nothing(region)
        };
        let Some(member) = member else {
            return Self {
                unanswered: Some("its member is not connected".to_owned()),
                ..nothing
            };
        };
        let unanswered = match member.health() {
            Health::Unreachable(cause) => Some(cause),
            _ if !member.is_known() => Some("it has not been listed yet".to_owned()),
            _ => None,
        };
        let stack = source::stack(member.cache(), region).unwrap_or(Value::Null);
        let policy = &stack["spec"]["policy"];
        let unanswered = unanswered.or_else(|| {
            let closed = policy_form::is_closed(policy);
            closed.then(|| "the policy that it holds cannot be opened".to_owned())
        });
        let key = ObjectKey::namespaced(TENANT_PLACEMENT, &format!("meridian-{region}"), tenant);
        let placement = member.cache().get(&key).map(|object| observed(&object));
        let ours = |edge: &&Value| edge["tenant"] == tenant || edge["importer_tenant"] == tenant;
        let listed = ["exports", "imports"].map(|way| list(&policy[way]).filter(ours).count());
        let leaving = placement.iter().flat_map(|placement| list(&placement["spec"]["edges"]));
        Self {
            unanswered,
            placed: placement.is_some(),
            edges: listed.iter().sum::<usize>().max(leaving.count()),
            at_home: list(&policy["homes"]).any(|home| home["tenant"] == tenant),
            settled: source::settled(&stack),
            ..nothing
        }
    }

    fn is_clear(&self) -> bool {
        !self.placed && self.edges == 0 && !self.at_home && self.missing.is_empty()
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// How far a deleted tenant has come, by what the regions show. `named` are those that its residency names, its home
/// included; another counts only when something of the tenant is there. `left`: its edges were closed at an earlier look.
#[must_use]
pub fn of_tenant(left: bool, home: &str, named: &BTreeSet<String>, views: &[View]) -> Departure {
    let concerned = || {
        views
            .iter()
            .filter(|view| named.contains(view.region.as_str()) || !view.is_clear())
    };
    let open: Vec<&View> = concerned()
        .filter(|view| {
            let away = view.placed && view.region.as_str() != home;
            view.edges > 0 || away || !view.settled || !view.missing.is_empty() || view.unanswered.is_some()
        })
        .collect();
    if !left && !open.is_empty() {
        return Departure::Closing(waiting("EdgesOpen", "its edges are being closed in", &open));
    }
    let rest: Vec<&View> = concerned()
        .filter(|view| {
            let at_home = view.region.as_str() == home;
            !view.is_clear() || view.unanswered.is_some() || at_home && !view.settled
        })
        .collect();
    if left && rest.is_empty() {
        return Departure::Done;
    }
    Departure::Leaving(waiting(
        "AtHome",
        "its edges are closed; it is being removed from",
        &rest,
    ))
}

fn waiting(reason: &'static str, what: &str, views: &[&View]) -> Waiting {
    let unanswered = views
        .iter()
        .find_map(|view| Some((&view.region, view.unanswered.as_ref()?)));
    if let Some((region, cause)) = unanswered {
        return Waiting {
            reason: "MemberUnreachable",
            message: format!(
                "the member of region {region} cannot be asked what it still holds of the tenant: {cause}; bring it back, \
                 or, if it is gone for good, take the finalizer {FINALIZER} off by hand"
            ),
        };
    }
    let regions: Vec<&str> = views.iter().map(|view| view.region.as_str()).collect();
    let missing: Vec<Missing> = views.iter().flat_map(|view| view.missing.clone()).collect();
    let missing = closing::sentence(&missing).map_or(String::new(), |missing| format!("; {missing}"));
    Waiting {
        reason,
        message: format!("{what} {}{missing}", regions.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(region: &str) -> View {
        View::nothing(&region.parse().unwrap())
    }

    fn named() -> BTreeSet<String> {
        ["eu", "us"].map(str::to_owned).into()
    }

    fn closing(views: &[View]) -> bool {
        matches!(of_tenant(false, "eu", &named(), views), Departure::Closing(_))
    }

    #[test]
    fn edges_are_open_until_no_region_names_or_applies_them() {
        let home = View {
            placed: true,
            at_home: true,
            ..view("eu")
        };
        let open = [
            View { edges: 1, ..view("us") },
            View {
                placed: true,
                ..view("us")
            },
            View {
                missing: vec![Missing {
                    region: "us".parse().unwrap(),
                    edge: "stride-eu.workout-summary.us".parse().unwrap(),
                }],
                ..view("us")
            },
            View {
                settled: false,
                ..view("us")
            },
            View {
                unanswered: Some("gone".to_owned()),
                ..view("us")
            },
        ];
        for importer in open {
            assert!(closing(&[home.clone(), importer.clone()]), "{importer:?}");
        }
        assert!(!closing(&[home, view("us")]));
    }

    #[test]
    fn a_region_that_has_nothing_to_do_with_the_tenant_holds_it_up_in_no_way() {
        let stranger = View {
            unanswered: Some("gone".to_owned()),
            settled: false,
            ..view("uk")
        };
        assert!(!closing(std::slice::from_ref(&stranger)));
        assert_eq!(of_tenant(true, "eu", &named(), &[stranger]), Departure::Done);
    }

    #[test]
    fn a_tenant_leaves_its_home_before_it_is_gone() {
        let views = [view("eu"), view("us")];
        assert!(matches!(
            of_tenant(false, "eu", &named(), &views),
            Departure::Leaving(_)
        ));
        assert_eq!(of_tenant(true, "eu", &named(), &views), Departure::Done);
        let placed = View {
            placed: true,
            ..view("eu")
        };
        assert!(matches!(
            of_tenant(true, "eu", &named(), &[placed]),
            Departure::Leaving(_)
        ));
    }

    #[test]
    fn what_was_written_elsewhere_since_holds_up_no_tenant_that_has_left() {
        let us = View {
            settled: false,
            ..view("us")
        };
        assert_eq!(of_tenant(true, "eu", &named(), &[view("eu"), us]), Departure::Done);
    }

    #[test]
    fn a_member_that_does_not_answer_is_named_with_what_to_do() {
        let us = View {
            unanswered: Some("no answer within 3 s".to_owned()),
            ..view("us")
        };
        let Departure::Closing(waiting) = of_tenant(false, "eu", &named(), &[us]) else {
            panic!("it is held");
        };
        assert_eq!(waiting.reason, "MemberUnreachable");
        assert!(waiting.message.contains("region us") && waiting.message.contains(FINALIZER));
    }
}
