use meridian_policy::{Catalogue, CompiledEdge, CompiledPolicy, EdgeId, compile};

use super::*;
use crate::hub::approval::held::Sought;
use crate::hub::source::{Seen, gather};
use crate::manifest::{FITNESS_REGION, JURISDICTION, REGION_STACK};
use crate::plugin::world::{World, edit, now};
use crate::policy_form;

const EDGE: &str = "stride-eu.workout-summary.us";

/// The demo as it is written, and what its members hold.
struct Bed {
    world: World,
    written: PolicySource,
}

impl Bed {
    fn settled() -> Self {
        let world = World::settled();
        let written = gather(&world.hub, |cluster| seen(&world, cluster)).unwrap();
        Self { world, written }
    }

    fn held(&self) -> Held {
        Held::of(&self.world.hub, |cluster| seen(&self.world, cluster), &Sought::All)
    }

    fn decide(&self, held: &Held, candidates: Vec<Candidate>, approvals: &[Approval]) -> (PolicySource, Vec<Decision>) {
        let fields = Catalogue::embedded().transferable();
        Question {
            written: &self.written,
            candidates,
            held,
            approvals,
            fields: &fields,
            now: now(),
        }
        .decide()
    }

    /// Every resource, of none of which anything is recorded.
    fn unrecorded(&self) -> Vec<Candidate> {
        let keys = part::KINDS.iter().flat_map(|kind| self.world.hub.keys_of(*kind));
        keys.map(|key| candidate(key, None)).collect()
    }

    fn recorded(&self, key: &ObjectKey) -> Candidate {
        let record = Record {
            part: Part::of(&self.written, key).unwrap(),
            generation: 1,
            approved_by: vec!["cy".to_owned()],
        };
        candidate(key.clone(), Some(record))
    }

    /// The edge asks for one day more.
    fn prolong(&mut self) {
        let day = jiff::SignedDuration::from_hours(24);
        let ask = self.asked();
        ask.expires += day;
        ask.tia.as_mut().unwrap().review_by += day;
    }

    fn asked(&mut self) -> &mut meridian_policy::ReplicateTo {
        let tenant = self.written.tenants.get_mut("stride-eu").unwrap();
        &mut tenant.spec.classes[0].replicate_to[0]
    }
}

fn seen(world: &World, cluster: &str) -> Seen {
    Seen {
        held: Some(world.held(cluster).clone()),
        awaited: false,
    }
}

fn candidate(key: ObjectKey, record: Option<Record>) -> Candidate {
    Candidate {
        uid: format!("uid-of-{}", key.name),
        key,
        generation: 2,
        deleting: false,
        stamps: "ada@1,ben@2".to_owned(),
        record,
    }
}

fn tenant(name: &str) -> ObjectKey {
    ObjectKey::cluster(TENANT_DATA_RESIDENCY, name)
}

fn waiting<'a>(decisions: &'a [Decision], name: &str) -> &'a WaitingChange {
    let decision = decisions.iter().find(|decision| decision.key.name == name).unwrap();
    decision.waiting.as_ref().unwrap()
}

fn compiled(source: &PolicySource) -> CompiledPolicy {
    compile(source, now())
}

fn edge_of(policy: &CompiledPolicy) -> Option<&CompiledEdge> {
    policy.edge(&EDGE.parse::<EdgeId>().unwrap())
}

#[test]
fn a_hub_that_knows_nothing_takes_what_its_members_hold_for_approved() {
    let bed = Bed::settled();
    let (in_force, decisions) = bed.decide(&bed.held(), bed.unrecorded(), &[]);
    assert_eq!(in_force, bed.written);
    assert!(edge_of(&compiled(&in_force)).is_some());
    for decision in &decisions {
        assert_eq!(decision.waiting, None, "{}", decision.key);
        let record = decision.record.as_ref().map(|record| record.part.clone());
        assert_eq!(record, Part::of(&bed.written, &decision.key));
    }
    assert_eq!(decisions.len(), bed.unrecorded().len());
}

#[test]
fn what_members_hold_less_of_than_is_written_waits_and_stays_as_they_hold_it() {
    let mut bed = Bed::settled();
    bed.prolong();
    let held = bed.held();
    let (in_force, decisions) = bed.decide(&held, bed.unrecorded(), &[]);
    assert!(
        waiting(&decisions, "stride-eu").opens[0].contains("expires"),
        "{decisions:?}"
    );
    let kept = compiled(&in_force);
    assert_eq!(edge_of(&kept), held.policy.edges.get(&EDGE.parse::<EdgeId>().unwrap()));
}

#[test]
fn what_an_importer_still_has_of_an_edge_that_its_exporter_has_cut_opens_nothing() {
    let bed = Bed::settled();
    edit(bed.world.held("eu"), REGION_STACK, "eu", |stack| {
        policy_form::open(&mut stack["spec"]["policy"]).unwrap();
        stack["spec"]["policy"]["exports"] = serde_json::json!([]);
    });
    let (in_force, decisions) = bed.decide(&bed.held(), bed.unrecorded(), &[]);
    assert!(
        waiting(&decisions, "stride-eu").opens[0].starts_with(&format!("edge {EDGE} opens")),
        "{decisions:?}"
    );
    assert!(edge_of(&compiled(&in_force)).is_none());
}

#[test]
fn what_is_held_of_an_edge_and_not_understood_is_not_taken_for_approved() {
    let bed = Bed::settled();
    for (region, side) in [("eu", "exports"), ("us", "imports")] {
        edit(bed.world.held(region), REGION_STACK, region, |stack| {
            policy_form::open(&mut stack["spec"]["policy"]).unwrap();
            stack["spec"]["policy"][side][0]["adults_only"] = serde_json::json!(true);
        });
    }
    let (in_force, decisions) = bed.decide(&bed.held(), bed.unrecorded(), &[]);
    waiting(&decisions, "stride-eu");
    assert!(edge_of(&compiled(&in_force)).is_none());
}

#[test]
fn a_tenant_that_nobody_holds_waits_to_move_in_and_one_whose_home_cannot_be_asked_is_not_decided() {
    let mut bed = Bed::settled();
    for cluster in ["eu", "us"] {
        bed.world.empty_member(cluster);
    }
    let (in_force, decisions) = bed.decide(&bed.held(), bed.unrecorded(), &[]);
    assert!(in_force.tenants.is_empty());
    assert_eq!(
        waiting(&decisions, "stride-eu").opens,
        ["tenant stride-eu of stride moves in at eu"]
    );

    let (in_force, decisions) = bed.decide(&Held::default(), bed.unrecorded(), &[]);
    assert!(in_force.tenants.is_empty());
    assert!(
        decisions
            .iter()
            .all(|decision| decision.key.kind != TENANT_DATA_RESIDENCY)
    );
}

#[test]
fn two_changes_that_widen_nothing_alone_and_something_together_do_not_both_pass() {
    let bed = Bed::settled();
    let law = ObjectKey::cluster(JURISDICTION, "eu");
    let (mut of_law, mut of_tenant) = (bed.recorded(&law), bed.recorded(&tenant("stride-eu")));
    let Some(Record {
        part: Part::Jurisdiction(recorded),
        ..
    }) = &mut of_law.record
    else {
        unreachable!()
    };
    recorded.mechanisms.clear();
    let Some(Record {
        part: Part::Tenant(recorded),
        ..
    }) = &mut of_tenant.record
    else {
        unreachable!()
    };
    recorded.classes.clear();
    let (in_force, decisions) = bed.decide(&bed.held(), vec![of_law, of_tenant], &[]);
    assert_eq!(
        in_force.jurisdictions, bed.written.jurisdictions,
        "alone it opens nothing"
    );
    assert!(
        waiting(&decisions, "stride-eu").opens[0].starts_with(&format!("edge {EDGE} opens")),
        "{decisions:?}"
    );
    assert!(edge_of(&compiled(&in_force)).is_none());
}

#[test]
fn what_a_change_narrows_is_obeyed_while_what_it_widens_waits() {
    let mut bed = Bed::settled();
    let of_tenant = bed.recorded(&tenant("stride-eu"));
    let before = edge_of(&compiled(&bed.written)).unwrap().clone();
    bed.asked().fields = vec!["sport_type".to_owned()];
    bed.prolong();
    let (in_force, decisions) = bed.decide(&bed.held(), vec![of_tenant], &[]);
    assert_eq!(waiting(&decisions, "stride-eu").opens_count, 1);
    let carried_out = compiled(&in_force).within(&compiled(&bed.written));
    let edge = edge_of(&carried_out).unwrap();
    assert_eq!((edge.fields.len(), edge.expires), (1, before.expires));
}

#[test]
fn another_importer_waits_and_the_one_before_goes_on() {
    let mut bed = Bed::settled();
    let region = ObjectKey::cluster(FITNESS_REGION, "us");
    let of_region = bed.recorded(&region);
    let before = bed.written.regions["us"].operated_by.clone();
    let other = bed.written.parties[before.as_str()].clone();
    bed.written.parties.insert("another".parse().unwrap(), other);
    bed.written.regions.get_mut("us").unwrap().operated_by = "another".parse().unwrap();
    let (in_force, decisions) = bed.decide(&bed.held(), vec![of_region], &[]);
    assert!(
        waiting(&decisions, "us").opens[0].contains("importer from"),
        "{decisions:?}"
    );
    let carried_out = compiled(&in_force).within(&compiled(&bed.written));
    assert_eq!(edge_of(&carried_out).map(|edge| &edge.importer), Some(&before));
}

#[test]
fn a_region_that_waits_goes_on_waiting_while_no_edge_leads_there() {
    let mut bed = Bed::settled();
    let candidates = [(JURISDICTION, "eu"), (FITNESS_REGION, "us")].map(|(kind, name)| ObjectKey::cluster(kind, name));
    let candidates = candidates.iter().map(|key| bed.recorded(key)).collect();
    let law = bed.written.jurisdictions.get_mut("eu").unwrap();
    law.mechanisms.clear();
    bed.written.regions.get_mut("us").unwrap().operated_by = "stride-europe".parse().unwrap();
    let (in_force, decisions) = bed.decide(&bed.held(), candidates, &[]);
    assert_eq!(
        waiting(&decisions, "us").opens,
        ["region us passes from stride-inc to stride-europe"]
    );
    assert_eq!(in_force.regions["us"].operated_by.as_str(), "stride-inc");
}

#[test]
fn what_narrows_needs_nobody_and_is_recorded() {
    let mut bed = Bed::settled();
    let of_tenant = bed.recorded(&tenant("stride-eu"));
    bed.asked().fields = vec!["sport_type".to_owned()];
    let (in_force, decisions) = bed.decide(&bed.held(), vec![of_tenant], &[]);
    assert_eq!(in_force, bed.written);
    assert_eq!(
        (&decisions[0].waiting, decisions[0].record.as_ref().unwrap().generation),
        (&None, 2)
    );
}

#[test]
fn a_change_is_in_force_once_another_person_has_approved_exactly_it() {
    let mut bed = Bed::settled();
    let of_tenant = bed.recorded(&tenant("stride-eu"));
    bed.prolong();
    let ask = |bed: &Bed, approvals: &[Approval]| bed.decide(&bed.held(), vec![of_tenant.clone()], approvals);
    let (_, decisions) = ask(&bed, &[]);
    let digest = waiting(&decisions, "stride-eu").digest.clone();
    assert_eq!(waiting(&decisions, "stride-eu").written_by, ["ben"]);
    let by = |who: &str, digest: &str| Approval::of(tenant("stride-eu"), digest, who);

    let (in_force, decisions) = ask(&bed, &[by("ben", &digest)]);
    assert_eq!(waiting(&decisions, "stride-eu").approved_by, ["ben"], "who wrote it");
    assert_ne!(in_force, bed.written);
    let (in_force, _) = ask(&bed, &[by("cy", "sha256:of another change")]);
    assert_ne!(in_force, bed.written);
    let other = Approval::of(tenant("stride-us"), &digest, "cy");
    assert_ne!(ask(&bed, &[other]).0, bed.written, "of another resource");

    let (in_force, decisions) = ask(&bed, &[by("cy", &digest)]);
    assert_eq!(in_force, bed.written);
    assert_eq!(decisions[0].record.as_ref().unwrap().approved_by, ["cy"]);

    bed.prolong();
    let (in_force, decisions) = ask(&bed, &[by("cy", &digest)]);
    assert_ne!(in_force, bed.written);
    assert_eq!(waiting(&decisions, "stride-eu").approved_by, Vec::<String>::new());
}

#[test]
fn an_approval_is_used_once_and_not_again_after_what_it_opened_was_taken_back() {
    let mut bed = Bed::settled();
    let before = bed.recorded(&tenant("stride-eu"));
    bed.prolong();
    let (_, decisions) = bed.decide(&bed.held(), vec![before.clone()], &[]);
    let approval = Approval::of(tenant("stride-eu"), &waiting(&decisions, "stride-eu").digest, "cy");
    let mut taken_back = before;
    taken_back.generation = 4;
    taken_back.record.as_mut().unwrap().generation = 3;
    let (in_force, _) = bed.decide(&bed.held(), vec![taken_back], &[approval]);
    assert_ne!(in_force, bed.written);
}

#[test]
fn an_approval_does_not_outlive_the_resource_that_it_was_given_to() {
    let mut bed = Bed::settled();
    let of_tenant = bed.recorded(&tenant("stride-eu"));
    bed.prolong();
    let (_, decisions) = bed.decide(&bed.held(), vec![of_tenant.clone()], &[]);
    let approval = Approval::of(tenant("stride-eu"), &waiting(&decisions, "stride-eu").digest, "cy");
    let made_anew = Candidate {
        uid: "another".to_owned(),
        ..of_tenant
    };
    let (in_force, _) = bed.decide(&bed.held(), vec![made_anew], &[approval]);
    assert_ne!(in_force, bed.written);
}

#[test]
fn what_is_being_deleted_is_neither_approved_nor_taken_out_of_force() {
    let bed = Bed::settled();
    let mut candidates = bed.unrecorded();
    candidates.iter_mut().for_each(|candidate| candidate.deleting = true);
    let (in_force, decisions) = bed.decide(&bed.held(), candidates.clone(), &[]);
    assert!(edge_of(&compiled(&in_force)).is_some());
    assert!(decisions.iter().all(|decision| decision.waiting.is_none()));

    let mut new = Bed::settled();
    for cluster in ["eu", "us"] {
        new.world.empty_member(cluster);
    }
    let (in_force, _) = new.decide(&new.held(), candidates, &[]);
    assert!(
        in_force.tenants.is_empty(),
        "to delete what waits does not put it into force"
    );
}

#[test]
fn a_law_that_is_written_anew_is_held_against_what_members_have() {
    let bed = Bed::settled();
    let law = candidate(ObjectKey::cluster(JURISDICTION, "eu"), None);
    let (in_force, decisions) = bed.decide(&Held::default(), vec![law.clone()], &[]);
    assert!(waiting(&decisions, "eu").opens[0].starts_with(&format!("edge {EDGE} opens")));
    assert!(edge_of(&compiled(&in_force)).is_none());
    let (in_force, _) = bed.decide(&bed.held(), vec![law], &[]);
    assert_eq!(in_force, bed.written);
}
