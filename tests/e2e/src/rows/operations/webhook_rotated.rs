//! Row 13: the CA behind the webhook's certificate is replaced while resources are applied. Every one is answered by the
//! policy, none by a failed call.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams, PostParams};
use meridian_crds::TenantDataResidency;
use serde::Deserialize as _;
use serde_json::json;

use super::OPERATORS;
use crate::rows::{Outcome, refused_policy};
use crate::world::World;

const SECRET: &str = "meridian-webhook-tls";
/// For each step of the rotation; the shortest that replicas on nodes need.
const STANDS: &str = "20";
const ROTATED: Duration = Duration::from_secs(240);
const BETWEEN_ASKS: Duration = Duration::from_millis(100);

pub async fn prove(world: &World) -> Result<Outcome> {
    let asked = Asked::new(world)?;
    let before = trusted(world).await?;
    ensure!(authorities(&before) == 1, "a rotation is going on already");
    asked.both().await.context("before the rotation")?;

    annotate(
        world,
        json!({ "meridian.sh/rotation-pause": STANDS, "meridian.sh/rotate": "now" }),
    )
    .await?;
    let began = Instant::now();
    let rotated = async {
        let (mut answers, mut most) = (0_u32, 1);
        loop {
            asked
                .both()
                .await
                .with_context(|| format!("after {:.1} s", began.elapsed().as_secs_f32()))?;
            answers += 2;
            let now = trusted(world).await?;
            most = most.max(authorities(&now));
            if now != before && authorities(&now) == 1 {
                return anyhow::Ok((answers, most, began.elapsed()));
            }
            ensure!(began.elapsed() < ROTATED, "not rotated within {} s", ROTATED.as_secs());
            tokio::time::sleep(BETWEEN_ASKS).await;
        }
    };
    let rotated = rotated.await;
    annotate(world, json!({ "meridian.sh/rotation-pause": null })).await?;
    let (answers, most, took) = rotated?;
    ensure!(most == 2, "the old and the new CA were never trusted side by side");
    Ok(Outcome::Proved(format!(
        "another CA after {} s, both trusted in between; {answers} resources applied meanwhile, each accepted or refused by the policy, none by a failed call",
        took.as_secs()
    )))
}

/// Two questions that only the webhook can answer; neither leaves anything behind.
struct Asked {
    tenants: Api<TenantDataResidency>,
    lawful: TenantDataResidency,
    refused: TenantDataResidency,
}

impl Asked {
    fn new(world: &World) -> Result<Self> {
        let tenants = include_str!("../../../../../regions/local/40-tenants.yaml");
        let unlawful = include_str!("../../../../../regions/local/refused/health-to-us.yaml");
        Ok(Self {
            tenants: Api::all(world.hub.client.clone()),
            lawful: tenant(tenants)?,
            refused: tenant(unlawful)?,
        })
    }

    async fn both(&self) -> Result<()> {
        let dry = PostParams {
            dry_run: true,
            field_manager: None,
        };
        self.tenants
            .create(&dry, &self.lawful)
            .await
            .context("a lawful tenant was not accepted")?;
        match self.tenants.create(&dry, &self.refused).await {
            Err(kube::Error::Api(status)) if status.message.contains(refused_policy::RULE) => Ok(()),
            Err(error) => Err(error).context("an unlawful tenant was refused, but not by the policy"),
            Ok(_) => anyhow::bail!("an unlawful tenant was accepted"),
        }
    }
}

/// The tenant with an edge, under a name that nobody has.
fn tenant(documents: &str) -> Result<TenantDataResidency> {
    for document in serde_yaml::Deserializer::from_str(documents) {
        let mut tenant = TenantDataResidency::deserialize(document).context("a tenant of the demo")?;
        if !tenant.spec.residency.classes.is_empty() {
            tenant.metadata.name = Some("stride-eu-asked".to_owned());
            tenant.spec.residency.tenant = "stride-eu-asked".parse().context("a tenant's name")?;
            return Ok(tenant);
        }
    }
    anyhow::bail!("no tenant of the demo has an edge")
}

async fn trusted(world: &World) -> Result<Vec<u8>> {
    let all: Api<ValidatingWebhookConfiguration> = Api::all(world.hub.client.clone());
    let webhooks = all.get("meridian").await?.webhooks.unwrap_or_default();
    let bundle = webhooks
        .into_iter()
        .next()
        .and_then(|webhook| webhook.client_config.ca_bundle);
    bundle.map(|bundle| bundle.0).context("the webhook trusts no CA")
}

fn authorities(bundle: &[u8]) -> usize {
    memchr::memmem::find_iter(bundle, b"BEGIN CERTIFICATE").count()
}

async fn annotate(world: &World, annotations: serde_json::Value) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(world.hub.client.clone(), OPERATORS);
    let patch = Patch::Merge(json!({ "metadata": { "annotations": annotations } }));
    secrets.patch(SECRET, &PatchParams::default(), &patch).await?;
    Ok(())
}
