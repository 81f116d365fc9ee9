//! An athlete with an app: registers, logs in, calls the public API through a gateway.

use anyhow::{Context, Result, bail};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::Site;

/// A registered athlete.
pub struct Athlete {
    /// The address given at registration.
    pub email: String,
    /// The password given at registration.
    pub password: String,
    /// The opaque id.
    pub subject: Uuid,
    /// A valid access token.
    pub token: String,
}

impl Athlete {
    /// Registers somebody new at the site and logs in.
    pub async fn register(site: &Site, first_name: &str) -> Result<Self> {
        let email = format!("{}@example.org", Uuid::new_v4().simple());
        let password = format!("pass-{}", Uuid::new_v4());
        let body = json!({
            "email": email, "password": password, "first_name": first_name, "last_name": "Proof",
            "country": site.country, "birth_year": 1990,
        });
        let request = site
            .http
            .post(format!("{}/api/v1/accounts", site.url))
            .header("Meridian-Tenant", site.tenant)
            .header("Idempotency-Key", Uuid::new_v4().to_string())
            .json(&body);
        let answer = expect(request, StatusCode::CREATED, "registration").await?;
        let subject = answer["subject"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .context("registration names no subject")?;
        let token = login(site, site.tenant, &email, &password).await?;
        Ok(Self {
            email,
            password,
            subject,
            token,
        })
    }

    /// A request with the athlete's token.
    pub fn request(&self, site: &Site, method: Method, path: &str) -> RequestBuilder {
        site.http
            .request(method, format!("{}{path}", site.url))
            .bearer_auth(&self.token)
    }

    /// GET that must succeed.
    pub async fn get(&self, site: &Site, path: &str) -> Result<Value> {
        expect(
            self.request(site, Method::GET, path),
            StatusCode::OK,
            &format!("GET {path}"),
        )
        .await
    }

    /// A JSON request with an idempotency key of its own that must answer `status`.
    pub async fn send(
        &self,
        site: &Site,
        method: Method,
        path: &str,
        body: &Value,
        status: StatusCode,
    ) -> Result<Value> {
        let what = format!("{method} {path}");
        let request = self
            .request(site, method, path)
            .header("Idempotency-Key", Uuid::new_v4().to_string())
            .json(body);
        expect(request, status, &what).await
    }
}

/// Logs in and gives the token.
pub async fn login(site: &Site, tenant: &str, email: &str, password: &str) -> Result<String> {
    let answer = expect(login_request(site, tenant, email, password), StatusCode::OK, "login").await?;
    answer["access_token"]
        .as_str()
        .map(str::to_owned)
        .context("login gives no access_token")
}

/// The login request, unsent.
pub fn login_request(site: &Site, tenant: &str, email: &str, password: &str) -> RequestBuilder {
    site.http
        .post(format!("{}/api/v1/sessions", site.url))
        .header("Meridian-Tenant", tenant)
        .json(&json!({ "email": email, "password": password }))
}

/// Sends and expects a status; the answer's JSON, or null where it has none.
pub async fn expect(request: RequestBuilder, status: StatusCode, what: &str) -> Result<Value> {
    let answer = request.send().await.with_context(|| format!("{what}: no answer"))?;
    json_of(answer, status, what).await
}

async fn json_of(answer: Response, status: StatusCode, what: &str) -> Result<Value> {
    let got = answer.status();
    let text = answer
        .text()
        .await
        .with_context(|| format!("{what}: the answer's body"))?;
    if got != status {
        bail!("{what}: expected {status}, got {got}: {text}");
    }
    Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
}
