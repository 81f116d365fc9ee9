//! Each operation of many steps, with the role killed at each of them.

use meridian_operator::manifest::{FITNESS_REGION, TENANT_DATA_RESIDENCY};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

use crate::api::request::{Ask, Verb};
use crate::faults::Crash;
use crate::stack::Member;
use crate::world::{REGIONS, TENANTS, World, region, tenant};
use crate::{play, play_member};

/// Writes; of signs of life there is no end.
fn writes(ask: &Ask) -> bool {
    ask.verb.writes() && requests(ask)
}

/// The same with everything that is read.
fn requests(ask: &Ask) -> bool {
    ask.verb != Verb::Version && !ask.key.resource.ends_with("/leases") && !ask.key.resource.ends_with("/events")
}

/// `MERIDIAN_CRASHES=all` kills before and after each request; CI after each write.
fn thoroughly() -> bool {
    std::env::var_os("MERIDIAN_CRASHES").is_some()
}

fn steps() -> fn(&Ask) -> bool {
    if thoroughly() { requests } else { writes }
}

/// For how long nothing is written in the end.
const RESTS: Duration = Duration::from_secs(10);

/// When to kill; nothing only counts.
type At = Option<(usize, Crash)>;

/// `run` plays the operation and gives how many steps it counted.
fn at_each_step(name: &str, run: impl Fn(At) -> Result<usize, String>) {
    let steps = run(None).unwrap();
    assert!(steps > 2, "{name} has {steps} steps");
    // What is before one write is after the one before it; of what is read, that is not so.
    let crashes: &[Crash] = if thoroughly() {
        &[Crash::Before, Crash::After]
    } else {
        &[Crash::After]
    };
    for (step, crash) in (1..=steps).flat_map(|step| crashes.iter().map(move |crash| (step, *crash))) {
        if let Err(cause) = run(Some((step, crash))) {
            panic!("{name}, killed {crash:?} step {step} of {steps}: {cause}");
        }
    }
    println!("{name}: killed at each of {steps} steps");
}

fn hub(prepare: fn(&World), operation: fn(&World), at: At) -> Result<usize, String> {
    play(1, |world: Arc<World>| async move {
        world.start_hub("hub-0");
        prepare(&world);
        world.settles().await?;
        match at {
            Some((step, crash)) => world.faults.kill_at("hub-0", step, crash, steps()),
            None => world.faults.count("hub-0", steps()),
        }
        operation(&world);
        world.converges(RESTS).await?;
        Ok(world.faults.counted())
    })
}

fn member(prepare: fn(&Member), operation: fn(&Member), at: At) -> Result<usize, String> {
    play_member(1, |member: Arc<Member>| async move {
        member.start();
        prepare(&member);
        member.settles().await?;
        match at {
            Some((step, crash)) => member.faults.kill_at("region-0", step, crash, steps()),
            None => member.faults.count("region-0", steps()),
        }
        operation(&member);
        member.converges(RESTS).await?;
        Ok(member.faults.counted())
    })
}

fn settle(world: &World) {
    world.bring_up();
}

#[test]
fn a_hub_that_is_killed_at_any_step_of_bringing_up_regions_brings_them_up() {
    at_each_step("bringing up regions", |at| hub(|_| {}, settle, at));
}

#[test]
fn a_hub_that_is_killed_at_any_step_of_deleting_a_tenant_deletes_it() {
    let delete = |world: &World| world.delete(TENANTS, "stride-eu");
    at_each_step("deleting a tenant", |at| hub(settle, delete, at));
}

#[test]
fn a_hub_that_is_killed_at_any_step_of_deleting_a_region_deletes_it() {
    let delete = |world: &World| {
        world.delete(TENANTS, "stride-us");
        world.delete(REGIONS, "us");
    };
    at_each_step("deleting a region", |at| hub(settle, delete, at));
}

#[test]
fn a_new_leader_renews_no_lease_before_every_region_of_the_cluster_has_been_told() {
    let played = play(1, |world| async move {
        world.start_hub("hub-0");
        settle(&world);
        world.apply(FITNESS_REGION, region("eu-north"));
        world.apply(TENANT_DATA_RESIDENCY, tenant("stride", "eu-north", true));
        world.converges(RESTS).await?;
        world.faults.refuse(Some(|ask| {
            ask.verb.writes() && ask.key.name == "eu-north" && ask.key.resource.ends_with("stacks")
        }));
        world.kill("hub-0");
        world.apply(TENANT_DATA_RESIDENCY, tenant("stride", "eu-north", false));
        sleep(Duration::from_secs(60)).await;
        world.is_lawful()?;
        world.faults.refuse(None);
        world.converges(RESTS).await
    });
    played.unwrap();
}

#[test]
fn a_hub_that_is_killed_at_any_step_of_rotating_the_webhooks_ca_rotates_it() {
    at_each_step("rotating the webhook's CA", |at| hub(|_| {}, World::rotate, at));
}

#[test]
fn a_region_role_that_is_killed_at_any_step_of_laying_down_a_stack_lays_it_down() {
    at_each_step("laying down a stack", |at| {
        member(|_| {}, |member| member.ask(None), at)
    });
}

#[test]
fn a_region_role_that_is_killed_at_any_step_of_a_rollout_ends_it() {
    let roll_out = |member: &Member| member.ask(Some("meridian:2"));
    at_each_step("a rollout", |at| member(|member| member.ask(None), roll_out, at));
}

#[test]
fn a_hub_that_is_killed_at_any_step_of_opening_incidents_opens_each_once() {
    let find = |world: &World| {
        world.find("us", &["stride-eu", "pace-eu"]);
        world.find("eu", &["stride-us"]);
    };
    at_each_step("opening incidents", |at| hub(settle, find, at));
}
