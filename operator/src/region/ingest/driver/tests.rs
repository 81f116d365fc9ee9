use super::super::validate::example;
use super::*;
use crate::region::stack::validate::example as stack;

fn pool(driver: Driver) -> Pool {
    Pool { driver, ..example() }
}

fn object(kind: Kind, name: &str, labels: &Value, owner: &Value) -> DynamicObject {
    let target = json!({"kind": "Deployment", "name": "ingest-samples"});
    serde_json::from_value(json!({
        "apiVersion": kind.api_version(), "kind": kind.kind,
        "metadata": {"name": name, "namespace": "meridian-eu", "labels": labels, "ownerReferences": owner},
        "spec": {"scaleTargetRef": target},
    }))
    .unwrap()
}

fn ours(kind: Kind) -> DynamicObject {
    let labels = json!({MANAGED_BY_LABEL: MANAGED_BY, POOL_LABEL: "samples"});
    object(kind, "ingest-samples", &labels, &json!([]))
}

/// What KEDA makes of a ScaledObject, whose labels it copies.
fn of_keda() -> DynamicObject {
    let labels = json!({MANAGED_BY_LABEL: MANAGED_BY, POOL_LABEL: "samples"});
    let owner = json!([{"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "ingest-samples",
        "uid": "u", "controller": true}]);
    object(AUTOSCALER, "keda-hpa-ingest-samples", &labels, &owner)
}

fn somebodys() -> DynamicObject {
    object(AUTOSCALER, "by-hand", &json!({}), &json!([]))
}

#[test]
fn the_operator_itself_needs_no_object() {
    assert_eq!(plan(&stack(), &pool(Driver::Direct)), Ok(None));
}

#[test]
fn the_objects_render_as_reviewed() {
    for (name, driver) in [("autoscaler", Driver::Hpa), ("scaled_object", Driver::Keda)] {
        let manifest = plan(&stack(), &pool(driver)).unwrap().unwrap();
        insta::assert_snapshot!(name, serde_yaml::to_string(manifest.body()).unwrap());
    }
}

#[test]
fn an_object_belongs_to_its_pool_and_has_the_name_of_what_it_scales() {
    for driver in [Driver::Hpa, Driver::Keda] {
        let manifest = plan(&stack(), &pool(driver)).unwrap().unwrap();
        assert_eq!(manifest.label(OWNER_UID_LABEL), example().uid);
        assert_eq!(manifest.key().name, manifest.body()["spec"]["scaleTargetRef"]["name"]);
    }
}

#[test]
fn nobody_has_more_writers_than_there_are_partitions() {
    let mut wide = pool(Driver::Hpa);
    wide.limits.max = 50;
    let manifest = plan(&stack(), &wide).unwrap().unwrap();
    assert_eq!(manifest.body()["spec"]["maxReplicas"], 6);
}

#[test]
fn the_pools_own_driver_is_no_rival() {
    assert_eq!(rival(&pool(Driver::Direct), &[], &[]), None);
    assert_eq!(rival(&pool(Driver::Hpa), &[ours(AUTOSCALER)], &[]), None);
    assert_eq!(rival(&pool(Driver::Keda), &[of_keda()], &[ours(SCALED_OBJECT)]), None);
}

#[test]
fn the_former_driver_is_waited_for_until_all_of_it_is_gone() {
    let handing_over = |held: Option<Held>| matches!(held, Some(Held::HandingOver(_)));
    assert!(handing_over(rival(&pool(Driver::Direct), &[ours(AUTOSCALER)], &[])));
    assert!(handing_over(rival(&pool(Driver::Hpa), &[], &[ours(SCALED_OBJECT)])));
    // The ScaledObject is gone, what KEDA has made of it not yet.
    assert!(handing_over(rival(&pool(Driver::Hpa), &[of_keda()], &[])));
    assert!(handing_over(rival(&pool(Driver::Keda), &[ours(AUTOSCALER)], &[])));
}

#[test]
fn somebody_elses_object_is_named_and_before_what_goes_by_itself() {
    let held = rival(&pool(Driver::Direct), &[ours(AUTOSCALER), somebodys()], &[]).unwrap();
    assert_eq!(held, Held::Rival("HorizontalPodAutoscaler by-hand".to_owned()));
    assert!(matches!(
        held.standing(),
        Standing::Failed {
            reason: "ScaledByAnother",
            ..
        }
    ));
}

#[test]
fn what_scales_something_else_is_nobodys_rival() {
    let mut other = somebodys();
    other.data["spec"]["scaleTargetRef"]["name"] = json!("gateway");
    assert_eq!(rival(&pool(Driver::Direct), &[other], &[]), None);
}

#[test]
fn what_keda_made_is_not_taken_for_ours() {
    assert!(is_told_by_us(&ours(AUTOSCALER), "samples"));
    assert!(!is_told_by_us(&of_keda(), "samples"));
    assert!(!is_told_by_us(&ours(AUTOSCALER), "other"));
}

#[test]
fn an_autoscaler_is_left_alone_within_its_tolerance_and_the_operator_is_exact() {
    assert!(follows(Driver::Hpa, 20, 21) && !follows(Driver::Direct, 20, 21));
    assert!(!follows(Driver::Keda, 4, 5));
    assert!(!follows(Driver::Hpa, 1, 0) && follows(Driver::Keda, 0, 0));
}

#[test]
fn a_driver_that_cannot_scale_says_why() {
    let says = |status: &str| json!({"status": {"conditions": [{"type": "ScalingActive", "status": status, "message": "no metrics"}]}});
    let failing = activity(Driver::Hpa, Some(&says("False")));
    assert_eq!((failing.holds(), failing.message.as_str()), (false, "no metrics"));
    assert!(activity(Driver::Hpa, Some(&says("True"))).holds());
    assert_eq!(activity(Driver::Keda, None).status, crate::conditions::Status::Unknown);
}
