//! Credentials: random, made once.

use super::Data;
use crate::region::stack::plan::external;
use crate::region::stack::validate::Stack;
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
    /// Where nobody is superuser over the network: who makes roles and databases instead.
    Administrator,
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

/// The role that makes roles and databases where nobody is superuser.
pub const ADMINISTRATOR: &str = "meridian_admin";
const BYTES: usize = 32;
const CA_FILE: &str = "/var/run/meridian/tls/ca.crt";

/// Where the region's PostgreSQL is, and whom it is verified by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    address: String,
    ca_file: &'static str,
}

impl Server {
    /// Of a stack.
    #[must_use]
    pub fn of(stack: &Stack) -> Self {
        match external::of(stack, "postgres") {
            Some(external) => Self {
                address: external.address.to_string(),
                ca_file: external::POSTGRES_CA,
            },
            None => Self {
                address: "postgres:5432".to_owned(),
                ca_file: CA_FILE,
            },
        }
    }

    /// The URL of a database; `who` is `user:password@`, or nothing.
    #[must_use]
    pub fn url(&self, who: &str, database: &str) -> String {
        let (address, ca_file) = (&self.address, self.ca_file);
        format!("postgres://{who}{address}/{database}?sslmode=verify-full&sslrootcert={ca_file}")
    }
}

impl Credential {
    /// Name of its Secret.
    #[must_use]
    pub fn secret(&self) -> String {
        match self {
            Self::Superuser | Self::Administrator => "db-superuser".to_owned(),
            Self::Owner(service) => format!("db-{service}-owner"),
            Self::Runtime(service) => format!("db-{service}"),
            Self::Verifier => "db-verifier".to_owned(),
            Self::Pepper(service) => format!("pepper-{service}"),
            Self::Evidence(service) => format!("evidence-{service}"),
            Self::KeyEncryption => "keyring-kek".to_owned(),
            Self::Marketing(tenant) => format!("marketing-{tenant}"),
        }
    }

    /// The role and the database that it is for, if it is one of PostgreSQL's.
    fn login(&self) -> Option<(String, &str)> {
        Some(match self {
            Self::Superuser => ("postgres".to_owned(), "postgres"),
            Self::Administrator => (ADMINISTRATOR.to_owned(), "postgres"),
            Self::Owner(service) => (format!("{service}_owner"), service),
            Self::Runtime(service) => (service.clone(), service),
            Self::Verifier => ("verifier".to_owned(), "postgres"),
            Self::Pepper(_) | Self::Evidence(_) | Self::KeyEncryption | Self::Marketing(_) => return None,
        })
    }

    /// Makes its content.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn generate(&self, server: &Server, random: RandomSource<'_>) -> Result<Data, NoRandomness> {
        let text = |key: &str, value: String| (key.to_owned(), value.into_bytes());
        if let Some((user, database)) = self.login() {
            let password = hex::encode(random(BYTES)?);
            let url = server.url(&format!("{user}:{password}@"), database);
            return Ok(Data::from([
                text("username", user),
                text("password", password),
                text("url", url),
            ]));
        }
        Ok(match self {
            Self::Pepper(_) => Data::from([("pepper".to_owned(), random(BYTES)?)]),
            Self::Evidence(_) => Data::from([("seed".to_owned(), random(BYTES)?)]),
            Self::Marketing(tenant) => Data::from([
                text("client-id", format!("{tenant}-marketing")),
                text("client-secret", hex::encode(random(BYTES)?)),
            ]),
            _ => Data::from([("kek".to_owned(), random(BYTES)?)]),
        })
    }

    /// The same role and password at this server, which may have moved since they were made.
    #[must_use]
    pub fn at(&self, server: &Server, mut data: Data) -> Data {
        let text = |key: &str| data.get(key).and_then(|value| std::str::from_utf8(value).ok());
        if let (Some((_, database)), Some(user), Some(password)) = (self.login(), text("username"), text("password")) {
            let url = server.url(&format!("{user}:{password}@"), database);
            data.insert("url".to_owned(), url.into_bytes());
        }
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::stack::data_plane::DataPlane;
    use crate::region::stack::validate::example;
    use serde_json::json;

    fn generate(credential: &Credential) -> Data {
        credential.generate(&Server::of(&example()), &mut random).unwrap()
    }

    #[test]
    fn a_server_that_moved_is_found_by_the_same_role_and_password() {
        let mut stack = example();
        stack.data_plane = DataPlane::parse(&json!({"postgres": {
            "mode": "External", "address": "db.eu.example:6432", "networks": ["10.20.0.0/28"], "connectionSecret": "their-db",
        }}))
        .unwrap();
        let credential = Credential::Runtime("identity".into());
        let before = generate(&credential);
        assert_eq!(credential.at(&Server::of(&example()), before.clone()), before);
        let after = credential.at(&Server::of(&stack), before.clone());
        assert_eq!(after["password"], before["password"]);
        let url = String::from_utf8(after["url"].clone()).unwrap();
        assert!(
            url.contains("@db.eu.example:6432/identity?sslmode=verify-full"),
            "{url}"
        );
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
