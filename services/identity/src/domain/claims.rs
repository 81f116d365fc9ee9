//! What a token says: exactly `iss, aud, sub, tenant, epoch, exp` (architecture.md, Gateway). No name, no e-mail, no
//! role, no device: a token is read by every hop and ends up in browsers' storage.

use std::time::Duration;

use jiff::Timestamp;
use meridian_policy::{Epoch, TenantId};
use serde::Serialize;

/// How long a token opens doors. Short, since a token cannot be called back.
pub const LIFETIME: Duration = Duration::from_secs(15 * 60);

/// Whom a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Audience {
    /// An athlete's apps.
    Athlete,
    /// The marketing tools of a tenant.
    Marketing,
}

/// The claims of an access token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Claims {
    iss: String,
    aud: Audience,
    sub: String,
    tenant: TenantId,
    epoch: Epoch,
    exp: i64,
}

impl Claims {
    /// Claims that end [`LIFETIME`] after `now`.
    pub fn new(issuer: &str, aud: Audience, sub: String, tenant: TenantId, epoch: Epoch, now: Timestamp) -> Self {
        let lifetime = i64::try_from(LIFETIME.as_secs()).unwrap_or(i64::MAX);
        Self {
            iss: issuer.to_owned(),
            aud,
            sub,
            tenant,
            epoch,
            exp: now.as_second().saturating_add(lifetime),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_six_things_and_nothing_else() {
        let claims = Claims::new(
            "https://eu.example.org",
            Audience::Athlete,
            "5f0c9f4e-0000-4000-8000-000000000000".into(),
            "stride-eu".parse().unwrap(),
            Epoch(3),
            "2026-11-20T12:00:00Z".parse().unwrap(),
        );
        assert_eq!(
            serde_json::to_value(&claims).unwrap(),
            serde_json::json!({
                "iss": "https://eu.example.org",
                "aud": "athlete",
                "sub": "5f0c9f4e-0000-4000-8000-000000000000",
                "tenant": "stride-eu",
                "epoch": 3,
                "exp": 1_795_176_900,
            })
        );
    }
}
