//! Sees to it that every secret of a stack is there: makes what is missing, renews certificates that are due.

use super::{Authority, CertificateError, Credential, Data, REGION_CA, content, digest, manifest, random, renew_at};
use crate::apply::{Applier, ApplyError, Purpose, observed};
use crate::manifest::{Manifest, NotAManifest, ObjectKey, SECRET};
use crate::region::stack::plan::{Material, components};
use crate::region::stack::validate::Stack;
use jiff::Timestamp;

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
}

/// Makes what is missing. Reads the cache only; a steady state sends no request.
///
/// # Errors
/// See [`SecretsError`].
pub async fn ensure(applier: &Applier, stack: &Stack, now: Timestamp) -> Result<Secrets, SecretsError> {
    let mut secrets = Secrets {
        material: Material::default(),
        next_renewal: Timestamp::MAX,
        issued: vec![],
        written: 0,
        operator: Data::new(),
    };
    let authority = authority(applier, stack, now, &mut secrets).await?;
    authority.certificate().clone_into(&mut secrets.material.ca_certificate);
    credentials(applier, stack, &mut secrets).await?;
    for wanted in components::certificates(stack) {
        let known = existing(applier, stack, &wanted.secret).unwrap_or_default();
        let data = match renew_at(&known, &wanted, &authority, now) {
            Some(due) => {
                secrets.next_renewal = secrets.next_renewal.min(due);
                known
            }
            None => {
                let data = authority.issue(&wanted, now)?;
                let manifest = Manifest::new(manifest(stack, &wanted.secret, "kubernetes.io/tls", &data))?;
                applier.apply(Purpose::RegionSecrets, &manifest).await?;
                secrets.issued.push(wanted.secret.clone());
                secrets.written += 1;
                data
            }
        };
        secrets.material.digests.insert(wanted.secret.clone(), digest(&data));
        if wanted.secret == components::OPERATOR_CERTIFICATE {
            secrets.operator = data;
        }
    }
    Ok(secrets)
}

fn existing(applier: &Applier, stack: &Stack, name: &str) -> Option<Data> {
    let key = ObjectKey::namespaced(SECRET, &stack.namespace(), name);
    applier.cache().get(&key).map(|secret| content(&observed(&secret)))
}

async fn authority(
    applier: &Applier,
    stack: &Stack,
    now: Timestamp,
    secrets: &mut Secrets,
) -> Result<Authority, SecretsError> {
    if let Some(data) = existing(applier, stack, REGION_CA) {
        return Ok(Authority::read(&stack.region, &data)?);
    }
    let authority = Authority::new(&stack.region, now)?;
    create(
        applier,
        stack,
        REGION_CA,
        "kubernetes.io/tls",
        &authority.data(),
        secrets,
    )
    .await?;
    Ok(authority)
}

async fn credentials(applier: &Applier, stack: &Stack, secrets: &mut Secrets) -> Result<(), SecretsError> {
    for credential in components::credentials(stack) {
        let name = credential.secret();
        let data = match existing(applier, stack, &name) {
            Some(data) if whole(&credential, &data) => data,
            Some(_) => return Err(SecretsError::DamagedCredential(name)),
            None => {
                let data = credential.generate(&mut random)?;
                create(applier, stack, &name, "Opaque", &data, secrets).await?;
                data
            }
        };
        secrets.material.digests.insert(name, digest(&data));
    }
    Ok(())
}

/// Whether a credential has every key that it is made with.
fn whole(credential: &Credential, data: &Data) -> bool {
    let keys: &[&str] = match credential {
        Credential::Superuser | Credential::Owner(_) | Credential::Runtime(_) => &["username", "password", "url"],
        Credential::Pepper(_) => &["pepper"],
        Credential::Evidence(_) => &["seed"],
        Credential::KeyEncryption => &["kek"],
        Credential::Marketing(_) => &["client-id", "client-secret"],
    };
    keys.iter()
        .all(|key| data.get(*key).is_some_and(|value| !value.is_empty()))
}

async fn create(
    applier: &Applier,
    stack: &Stack,
    name: &str,
    kind: &str,
    data: &Data,
    secrets: &mut Secrets,
) -> Result<(), SecretsError> {
    applier
        .create(
            Purpose::RegionSecrets,
            &Manifest::new(manifest(stack, name, kind, data))?,
        )
        .await?;
    secrets.written += 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_credential_is_whole_and_one_that_lost_a_key_is_not() {
        let all = components::credentials(&crate::region::stack::validate::example());
        for credential in all {
            let mut data = credential.generate(&mut random).unwrap();
            assert!(whole(&credential, &data), "{}", credential.secret());
            data.pop_last();
            assert!(!whole(&credential, &data), "{}", credential.secret());
        }
    }
}
