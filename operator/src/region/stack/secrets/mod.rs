//! What is born in the region and never leaves it: the CA, certificates, database credentials, peppers, keys.
//!
//! Credentials are created once and never changed by a plan, but for where the server is: a lost or rotated password would
//! lock the services out of data that exists. Certificates are renewed after two thirds of their life, or when their names
//! or the CA change. The CA is rotated with an overlap ([`rotation`]).

mod authority;
mod credentials;
mod ensure;
pub mod rotation;

pub use authority::{Authority, CertificateError, Wanted, renew_at};
pub use credentials::{ADMINISTRATOR, Credential, NoRandomness, RandomSource, Server, random};
pub use ensure::{Secrets, SecretsError, ensure};
pub use rotation::Authorities;

use super::data_plane::Postgres;
use super::validate::Stack;
use crate::manifest::SECRET;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Content of a Secret, by key.
pub type Data = BTreeMap<String, Vec<u8>>;

/// Name of the Secret with the region's CA.
pub const REGION_CA: &str = "region-ca";

/// A Secret's body for the API server.
#[must_use]
pub fn manifest(stack: &Stack, name: &str, kind: &str, data: &Data) -> Value {
    let encoded: BTreeMap<&String, String> = data.iter().map(|(k, v)| (k, STANDARD.encode(v))).collect();
    let mut metadata = stack.metadata(name, "secrets");
    metadata["namespace"] = json!(stack.namespace());
    if name == "tls-postgres" && matches!(stack.data_plane.postgres, Postgres::CloudNativePg(_)) {
        // Without it an instance goes on with the certificate that it began with.
        metadata["labels"]["cnpg.io/reload"] = json!("true");
    }
    json!({
        "apiVersion": SECRET.api_version(), "kind": SECRET.kind, "metadata": metadata,
        "type": kind, "data": encoded,
    })
}

/// Content of an observed Secret; keys that do not decode are left out.
#[must_use]
pub fn content(secret: &Value) -> Data {
    let entries = secret.get("data").and_then(Value::as_object);
    let decode = |v: &Value| STANDARD.decode(v.as_str()?).ok();
    entries
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| Some((k.clone(), decode(v)?)))
        .collect()
}

/// Identifies content without telling it: what it is of has at least 128 random bits, or is public.
#[must_use]
pub fn digest(data: &Data) -> String {
    let mut hash = Sha256::new();
    for (key, value) in data {
        hash.update(u64::try_from(key.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(key.as_bytes());
        hash.update(u64::try_from(value.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(value);
    }
    hex::encode(hash.finalize()).chars().take(16).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_comes_back_as_it_went_in() {
        let data = Data::from([("password".to_owned(), vec![0, 255, 10])]);
        let secret = manifest(&crate::region::stack::validate::example(), "db-x", "Opaque", &data);
        assert_eq!(content(&secret), data);
    }

    #[test]
    fn a_digest_tells_content_apart_and_its_boundaries_too() {
        let data = |k: &str, v: &str| Data::from([(k.to_owned(), v.as_bytes().to_vec())]);
        assert_ne!(digest(&data("ab", "c")), digest(&data("a", "bc")));
        assert_eq!(digest(&data("a", "b")), digest(&data("a", "b")));
    }
}
