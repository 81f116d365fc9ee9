//! What widens the policy waits for another person, with real API servers and the chart's own admission policies
//! (`cargo xtask parts apiserver member -- cargo test --workspace --test hub_approval`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod bed;
mod rendered;

use bed::hubs::{World, count, documents};
use bed::{kubeconfig, until};
use jiff::{SignedDuration, Timestamp};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use meridian_operator::hub::approval::{AUTHORS_ANNOTATION, NEEDS_APPROVAL, Requirement};
use meridian_operator::manifest::{FITNESS_REGION, JURISDICTION, Kind, PARTY, POLICY_APPROVAL, TENANT_DATA_RESIDENCY};
use meridian_operator::plugin::reach::Reach;
use meridian_operator::plugin::{self, Output, approve};
use serde_json::{Value, json};

const TENANT: Kind = TENANT_DATA_RESIDENCY;
const ADMISSION: [&str; 4] = [
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
];

/// What the chart makes for approvals.
fn of_the_chart() -> Vec<Value> {
    let mut documents = rendered::documents("hub");
    documents.retain(|document| {
        let kind = document["kind"].as_str().unwrap();
        ADMISSION.contains(&kind) || (kind == "ClusterRole" && document["metadata"]["name"] == "meridian-approver")
    });
    assert_eq!(documents.len(), 7);
    documents
}

/// A person: what the API server lets them do is what RBAC says of their name.
async fn person(name: &str) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig("MERIDIAN_TEST_KUBECONFIG")).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    config.auth_info.impersonate = Some(name.to_owned());
    Client::try_from(config).unwrap()
}

/// The demo with a hub that requires approvals. ada and ben write, ben and cy approve.
struct Required {
    world: World,
    ada: Client,
    ben: Client,
    cy: Client,
}

impl Required {
    /// Settled while it was not required, so that nothing has ever been approved.
    async fn settled() -> Self {
        let mut world = World::settled().await;
        let hub = world.hub.client.clone();
        for (person, role) in [
            ("ada", "cluster-admin"),
            ("ben", "cluster-admin"),
            ("cy", "meridian-approver"),
        ] {
            let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                "metadata": {"name": format!("test-{person}")},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": person}]});
            rendered::apply(&hub, &binding).await;
        }
        for object in of_the_chart() {
            rendered::apply(&hub, &object).await;
        }
        world.hub.stop().await;
        world.hub.approval = Requirement::Required;
        world.hub.start().await;
        let required = Self {
            world,
            ada: person("ada").await,
            ben: person("ben").await,
            cy: person("cy").await,
        };
        for (kind, name) in [
            (JURISDICTION, "eu"),
            (PARTY, "stride-inc"),
            (FITNESS_REGION, "us"),
            (TENANT, "stride-us"),
            (TENANT, "stride-eu"),
        ] {
            required.says(kind, name, "True").await;
        }
        required.authors_are_stamped().await;
        required.approvals_count().await;
        required
    }

    /// An admission policy is in force some time after it is made.
    async fn authors_are_stamped(&self) {
        let parties = self.as_person(&self.ada, PARTY);
        until("who writes is stamped", || async {
            let object: DynamicObject = serde_json::from_value(json!({
                "apiVersion": "meridian.sh/v1alpha1", "kind": "Party", "metadata": {"name": "probe"},
                "spec": {"legalName": "Probe", "role": "Processor", "country": "DE"},
            }))
            .unwrap();
            let made = parties.create(&PostParams::default(), &object).await.unwrap();
            parties.delete("probe", &DeleteParams::default()).await.unwrap();
            made.annotations().get(AUTHORS_ANNOTATION).map(String::as_str) == Some("ada@1")
        })
        .await;
    }

    /// What is approved sooner after the policy was made does not count.
    async fn approvals_count(&self) {
        let guards = of_the_chart().into_iter();
        for guard in guards.filter(|object| object["metadata"]["name"] == "meridian-approvals") {
            let api = rendered::api_of(&self.world.hub.client, &guard);
            let made = api
                .get("meridian-approvals")
                .await
                .unwrap()
                .metadata
                .creation_timestamp
                .unwrap()
                .0;
            until("the policy is in force for long enough", || async {
                Timestamp::now() > made + SignedDuration::from_secs(7)
            })
            .await;
        }
    }

    fn as_person(&self, client: &Client, kind: Kind) -> Api<DynamicObject> {
        Api::all_with(client.clone(), &kind.resource())
    }

    async fn condition(&self, kind: Kind, name: &str) -> Value {
        let object = self.world.hub.get(kind, name).await.unwrap_or_default();
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition["type"] == "Approved");
        found.unwrap_or_default()
    }

    /// Until Approved says so of the generation that is there now; gives the whole condition.
    async fn says(&self, kind: Kind, name: &str, status: &str) -> Value {
        until(&format!("Approved of {name} is {status}"), || async {
            self.condition(kind, name).await["status"] == status
        })
        .await;
        self.condition(kind, name).await
    }

    /// The change that waits, once it is of the generation that is there.
    async fn waiting(&self, kind: Kind, name: &str) -> Value {
        let look = || async {
            let object = self.world.hub.get(kind, name).await.unwrap();
            let waiting = object["status"]["approval"]["waiting"].clone();
            (waiting["generation"] == object["metadata"]["generation"]).then_some(waiting)
        };
        until(&format!("a change of {name} waits"), || async {
            look().await.is_some()
        })
        .await;
        look().await.unwrap()
    }

    async fn digest(&self, kind: Kind, name: &str) -> String {
        self.waiting(kind, name).await["digest"].as_str().unwrap().to_owned()
    }

    async fn write(&self, client: &Client, kind: Kind, name: &str, spec: Value) {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.as_person(client, kind)
            .patch(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    async fn approve_as(&self, client: &Client, who: &str, name: &str, digest: &str) -> Result<(), kube::Error> {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "meridian.sh/v1alpha1", "kind": "PolicyApproval", "metadata": {"generateName": "test-"},
            "spec": {"kind": TENANT.kind, "name": name, "digest": digest, "approver": who,
                "expires": Timestamp::now() + SignedDuration::from_hours(1)},
        }))
        .unwrap();
        let approvals = self.as_person(client, POLICY_APPROVAL);
        approvals.create(&PostParams::default(), &object).await.map(drop)
    }

    /// The first edge that us imports.
    async fn import(&self) -> Value {
        self.world.stack("us").await["spec"]["policy"]["imports"][0].clone()
    }

    async fn imports(&self, what: &str, look: impl Fn(&Value) -> bool) {
        until(what, || async { look(&self.import().await) }).await;
    }

    async fn end(self) {
        let hub = self.world.hub.client.clone();
        for object in of_the_chart() {
            let name = object["metadata"]["name"].as_str().unwrap();
            rendered::api_of(&hub, &object)
                .delete(name, &DeleteParams::default())
                .await
                .unwrap();
        }
        self.world.end().await;
    }
}

/// The classes of stride-eu as the demo has them, with these fields, for one more year than before.
fn classes(fields: &[&str], year: u32) -> Value {
    let mut tenants = documents("local/40-tenants.yaml").into_iter();
    let tenant = tenants
        .find(|tenant| tenant["metadata"]["name"] == "stride-eu")
        .unwrap();
    let mut classes = tenant["spec"]["classes"].clone();
    let ask = &mut classes[0]["replicateTo"][0];
    ask["fields"] = json!(fields);
    ask["expires"] = json!(format!("{year}-01-01T00:00:00Z"));
    ask["tia"]["reviewBy"] = ask["expires"].clone();
    json!({ "classes": classes })
}

const ALL: &[&str] = &["sport_type", "distance_meters", "duration_sec", "start_day"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_widens_waits_for_another_person_and_what_narrows_does_not() {
    let required = Required::settled().await;
    let ends = required.import().await["expires"].clone();

    // Longer, and fewer fields.
    required
        .write(&required.ada, TENANT, "stride-eu", classes(&["sport_type"], 2037))
        .await;
    required
        .imports("the fields are fewer", |edge| count(&edge["fields"]) == 1)
        .await;
    let waiting = required.waiting(TENANT, "stride-eu").await;
    assert_eq!(waiting["writtenBy"], json!(["ada"]));
    assert_eq!(count(&waiting["opens"]), 1);
    let condition = required.says(TENANT, "stride-eu", "False").await;
    let message = condition["message"].as_str().unwrap();
    assert_eq!(condition["reason"], NEEDS_APPROVAL);
    assert!(
        message.contains("expires from") && message.contains("another person than ada"),
        "{message}"
    );
    assert!(!message.contains("fields from"), "{message}");
    // Regions are told first, and the tenant's other conditions a moment later.
    until("the tenant says that it waits", || async {
        let tenant = required.world.hub.get(TENANT, "stride-eu").await.unwrap();
        let said = tenant["status"]["conditions"].to_string();
        said.contains("waits for another person's approval")
    })
    .await;

    // Nobody but another person, for exactly this.
    let digest = required.digest(TENANT, "stride-eu").await;
    let denied = required
        .approve_as(&required.ada, "cy", "stride-eu", &digest)
        .await
        .unwrap_err();
    assert!(
        denied.to_string().contains("everybody approves for themselves"),
        "{denied}"
    );
    let another = format!("sha256:{}", "0".repeat(64));
    required
        .approve_as(&required.cy, "cy", "stride-eu", &another)
        .await
        .unwrap();
    required
        .approve_as(&required.cy, "cy", "stride-us", &digest)
        .await
        .unwrap();
    required
        .approve_as(&required.ada, "ada", "stride-eu", &digest)
        .await
        .unwrap();
    until("the author's own approval is seen", || async {
        required.waiting(TENANT, "stride-eu").await["approvedBy"] == json!(["ada"])
    })
    .await;
    assert_eq!(required.import().await["expires"], ends);

    required
        .approve_as(&required.cy, "cy", "stride-eu", &digest)
        .await
        .unwrap();
    required
        .imports("the edge ends later", |edge| edge["expires"] == "2037-01-01T00:00:00Z")
        .await;
    let condition = required.says(TENANT, "stride-eu", "True").await;
    assert_eq!(condition["message"], "approved by ada, cy");

    // What was approved is approved, and nothing that was written since.
    required
        .write(&required.ada, TENANT, "stride-eu", classes(ALL, 2037))
        .await;
    let more = required.digest(TENANT, "stride-eu").await;
    assert_ne!(more, digest);
    assert_eq!(count(&required.import().await["fields"]), 1);
    // Narrowing alone: nobody is asked.
    required
        .write(&required.ada, TENANT, "stride-eu", classes(&["sport_type"], 2036))
        .await;
    required
        .imports("the edge ends earlier", |edge| {
            edge["expires"] == "2036-01-01T00:00:00Z"
        })
        .await;
    required.says(TENANT, "stride-eu", "True").await;
    // What was approved once and taken back since waits again.
    required
        .write(&required.ada, TENANT, "stride-eu", classes(&["sport_type"], 2037))
        .await;
    assert_ne!(required.digest(TENANT, "stride-eu").await, digest);
    assert_eq!(required.import().await["expires"], "2036-01-01T00:00:00Z");
    required.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wrote_any_part_of_a_change_does_not_approve_it_and_nobody_says_who_another_was() {
    let required = Required::settled().await;
    required
        .write(&required.ada, TENANT, "stride-eu", classes(ALL, 2037))
        .await;
    required.waiting(TENANT, "stride-eu").await;
    required
        .write(&required.ben, TENANT, "stride-eu", classes(ALL, 2038))
        .await;
    assert_eq!(
        required.waiting(TENANT, "stride-eu").await["writtenBy"],
        json!(["ada", "ben"])
    );
    let digest = required.digest(TENANT, "stride-eu").await;
    required
        .approve_as(&required.ada, "ada", "stride-eu", &digest)
        .await
        .unwrap();
    until("ada's approval is seen", || async {
        required.waiting(TENANT, "stride-eu").await["approvedBy"] == json!(["ada"])
    })
    .await;

    let tenants = required.as_person(&required.ben, TENANT);
    let forged = json!({"metadata": {"annotations": {AUTHORS_ANNOTATION: "cy@3"}}});
    let denied = tenants
        .patch("stride-eu", &PatchParams::default(), &Patch::Merge(&forged))
        .await
        .unwrap_err();
    assert!(denied.to_string().contains("who wrote what"), "{denied}");
    // Without stamps nobody knows who wrote it: then two people have to approve, and one of them may have.
    let unsaid = json!({"metadata": {"annotations": {AUTHORS_ANNOTATION: null}}});
    tenants
        .patch("stride-eu", &PatchParams::default(), &Patch::Merge(&unsaid))
        .await
        .unwrap();
    until("it is not known who wrote it", || async {
        required.waiting(TENANT, "stride-eu").await["writtenBy"].is_null()
    })
    .await;
    assert_ne!(required.import().await["expires"], "2038-01-01T00:00:00Z");
    required
        .approve_as(&required.ben, "ben", "stride-eu", &digest)
        .await
        .unwrap();
    required
        .imports("the edge ends later", |edge| edge["expires"] == "2038-01-01T00:00:00Z")
        .await;
    required.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_law_and_a_region_that_widen_wait_and_what_was_approved_goes_on() {
    let required = Required::settled().await;
    let before = required.import().await;
    // Another legal entity imports.
    let other = json!({"apiVersion": "meridian.sh/v1alpha1", "kind": "Party", "metadata": {"name": "stride-other"},
        "spec": {"legalName": "Stride Other Inc.", "role": "Controller", "country": "US"}});
    required.world.hub.apply(PARTY, &other).await;
    required.says(PARTY, "stride-other", "True").await;
    required
        .write(
            &required.ada,
            FITNESS_REGION,
            "us",
            json!({"operatedBy": "stride-other"}),
        )
        .await;
    let waiting = required.waiting(FITNESS_REGION, "us").await;
    assert!(waiting["opens"].to_string().contains("importer from"), "{waiting}");
    // A law that offers nothing any more takes away at once, and offering it again waits.
    let law = required.world.hub.get(JURISDICTION, "eu").await.unwrap()["spec"].clone();
    required
        .write(&required.ada, JURISDICTION, "eu", json!({"mechanisms": []}))
        .await;
    until("the edge is cut", || async { required.import().await.is_null() }).await;
    required.says(JURISDICTION, "eu", "True").await;
    required
        .write(
            &required.ada,
            JURISDICTION,
            "eu",
            json!({"mechanisms": law["mechanisms"]}),
        )
        .await;
    let waiting = required.waiting(JURISDICTION, "eu").await;
    assert!(waiting["opens"].to_string().contains("opens"), "{waiting}");
    assert!(required.import().await.is_null());

    let kubeconfig = format!("{}/as-cy", std::env::temp_dir().display());
    let text = std::fs::read_to_string(bed::kubeconfig("MERIDIAN_TEST_KUBECONFIG")).unwrap();
    let mut config: Value = serde_yaml::from_str(&text).unwrap();
    config["users"][0]["user"]["as"] = json!("cy");
    // cy may approve and read what is approved, and nothing else: the plugin lists what it does not need of the rest.
    let kubeconfig = format!("{kubeconfig}-{}", std::process::id());
    std::fs::write(&kubeconfig, serde_yaml::to_string(&config).unwrap()).unwrap();
    let reach = Reach {
        kubeconfig: Some(kubeconfig.clone().into()),
        namespace: bed::hubs::SYSTEM.to_owned(),
        ..Reach::default()
    };
    let asked = |digest: Option<&str>| approve::Asked {
        kind: "jur".to_owned(),
        name: "eu".to_owned(),
        digest: digest.map(ToOwned::to_owned),
    };
    let read = plugin::approve(&reach, &asked(None), Output::Table).await.unwrap();
    assert_eq!(read.code, plugin::CHANGES);
    let digest = required.digest(JURISDICTION, "eu").await;
    assert!(
        read.text.contains(&digest) && read.text.contains("stride-eu.workout-summary.us opens"),
        "{}",
        read.text
    );
    let approved = plugin::approve(&reach, &asked(Some(&digest)), Output::Table)
        .await
        .unwrap();
    std::fs::remove_file(kubeconfig).unwrap();
    assert_eq!((approved.code, approved.text.as_str()), (0, "approved, and in force\n"));
    required.imports("the edge is open again", |edge| !edge.is_null()).await;
    assert_eq!(
        required.import().await["importer"],
        before["importer"],
        "the region's change waits on"
    );
    required.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_tenant_waits_and_deleting_it_meanwhile_places_it_nowhere() {
    let required = Required::settled().await;
    let tenant: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "meridian.sh/v1alpha1", "kind": TENANT.kind, "metadata": {"name": "other-us"},
        "spec": {"organization": "other", "tenant": "other-us", "home": {"region": "us"}},
    }))
    .unwrap();
    let tenants = required.as_person(&required.ada, TENANT);
    tenants.create(&PostParams::default(), &tenant).await.unwrap();
    let waiting = required.waiting(TENANT, "other-us").await;
    assert_eq!(waiting["opens"], json!(["tenant other-us of other moves in at us"]));
    until("its phase says so", || async {
        required.world.hub.get(TENANT, "other-us").await.unwrap()["status"]["phase"] == "Pending"
    })
    .await;
    // What comes after it is written all the same.
    required
        .write(
            &required.ada,
            FITNESS_REGION,
            "us",
            json!({"countriesServed": ["US", "MX"]}),
        )
        .await;
    until("the region serves another country", || async {
        count(&required.world.stack("us").await["spec"]["countriesServed"]) == 2
    })
    .await;
    assert!(required.world.placement("us", "other-us").await.is_none());
    tenants.delete("other-us", &DeleteParams::default()).await.unwrap();
    until("it is gone", || async {
        required.world.hub.get(TENANT, "other-us").await.is_none()
    })
    .await;
    assert!(required.world.placement("us", "other-us").await.is_none());

    tenants.create(&PostParams::default(), &tenant).await.unwrap();
    let digest = required.digest(TENANT, "other-us").await;
    assert_ne!(digest, waiting["digest"], "it is another one");
    required
        .approve_as(&required.cy, "cy", "other-us", &digest)
        .await
        .unwrap();
    until("it is placed", || async {
        required.world.placement("us", "other-us").await.is_some()
    })
    .await;
    required.end().await;
}

/// What the member holds of both regions.
async fn held(world: &World) -> [Value; 2] {
    [
        world.stack("eu").await["spec"].clone(),
        world.stack("us").await["spec"].clone(),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_rebuilt_takes_what_members_hold_for_approved_and_not_what_is_written() {
    let mut required = Required::settled().await;
    let before = held(&required.world).await;
    required.world.lose_the_hub().await;
    required.world.rebuild_without_tenants().await;
    // The manifests hold a change that nobody ever approved.
    for mut tenant in documents("local/40-tenants.yaml") {
        if tenant["metadata"]["name"] == "stride-eu" {
            tenant["spec"]["classes"] = classes(ALL, 2037)["classes"].clone();
        }
        required.world.hub.apply(TENANT, &tenant).await;
    }
    let renewed = required.world.renewed().await;
    let waiting = required.waiting(TENANT, "stride-eu").await;
    assert!(waiting["opens"].to_string().contains("expires from"), "{waiting}");
    until("the lease is renewed", || async {
        required.world.renewed().await != renewed
    })
    .await;
    assert_eq!(
        held(&required.world).await,
        before,
        "nothing is opened, and nothing closed"
    );
    required.says(TENANT, "stride-us", "True").await;
    required.says(JURISDICTION, "eu", "True").await;

    // Not required any more, it is in force, and nothing is recorded.
    required.world.hub.stop().await;
    required.world.hub.approval = Requirement::NotRequired;
    required.world.hub.start().await;
    required
        .imports("the edge ends later", |edge| edge["expires"] == "2037-01-01T00:00:00Z")
        .await;
    until("nothing is recorded", || async {
        let status = required.world.hub.get(TENANT, "stride-eu").await.unwrap()["status"].clone();
        status["approval"].is_null() && required.condition(TENANT, "stride-eu").await.is_null()
    })
    .await;
    required.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_approved_while_nobody_checks_by_whom_never_counts() {
    let required = Required::settled().await;
    let hub = required.world.hub.client.clone();
    let guards: Vec<Value> = of_the_chart()
        .into_iter()
        .filter(|object| object["metadata"]["name"] == "meridian-approvals")
        .collect();
    for guard in &guards {
        rendered::api_of(&hub, guard)
            .delete("meridian-approvals", &DeleteParams::default())
            .await
            .unwrap();
    }
    required
        .write(&required.ada, TENANT, "stride-eu", classes(ALL, 2037))
        .await;
    let digest = required.digest(TENANT, "stride-eu").await;
    until("another name is not refused any more", || async {
        required
            .approve_as(&required.ada, "mallory", "stride-eu", &digest)
            .await
            .is_ok()
    })
    .await;
    for guard in &guards {
        rendered::apply(&hub, guard).await;
    }
    until("an approval counts again", || async {
        required
            .approve_as(&required.ada, "ada", "stride-eu", &digest)
            .await
            .unwrap();
        required.waiting(TENANT, "stride-eu").await["approvedBy"] == json!(["ada"])
    })
    .await;
    assert_ne!(required.import().await["expires"], "2037-01-01T00:00:00Z");
    required
        .approve_as(&required.cy, "cy", "stride-eu", &digest)
        .await
        .unwrap();
    required
        .imports("the edge ends later", |edge| edge["expires"] == "2037-01-01T00:00:00Z")
        .await;
    required.end().await;
}
