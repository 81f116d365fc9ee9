//! A region's CA is rotated over hub and peers, on real API servers: asked for on the hub, by region operators that die at
//! every step (`cargo xtask parts apiserver member -- cargo test -p meridian-operator`).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod bed;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bed::hubs::World;
use bed::{Bed, until};
use meridian_operator::manifest::{DEPLOYMENT, FITNESS_REGION, Kind, SECRET, STATEFUL_SET};
use meridian_operator::reconcile::Outcome;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_secs(1);

/// A region's operator that knows nothing but what it reads.
async fn operator(world: &World, region: &str) -> Bed {
    let bed = Bed::beside(world.member.clone(), region.to_owned()).await;
    bed.stacks.token_keys.recall(&json!({"keys": []}));
    bed
}

/// What a Secret of the region holds.
async fn held(bed: &Bed, secret: &str, key: &str) -> Option<String> {
    let secret = bed.get(SECRET, secret).await?;
    let text = secret.data["data"][key].as_str()?;
    Some(String::from_utf8(STANDARD.decode(text).unwrap()).unwrap())
}

/// Passes until a look says yes. A pass may fail: what it saw was no longer so.
async fn goes_on<F: Future<Output = bool>>(bed: &Bed, what: &str, mut look: impl FnMut() -> F) {
    until(what, || {
        let looked = look();
        async {
            let _ = bed.pass().await;
            bed.all_pods_are_fine().await;
            looked.await
        }
    })
    .await;
}

async fn template(bed: &Bed, kind: Kind, name: &str) -> Value {
    bed.get(kind, name).await.unwrap().data["spec"]["template"].clone()
}

async fn rotating(bed: &Bed) -> Value {
    let status = bed.status().await;
    let mut conditions = status["conditions"].as_array().unwrap().iter();
    let found = conditions.find(|condition| condition["type"] == "AuthorityRotating");
    found.cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_regions_ca_is_rotated_when_every_peer_has_been_told_and_never_before() {
    let world = World::settled().await;
    world.hand_over_the_regions().await;
    let (eu, us) = (operator(&world, "eu").await, operator(&world, "us").await);
    tokio::join!(eu.settle(), us.settle());
    let old = held(&eu, "region-ca", "tls.crt").await.unwrap();
    let certificate = held(&eu, "tls-identity", "tls.crt").await.unwrap();
    let runs = (
        template(&eu, DEPLOYMENT, "identity").await,
        template(&eu, STATEFUL_SET, "postgres").await,
    );
    let told_of_eu = || async { world.stack("us").await["spec"]["policy"]["peers"][0]["ca_pem"].clone() };
    until("us is told of eu", || async { told_of_eu().await == old.as_str() }).await;

    // Staged: trusted beside the old one, and nothing is issued by it while us has not been told.
    let asked = json!({"meridian.sh/rotate": "1", "meridian.sh/rotation-pause": PAUSE.as_secs().to_string()});
    let asked = json!({"metadata": {"annotations": asked}});
    world.hub.patch(FITNESS_REGION, "eu", &asked).await;
    goes_on(&eu, "a new CA is there", || async {
        held(&eu, "region-ca", "next.crt").await.is_some()
    })
    .await;
    let new = held(&eu, "region-ca", "next.crt").await.unwrap();
    let both = format!("{old}{new}");
    let eu = operator(&world, "eu").await;
    goes_on(&eu, "it is said", || async {
        eu.status().await["caBundle"] == both.as_str()
    })
    .await;
    assert_eq!(held(&eu, "tls-identity", "ca.crt").await.as_ref(), Some(&both));
    until("us is to be told", || async { told_of_eu().await == both.as_str() }).await;
    let staged = Instant::now();
    goes_on(&eu, "the pause is over", || async { staged.elapsed() > PAUSE * 3 }).await;
    assert!(
        held(&eu, "region-ca", "next.crt").await.is_some(),
        "us has not been told"
    );
    let condition = rotating(&eu).await;
    assert_eq!(condition["reason"], "PeersNotTold", "{condition}");
    assert!(condition["message"].as_str().unwrap().contains("us"), "{condition}");
    until("the hub says so too", || async {
        let region = world.hub.get(FITNESS_REGION, "eu").await.unwrap();
        region["status"]["conditions"]
            .to_string()
            .contains("before us trust it")
    })
    .await;
    assert_eq!(held(&eu, "tls-identity", "tls.crt").await.as_ref(), Some(&certificate));

    // Promoted, once us applies what it was told.
    let eu = operator(&world, "eu").await;
    goes_on(&us, "us says so", || async {
        !world.stack("eu").await["spec"]["trustedBy"]["us"].is_null()
    })
    .await;
    goes_on(&eu, "the new CA issues", || async {
        held(&eu, "region-ca", "tls.crt").await.as_ref() == Some(&new)
    })
    .await;
    assert_eq!(held(&eu, "region-ca", "ca.crt").await.as_ref(), Some(&both));
    let eu = operator(&world, "eu").await;
    goes_on(&eu, "certificates are replaced", || async {
        held(&eu, "tls-identity", "tls.crt").await.as_ref() != Some(&certificate)
    })
    .await;
    assert_eq!(
        held(&eu, "tls-identity", "ca.crt").await.as_ref(),
        Some(&both),
        "both are trusted"
    );

    // Retired.
    let eu = operator(&world, "eu").await;
    goes_on(&eu, "the old CA is retired", || async {
        held(&eu, "region-ca", "ca.crt").await.is_none()
    })
    .await;
    let eu = operator(&world, "eu").await;
    goes_on(&eu, "it is said", || async {
        eu.status().await["caBundle"] == new.as_str()
    })
    .await;
    assert_eq!(held(&eu, "tls-identity", "ca.crt").await.as_ref(), Some(&new));
    until("us is told of the new one alone", || async {
        told_of_eu().await == new.as_str()
    })
    .await;
    goes_on(&us, "us applies it", || async {
        world.stack("us").await["status"]["appliedRevision"] == world.stack("us").await["spec"]["revision"]
    })
    .await;
    until("nothing is kept of it", || async {
        world.stack("eu").await["spec"]["trustedBy"].is_null()
    })
    .await;

    // No service was started anew for it; PostgreSQL was, which reads its certificate only then.
    eu.settle().await;
    assert_eq!(template(&eu, DEPLOYMENT, "identity").await, runs.0);
    assert_ne!(template(&eu, STATEFUL_SET, "postgres").await, runs.1);
    let writes = eu.metrics.writes();
    assert_eq!(
        eu.pass().await.unwrap().outcome,
        Outcome::Steady,
        "what was asked for is done"
    );
    assert_eq!(eu.metrics.writes(), writes);
    assert!(rotating(&eu).await.is_null());
    world.end().await;
}
