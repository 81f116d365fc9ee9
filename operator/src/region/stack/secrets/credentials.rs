//! Credentials: random, made once.

use super::Data;
use aws_lc_rs::rand::fill;
use meridian_policy::TenantId;

/// Gives this many random bytes.
pub type RandomSource<'a> = &'a mut dyn FnMut(usize) -> Result<Vec<u8>, NoRandomness>;

/// The system's random source failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system's random source failed; no credential was made")]
pub struct NoRandomness;

/// Bytes from the cryptographic library's generator.
///
/// # Errors
/// When it fails.
pub fn random(bytes: usize) -> Result<Vec<u8>, NoRandomness> {
    let mut buffer = vec![0; bytes];
    fill(&mut buffer).map_err(|_| NoRandomness)?;
    Ok(buffer)
}

/// A credential that a stack needs; each is one Secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Credential {
    /// PostgreSQL's superuser, used by migrate-cluster only.
    Superuser,
    /// The role that owns a service's schema, used by its migration only.
    Owner(String),
    /// The role that a service runs as.
    Runtime(String),
    /// The role that the verifier looks as.
    Verifier,
    /// A service's pepper.
    Pepper(String),
    /// What a service signs checkpoints of its evidence with.
    Evidence(String),
    /// What wraps the keyring's keys.
    KeyEncryption,
    /// A tenant's marketing client.
    Marketing(TenantId),
}

const BYTES: usize = 32;
const CA_FILE: &str = "/var/run/meridian/tls/ca.crt";

fn url(user: &str, password: &str, database: &str) -> String {
    format!("postgres://{user}:{password}@postgres:5432/{database}?sslmode=verify-full&sslrootcert={CA_FILE}")
}

impl Credential {
    /// Name of its Secret.
    #[must_use]
    pub fn secret(&self) -> String {
        match self {
            Self::Superuser => "db-superuser".to_owned(),
            Self::Owner(service) => format!("db-{service}-owner"),
            Self::Runtime(service) => format!("db-{service}"),
            Self::Verifier => "db-verifier".to_owned(),
            Self::Pepper(service) => format!("pepper-{service}"),
            Self::Evidence(service) => format!("evidence-{service}"),
            Self::KeyEncryption => "keyring-kek".to_owned(),
            Self::Marketing(tenant) => format!("marketing-{tenant}"),
        }
    }

    /// Makes its content.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn generate(&self, random: RandomSource<'_>) -> Result<Data, NoRandomness> {
        let text = |key: &str, value: String| (key.to_owned(), value.into_bytes());
        let mut password = || Ok(hex::encode(random(BYTES)?));
        Ok(match self {
            Self::Superuser => {
                let password = password()?;
                let url = url("postgres", &password, "postgres");
                Data::from([
                    text("username", "postgres".to_owned()),
                    text("password", password),
                    text("url", url),
                ])
            }
            Self::Owner(service) => {
                let (user, password) = (format!("{service}_owner"), password()?);
                let url = url(&user, &password, service);
                Data::from([text("username", user), text("password", password), text("url", url)])
            }
            Self::Runtime(service) => {
                let password = password()?;
                let url = url(service, &password, service);
                Data::from([
                    text("username", service.clone()),
                    text("password", password),
                    text("url", url),
                ])
            }
            Self::Verifier => {
                let password = password()?;
                let url = url("verifier", &password, "postgres");
                Data::from([
                    text("username", "verifier".to_owned()),
                    text("password", password),
                    text("url", url),
                ])
            }
            Self::Pepper(_) => Data::from([("pepper".to_owned(), random(BYTES)?)]),
            Self::Evidence(_) => Data::from([("seed".to_owned(), random(BYTES)?)]),
            Self::KeyEncryption => Data::from([("kek".to_owned(), random(BYTES)?)]),
            Self::Marketing(tenant) => Data::from([
                text("client-id", format!("{tenant}-marketing")),
                text("client-secret", password()?),
            ]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generate(credential: &Credential) -> Data {
        credential.generate(&mut random).unwrap()
    }

    #[test]
    fn the_url_holds_the_same_role_and_password_and_verifies_the_server() {
        let data = generate(&Credential::Owner("identity".into()));
        let text = |k: &str| String::from_utf8(data[k].clone()).unwrap();
        assert_eq!(text("username"), "identity_owner");
        assert!(text("url").starts_with(&format!(
            "postgres://identity_owner:{}@postgres:5432/identity?",
            text("password")
        )));
        assert!(text("url").contains("sslmode=verify-full"));
    }

    #[test]
    fn no_two_are_alike_and_keys_are_32_bytes() {
        let (a, b) = (
            generate(&Credential::Pepper("identity".into())),
            generate(&Credential::Pepper("identity".into())),
        );
        assert_ne!(a, b);
        assert_eq!(
            (a["pepper"].len(), generate(&Credential::KeyEncryption)["kek"].len()),
            (32, 32)
        );
    }
}
