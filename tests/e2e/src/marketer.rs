//! The marketing client of a tenant: makes campaigns and launches them.

use anyhow::{Context, Result};
use reqwest::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::athlete::expect;
use crate::world::Site;

/// A campaign that was launched.
pub struct Campaign {
    /// As the platform names it.
    pub id: Uuid,
    /// As athletes see it.
    pub title: String,
}

/// The tenant's marketing client.
pub struct Marketer {
    /// A valid access token.
    pub token: String,
}

impl Marketer {
    /// Signs in with the credentials that the region made for the tenant.
    pub async fn sign_in(site: &Site) -> Result<Self> {
        let name = format!("marketing-{}", site.tenant);
        let text = async |key: &str| {
            String::from_utf8(site.secret(&name, key).await?)
                .with_context(|| format!("{key} of Secret {name} is no text"))
        };
        let body = json!({ "client_id": text("client-id").await?, "client_secret": text("client-secret").await? });
        let request = site
            .http
            .post(format!("{}/api/v1/service-tokens", site.url))
            .json(&body);
        let request = request.header("Meridian-Tenant", site.tenant);
        let answer = expect(request, StatusCode::OK, "the marketing client's token").await?;
        let token = answer["access_token"]
            .as_str()
            .context("no access_token for the marketing client")?;
        Ok(Self {
            token: token.to_owned(),
        })
    }

    /// Makes a campaign for everybody and launches it.
    pub async fn launch(&self, site: &Site) -> Result<Campaign> {
        let title = format!("New shoes {}", Uuid::new_v4().simple());
        let name = format!("proof-{}", Uuid::new_v4().simple());
        let body = json!({ "name": name, "title": title, "body": "Half price.", "segment": { "all": true } });
        let answer = self.post(site, "/api/v1/campaigns", &body, StatusCode::CREATED).await?;
        let id = answer["id"]
            .as_str()
            .and_then(|id| id.parse().ok())
            .context("a campaign has an id")?;
        let campaign = Campaign { id, title };
        self.relaunch(site, &campaign).await?;
        Ok(campaign)
    }

    /// Launches it once more.
    pub async fn relaunch(&self, site: &Site, campaign: &Campaign) -> Result<()> {
        let path = format!("/api/v1/campaigns/{}/launch", campaign.id);
        self.post(site, &path, &json!({}), StatusCode::ACCEPTED).await?;
        Ok(())
    }

    async fn post(&self, site: &Site, path: &str, body: &Value, status: StatusCode) -> Result<Value> {
        let request = site
            .http
            .post(format!("{}{path}", site.url))
            .bearer_auth(&self.token)
            .json(body);
        expect(request, status, &format!("POST {path}")).await
    }
}
