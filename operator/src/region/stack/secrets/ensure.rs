//! Sees to it that every secret of a stack is there: makes what is missing, renews certificates that are due.

use super::{
    Authorities, Authority, CertificateError, Credential, Data, REGION_CA, Server, content, digest, manifest, random,
    renew_at,
};
use crate::apply::{Applier, ApplyError, Purpose, observed};
use crate::manifest::{Manifest, NotAManifest, ObjectKey, SECRET};
use crate::region::stack::data_plane::Postgres;
use crate::region::stack::plan::{Material, components};
use crate::region::stack::validate::Stack;
use jiff::Timestamp;
use std::sync::Arc;

/// Why the secrets are not complete.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// A certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The random source.
    #[error(transparent)]
    Random(#[from] super::credentials::NoRandomness),
    /// The API server.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A defect of ours.
    #[error(transparent)]
    Plan(#[from] NotAManifest),
    /// A credential that exists was damaged. It is not replaced: data may depend on it.
    #[error(
        "Secret {0} lacks a key that it was made with; restore it (a new one would lock services out of their data)"
    )]
    DamagedCredential(String),
}

/// The outcome of a look over all secrets.
#[derive(Clone)]
pub struct Secrets {
    /// What the plan needs to know.
    pub material: Material,
    /// When the next certificate is due.
    pub next_renewal: Timestamp,
    /// Names of certificates that were issued now.
    pub issued: Vec<String>,
    /// How many secrets were written now.
    pub written: usize,
    /// Content of the operator's own certificate, to serve the feed with.
    pub operator: Data,
    /// The region's CAs.
    pub authorities: Arc<Authorities>,
}

/// Makes what is missing. Reads the cache only; a steady state sends no request.
///
/// # Errors
/// See [`SecretsError`].
pub async fn ensure(applier: &Applier, stack: &Stack, now: Timestamp) -> Result<Secrets, SecretsError> {
    let (authorities, made) = authorities(applier, stack, now).await?;
    let bundle = authorities.bundle();
    let mut secrets = Secrets {
        material: Material {
            ca_certificate: bundle.clone(),
            ..Material::default()
        },
        next_renewal: Timestamp::MAX,
        issued: vec![],
        written: usize::from(made),
        operator: Data::new(),
        authorities,
    };
    credentials(applier, stack, &mut secrets).await?;
    for wanted in components::certificates(stack) {
        let known = existing(applier, stack, &wanted.secret).unwrap_or_default();
        let authority = &secrets.authorities.issuing;
        let (data, due) = match renew_at(&known, &wanted, authority, now) {
            Some(due) => {
                // The same certificate, whatever its holder has to trust by now.
                let trusting = [("ca.crt".to_owned(), bundle.clone().into_bytes())];
                (known.clone().into_iter().chain(trusting).collect(), Some(due))
            }
            None => (authority.issue(&wanted, &bundle, now)?, None),
        };
        let digest = digest(&as_issued(&data, authority));
        if data != known {
            let manifest = Manifest::new(manifest(stack, &wanted.secret, "kubernetes.io/tls", &data))?;
            applier.apply(Purpose::RegionSecrets, &manifest).await?;
            secrets.written += 1;
        }
        match due {
            Some(due) => secrets.next_renewal = secrets.next_renewal.min(due),
            None => secrets.issued.push(wanted.secret.clone()),
        }
        secrets.material.digests.insert(wanted.secret.clone(), digest);
        if wanted.secret == components::OPERATOR_CERTIFICATE {
            secrets.operator = data;
        }
    }
    Ok(secrets)
}

/// What is restarted for a new certificate is not restarted for what its holder has to trust besides its issuer.
fn as_issued(data: &Data, authority: &Authority) -> Data {
    let mut issued = data.clone();
    issued.insert("ca.crt".to_owned(), authority.certificate().as_bytes().to_vec());
    issued
}

fn existing(applier: &Applier, stack: &Stack, name: &str) -> Option<Data> {
    let key = ObjectKey::namespaced(SECRET, &stack.namespace(), name);
    applier.cache().get(&key).map(|secret| content(&observed(&secret)))
}

/// The region's CAs, and whether the first was made now.
async fn authorities(
    applier: &Applier,
    stack: &Stack,
    now: Timestamp,
) -> Result<(Arc<Authorities>, bool), SecretsError> {
    if let Some(data) = existing(applier, stack, REGION_CA) {
        return Ok((Arc::new(Authorities::read(&stack.region, &data)?), false));
    }
    let first = Authorities::first(Authority::new(&stack.region, now)?);
    create(applier, stack, REGION_CA, "kubernetes.io/tls", &first.data()).await?;
    Ok((Arc::new(first), true))
}

async fn credentials(applier: &Applier, stack: &Stack, secrets: &mut Secrets) -> Result<(), SecretsError> {
    let server = Server::of(stack);
    for credential in components::credentials(stack) {
        let name = credential.secret();
        let data = match existing(applier, stack, &name) {
            Some(data) if whole(&credential, &data) => {
                let here = credential.at(&server, data.clone());
                if here != data {
                    let manifest = Manifest::new(manifest(stack, &name, kind(stack, &credential), &here))?;
                    applier.apply(Purpose::RegionSecrets, &manifest).await?;
                    secrets.written += 1;
                }
                here
            }
            Some(_) => return Err(SecretsError::DamagedCredential(name)),
            None => {
                let data = credential.generate(&server, &mut random)?;
                create(applier, stack, &name, kind(stack, &credential), &data).await?;
                secrets.written += 1;
                data
            }
        };
        secrets.material.digests.insert(name, digest(&data));
    }
    Ok(())
}

/// The type of a credential's Secret, which never changes: CloudNativePG takes those of the roles that it makes as one.
fn kind(stack: &Stack, credential: &Credential) -> &'static str {
    match (&stack.data_plane.postgres, credential) {
        (Postgres::CloudNativePg(_), Credential::Administrator | Credential::Verifier) => "kubernetes.io/basic-auth",
        _ => "Opaque",
    }
}

/// Whether a credential has every key that it is made with.
fn whole(credential: &Credential, data: &Data) -> bool {
    let keys: &[&str] = match credential {
        Credential::Superuser
        | Credential::Administrator
        | Credential::Owner(_)
        | Credential::Runtime(_)
        | Credential::Verifier => &["username", "password", "url"],
        Credential::Pepper(_) => &["pepper"],
        Credential::Evidence(_) => &["seed"],
        Credential::KeyEncryption => &["kek"],
        Credential::Marketing(_) => &["client-id", "client-secret"],
    };
    keys.iter()
        .all(|key| data.get(*key).is_some_and(|value| !value.is_empty()))
}

async fn create(applier: &Applier, stack: &Stack, name: &str, kind: &str, data: &Data) -> Result<(), SecretsError> {
    applier
        .create(
            Purpose::RegionSecrets,
            &Manifest::new(manifest(stack, name, kind, data))?,
        )
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_credential_is_whole_and_one_that_lost_a_key_is_not() {
        let stack = crate::region::stack::validate::example();
        let all = components::credentials(&stack);
        for credential in all {
            let mut data = credential.generate(&Server::of(&stack), &mut random).unwrap();
            assert!(whole(&credential, &data), "{}", credential.secret());
            data.pop_last();
            assert!(!whole(&credential, &data), "{}", credential.secret());
        }
    }
}
