//! Tokens of a test's region.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use meridian_policy::{Epoch, TenantId};
use serde::Serialize;

use crate::auth::{Audience, Claims};
use crate::db::Scope;
use crate::ids::SubjectId;

/// An athlete with a token.
#[derive(Clone, Debug)]
pub struct Athlete {
    /// The partition.
    pub tenant: TenantId,
    /// The data subject.
    pub subject: SubjectId,
    /// The epoch in the token.
    pub epoch: Epoch,
    /// For `Authorization: Bearer`.
    pub token: String,
}

impl Athlete {
    /// The scope for looking at the athlete's rows.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::new(self.tenant.clone(), self.epoch)
    }
}

/// Signs tokens as identity does.
pub struct Signer {
    issuer: String,
    kid: String,
    key: EncodingKey,
    public: Vec<u8>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Signer")
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

impl Signer {
    /// A signer with a key of its own.
    ///
    /// # Panics
    /// When no key can be made.
    #[must_use]
    pub fn new(issuer: &str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).expect("a key");
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("the key just made");
        Self {
            issuer: issuer.to_owned(),
            kid: uuid::Uuid::new_v4().to_string(),
            key: EncodingKey::from_ed_der(pkcs8.as_ref()),
            public: pair.public_key().as_ref().to_vec(),
        }
    }

    /// Its `iss`.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Its public keys (RFC 7517).
    #[must_use]
    pub fn jwks(&self) -> serde_json::Value {
        let x = URL_SAFE_NO_PAD.encode(&self.public);
        serde_json::json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.kid, "x": x}]})
    }

    /// Claims as identity makes them, valid for ten minutes.
    ///
    /// # Panics
    /// When the tenant's name is not one.
    #[must_use]
    pub fn claims(&self, tenant: &str, epoch: Epoch, audience: Audience, sub: &str) -> Claims {
        Claims {
            iss: self.issuer.clone(),
            aud: audience,
            sub: sub.to_owned(),
            tenant: tenant.parse().expect("a tenant's name"),
            epoch,
            exp: jsonwebtoken::get_current_timestamp() + 600,
        }
    }

    /// Signs any claims, also wrong ones.
    ///
    /// # Panics
    /// When they are not JSON.
    #[must_use]
    pub fn sign<T: Serialize>(&self, claims: &T) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.key).expect("a token")
    }

    pub(crate) fn athlete(&self, tenant: &str, epoch: Epoch) -> Athlete {
        let subject = SubjectId::random();
        let claims = self.claims(tenant, epoch, Audience::Athlete, &subject.to_string());
        Athlete {
            tenant: claims.tenant.clone(),
            subject,
            epoch,
            token: self.sign(&claims),
        }
    }

    pub(crate) fn marketing(&self, tenant: &str, epoch: Epoch) -> String {
        self.sign(&self.claims(tenant, epoch, Audience::Marketing, "marketing-test"))
    }
}
