//! What people and circumstances do, by seed.

use meridian_operator::manifest::{FITNESS_REGION, TENANT_DATA_RESIDENCY};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

use crate::api::request::Ask;
use crate::laws::cluster;
use crate::world::{REGIONS, TENANTS, World, region, tenant};

const ALL_REGIONS: [&str; 3] = ["eu", "us", "eu-north"];
const ORGANIZATIONS: [&str; 2] = ["stride", "pace"];
const REPLICAS: [&str; 2] = ["hub-0", "hub-1"];

/// A few changes, faults and accidents, one after the other.
pub async fn wander(world: &Arc<World>) -> Result<(), String> {
    let draw = |most: usize| world.faults.draw(|rng| rng.usize(..most));
    world.start_hub("hub-0");
    if draw(2) == 0 {
        world.start_hub("hub-1");
    }
    world.faults.set(u32::try_from(draw(25)).unwrap_or_default());
    for name in ["eu", "us"] {
        world.apply(FITNESS_REGION, region(name));
    }
    for organization in ORGANIZATIONS {
        world.apply(TENANT_DATA_RESIDENCY, tenant(organization, "us", false));
        world.apply(TENANT_DATA_RESIDENCY, tenant(organization, "eu", true));
    }
    for _ in 0..4 + draw(10) {
        // Often enough what is there is at rest before something happens.
        let pause = [500, 3_000, 20_000, 60_000][draw(4)];
        sleep(Duration::from_millis(world.faults.draw(|rng| rng.u64(..pause)))).await;
        happens(world, draw(17)).await;
        world.is_lawful()?;
    }
    Ok(())
}

async fn happens(world: &Arc<World>, what: usize) {
    let draw = |most: usize| world.faults.draw(|rng| rng.usize(..most));
    let (name, organization, role) = (ALL_REGIONS[draw(3)], ORGANIZATIONS[draw(2)], REPLICAS[draw(2)]);
    match what {
        0..=2 if world.has(REGIONS, "eu") => {
            world.apply(TENANT_DATA_RESIDENCY, tenant(organization, "eu", draw(2) == 0))
        }
        3 => world.delete(TENANTS, &format!("{organization}-{name}")),
        4 => {
            if world.has(REGIONS, name) {
                world.apply(TENANT_DATA_RESIDENCY, tenant(organization, name, false));
            }
        }
        5 => world.apply(FITNESS_REGION, region(name)),
        6 => {
            for organization in ORGANIZATIONS {
                world.delete(TENANTS, &format!("{organization}-{name}"));
            }
            world.delete(REGIONS, name);
        }
        7 | 8 => world.kill(role),
        9 => cut_off(world, cluster(name), draw(60)).await,
        10 => {
            world.take_kubeconfig(cluster(name));
            sleep(Duration::from_secs(draw(30) as u64)).await;
            world.give_kubeconfig(cluster(name), draw(1000) as u64);
        }
        11 => world.give_kubeconfig(cluster(name), draw(1000) as u64),
        12 => {
            world.faults.cut_off(Some(role));
            sleep(Duration::from_secs(draw(30) as u64)).await;
            world.faults.cut_off(None);
        }
        13 => drift(world, name, organization, draw(4)),
        14 if draw(2) == 0 => world.lose_the_hub().await,
        15 => world.rotate(),
        _ => {
            let mut moved = region(name);
            moved["spec"]["gateway"]["publicUrl"] = json!(format!("https://{name}-{}.example:8443", draw(1000)));
            if world.has(REGIONS, name) {
                world.apply(FITNESS_REGION, moved);
            }
        }
    }
}

async fn cut_off(world: &World, member: &str, seconds: usize) {
    world.members[member].reach(false);
    sleep(Duration::from_secs(seconds as u64)).await;
    world.members[member].reach(true);
}

/// Somebody touches what is the hub's.
fn drift(world: &World, name: &str, organization: &str, what: usize) {
    // And etcd forgets.
    world.hub.store().compact(what);
    let member = &world.members[cluster(name)];
    member.store().compact(what);
    let (tenant, space) = (format!("{organization}-{name}"), format!("meridian-{name}"));
    let placements = "meridian.sh/tenantplacements";
    let ask = match what {
        0 => Ask::delete("meridian.sh/regionstacks", "", name),
        1 => Ask::delete(placements, &space, &tenant),
        2 => Ask::merge(
            placements,
            &space,
            &tenant,
            json!({"spec": {"organization": "somebody-elses"}}),
        ),
        _ => Ask::merge(
            "meridian.sh/regionstacks",
            "",
            name,
            json!({"spec": {"publicHost": "elsewhere.example"}}),
        ),
    };
    let _ = member.perform(&world.people, &ask);
}
