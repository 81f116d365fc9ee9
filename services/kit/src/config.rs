//! What a service reads from its environment, parsed once; every wrong variable gets one sentence.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use meridian_policy::RegionName;

use crate::kafka::Broker;

/// A text that must not be printed.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(String);

impl Secret {
    /// Wraps it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// Where Kafka is, and how it is spoken to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Brokers {
    /// `MERIDIAN_KAFKA_URL`, `mtls://host:port[,host:port…]`: under this process's certificate. Default
    /// `mtls://kafka:9094`.
    Mutual(Vec<Broker>),
    /// `MERIDIAN_KAFKA`: in clear and as nobody, bootstrap addresses of a test's broker.
    Plain(String),
}

/// A service's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// `MERIDIAN_REGION`: the region that this process belongs to.
    pub region: RegionName,
    /// `MERIDIAN_LISTEN`: where requests are served over mTLS. Default `0.0.0.0:8443`.
    pub listen: SocketAddr,
    /// `MERIDIAN_ADMIN_LISTEN`: health and metrics in plain HTTP. Default `0.0.0.0:9000`.
    pub admin_listen: SocketAddr,
    /// `MERIDIAN_TLS_DIR`: `tls.crt`, `tls.key`, `ca.crt`; read again when they change.
    pub tls_dir: PathBuf,
    /// `MERIDIAN_DATABASE_URL`: for services that have a database.
    pub database_url: Option<Secret>,
    /// `MERIDIAN_KAFKA_URL`, or `MERIDIAN_KAFKA` in tests.
    pub kafka: Brokers,
    /// `MERIDIAN_TOPIC_PREFIX`: put before every topic and group; only tests that share one broker set it.
    pub topic_prefix: String,
    /// `MERIDIAN_POLICY_URL`: the region operator's policy feed.
    pub policy_url: String,
    /// `MERIDIAN_POLICY_FILE`: the policy to begin with.
    pub policy_file: PathBuf,
    /// `MERIDIAN_<PEER>_URL`: where another service is, by its name; without one it is `https://<peer>:8443`.
    pub peers: BTreeMap<String, String>,
    /// `MERIDIAN_OTLP_ENDPOINT`: where traces go, if anywhere.
    pub otlp_endpoint: Option<String>,
    /// `MERIDIAN_DATA_DIR`: for services that keep files (keyring).
    pub data_dir: Option<PathBuf>,
    /// `MERIDIAN_PEPPER_FILE`: 32 random bytes (identity).
    pub pepper_file: Option<PathBuf>,
    /// `MERIDIAN_KEK_FILE`: the key that wraps keys (keyring).
    pub kek_file: Option<PathBuf>,
    /// `MERIDIAN_EVIDENCE_KEY_FILE`: 32 random bytes, the seed that checkpoints of evidence are signed with.
    pub evidence_key_file: Option<PathBuf>,
}

/// One wrong variable.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{variable} {problem}")]
pub struct ConfigError {
    /// Its name.
    pub variable: String,
    /// What is wrong and what to do.
    pub problem: String,
}

/// All the wrong variables of one start.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(formatter, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Variables that end in `_URL` and do not name a peer.
const NOT_PEERS: [&str; 5] = [
    "MERIDIAN_DATABASE_URL",
    "MERIDIAN_KAFKA_URL",
    "MERIDIAN_POLICY_URL",
    "MERIDIAN_PUBLIC_URL",
    "MERIDIAN_SUPERUSER_URL",
];

struct Reader<'a> {
    variables: &'a BTreeMap<String, String>,
    errors: Vec<ConfigError>,
}

impl Reader<'_> {
    fn text(&self, variable: &str) -> Option<String> {
        self.variables
            .get(variable)
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    }

    fn wrong(&mut self, variable: &str, problem: impl Into<String>) {
        self.errors.push(ConfigError {
            variable: variable.to_owned(),
            problem: problem.into(),
        });
    }

    fn address(&mut self, variable: &str, default: SocketAddr) -> SocketAddr {
        let Some(text) = self.text(variable) else {
            return default;
        };
        text.parse().unwrap_or_else(|_| {
            self.wrong(
                variable,
                format!("is not an address and a port: {text:?}; write it like {default}"),
            );
            default
        })
    }

    fn brokers(&mut self) -> Brokers {
        let plain = self.text("MERIDIAN_KAFKA");
        let Some(url) = self.text("MERIDIAN_KAFKA_URL") else {
            let own = Broker {
                host: crate::kafka::BROKER.to_owned(),
                port: 9094,
            };
            return plain.map_or_else(|| Brokers::Mutual(vec![own]), Brokers::Plain);
        };
        if plain.is_some() {
            self.wrong("MERIDIAN_KAFKA", "is set beside MERIDIAN_KAFKA_URL; set one of them");
        }
        let listed = url.strip_prefix("mtls://").unwrap_or_default().split(',');
        let brokers: Result<Vec<Broker>, _> = listed.map(str::parse).collect();
        Brokers::Mutual(brokers.unwrap_or_else(|_| {
            self.wrong(
                "MERIDIAN_KAFKA_URL",
                "is not a list of brokers; write it like mtls://kafka:9094",
            );
            Vec::new()
        }))
    }

    fn url(&mut self, variable: &str, default: String) -> String {
        let Some(text) = self.text(variable) else {
            return default;
        };
        match text.parse::<http::Uri>() {
            Ok(uri) if uri.scheme_str() == Some("https") && uri.authority().is_some() => {
                text.trim_end_matches('/').to_owned()
            }
            _ => {
                self.wrong(variable, "is not an https URL; write it like https://name:8443");
                default
            }
        }
    }
}

impl Config {
    /// Parses a set of variables.
    ///
    /// # Errors
    /// Every wrong variable, each with one sentence.
    pub fn parse(variables: &BTreeMap<String, String>) -> Result<Self, ConfigErrors> {
        let mut reader = Reader {
            variables,
            errors: Vec::new(),
        };
        let region = match reader.text("MERIDIAN_REGION").map(|text| text.parse::<RegionName>()) {
            Some(Ok(region)) => Some(region),
            Some(Err(error)) => {
                reader.wrong("MERIDIAN_REGION", format!("is not a region's name: {error}"));
                None
            }
            None => {
                reader.wrong(
                    "MERIDIAN_REGION",
                    "is missing; set it to the name of this region, like eu",
                );
                None
            }
        };
        let listen = reader.address("MERIDIAN_LISTEN", SocketAddr::from(([0, 0, 0, 0], 8443)));
        let admin_listen = reader.address("MERIDIAN_ADMIN_LISTEN", SocketAddr::from(([0, 0, 0, 0], 9000)));
        if listen == admin_listen && listen.port() != 0 {
            reader.wrong(
                "MERIDIAN_ADMIN_LISTEN",
                "is the same as MERIDIAN_LISTEN; give it a port of its own",
            );
        }
        let policy = "https://region-operator.meridian-system.svc:8444".to_owned();
        let policy_url = reader.url("MERIDIAN_POLICY_URL", policy);
        let database_url = reader.text("MERIDIAN_DATABASE_URL");
        if database_url
            .as_ref()
            .is_some_and(|url| !url.starts_with("postgres://") && !url.starts_with("postgresql://"))
        {
            reader.wrong(
                "MERIDIAN_DATABASE_URL",
                "is not a PostgreSQL URL; write it like postgres://user:password@postgres/name",
            );
        }
        let kafka = reader.brokers();
        let topic_prefix = reader.text("MERIDIAN_TOPIC_PREFIX").unwrap_or_default();
        if !topic_prefix
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
        {
            reader.wrong(
                "MERIDIAN_TOPIC_PREFIX",
                "may hold only letters, digits, dots and dashes",
            );
        }
        let mut peers = BTreeMap::new();
        for variable in variables.keys() {
            let Some(name) = variable
                .strip_prefix("MERIDIAN_")
                .and_then(|rest| rest.strip_suffix("_URL"))
            else {
                continue;
            };
            if NOT_PEERS.contains(&variable.as_str()) || reader.text(variable).is_none() {
                continue;
            }
            let name = name.to_ascii_lowercase().replace('_', "-");
            let url = reader.url(variable, String::new());
            peers.insert(name, url);
        }
        let path = |reader: &Reader<'_>, variable: &str| reader.text(variable).map(PathBuf::from);
        let config = region.map(|region| Self {
            region,
            listen,
            admin_listen,
            tls_dir: path(&reader, "MERIDIAN_TLS_DIR").unwrap_or_else(|| PathBuf::from("/var/run/meridian/tls")),
            database_url: database_url.map(Secret::new),
            kafka,
            topic_prefix,
            policy_url,
            policy_file: path(&reader, "MERIDIAN_POLICY_FILE")
                .unwrap_or_else(|| PathBuf::from("/etc/meridian/policy/policy.json")),
            peers,
            otlp_endpoint: reader.text("MERIDIAN_OTLP_ENDPOINT"),
            data_dir: path(&reader, "MERIDIAN_DATA_DIR"),
            pepper_file: path(&reader, "MERIDIAN_PEPPER_FILE"),
            kek_file: path(&reader, "MERIDIAN_KEK_FILE"),
            evidence_key_file: path(&reader, "MERIDIAN_EVIDENCE_KEY_FILE"),
        });
        match config {
            Some(config) if reader.errors.is_empty() => Ok(config),
            _ => Err(ConfigErrors(reader.errors)),
        }
    }

    /// Parses this process's environment.
    ///
    /// # Errors
    /// Every wrong variable, each with one sentence.
    pub fn from_env() -> Result<Self, ConfigErrors> {
        let read = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let variables = std::env::vars_os()
            .filter_map(read)
            .filter(|(name, _)| name.starts_with("MERIDIAN_"))
            .collect();
        Self::parse(&variables)
    }

    /// Where another service of this region is.
    #[must_use]
    pub fn peer_url(&self, peer: &str) -> String {
        self.peers
            .get(peer)
            .cloned()
            .unwrap_or_else(|| format!("https://{peer}:8443"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_region_is_all_that_must_be_said() {
        let config = Config::parse(&variables(&[("MERIDIAN_REGION", "eu")])).expect("valid");
        assert_eq!(config.region.to_string(), "eu");
        assert_eq!(config.peer_url("consent"), "https://consent:8443");
        assert_eq!(config.listen.port(), 8443);
    }

    #[test]
    fn kafka_is_spoken_to_under_the_certificate_unless_a_test_says_otherwise() {
        let kafka = |more: &[(&str, &str)]| {
            let all = [&[("MERIDIAN_REGION", "eu")], more].concat();
            Config::parse(&variables(&all)).map(|config| config.kafka)
        };
        let brokers = |all: &[&str]| Brokers::Mutual(all.iter().map(|one| one.parse().expect("a broker")).collect());
        assert_eq!(kafka(&[]), Ok(brokers(&["kafka:9094"])));
        let several = kafka(&[("MERIDIAN_KAFKA_URL", "mtls://a:9094,b:9095")]);
        assert_eq!(several, Ok(brokers(&["a:9094", "b:9095"])));
        let plain = kafka(&[("MERIDIAN_KAFKA", "127.0.0.1:9092")]);
        assert_eq!(plain, Ok(Brokers::Plain("127.0.0.1:9092".to_owned())));
        assert!(kafka(&[("MERIDIAN_KAFKA_URL", "kafka:9094")]).is_err());
        assert!(kafka(&[("MERIDIAN_KAFKA_URL", "mtls://a:1"), ("MERIDIAN_KAFKA", "a:2")]).is_err());
    }

    #[test]
    fn a_peer_is_found_where_its_variable_says() {
        let config = Config::parse(&variables(&[
            ("MERIDIAN_REGION", "eu"),
            ("MERIDIAN_CONSENT_URL", "https://127.0.0.1:7001/"),
            ("MERIDIAN_DATABASE_URL", "postgres://u:p@h/d"),
        ]))
        .expect("valid");
        assert_eq!(config.peer_url("consent"), "https://127.0.0.1:7001");
        assert_eq!(config.peers.len(), 1);
    }

    #[test]
    fn every_wrong_variable_gets_a_sentence_of_its_own() {
        let errors = Config::parse(&variables(&[
            ("MERIDIAN_REGION", "EU!"),
            ("MERIDIAN_LISTEN", "here"),
            ("MERIDIAN_CONSENT_URL", "http://consent"),
            ("MERIDIAN_DATABASE_URL", "mysql://u:p@h/d"),
            ("MERIDIAN_TOPIC_PREFIX", "a b"),
        ]))
        .expect_err("five are wrong");
        let wrong: Vec<&str> = errors.0.iter().map(|error| error.variable.as_str()).collect();
        let all = [
            "MERIDIAN_REGION",
            "MERIDIAN_LISTEN",
            "MERIDIAN_DATABASE_URL",
            "MERIDIAN_TOPIC_PREFIX",
            "MERIDIAN_CONSENT_URL",
        ];
        assert_eq!(wrong, all);
        assert!(!errors.to_string().contains("u:p"), "a password must not be repeated");
    }

    #[test]
    fn a_secret_is_not_printed() {
        let config = Config::parse(&variables(&[
            ("MERIDIAN_REGION", "eu"),
            ("MERIDIAN_DATABASE_URL", "postgres://u:hunter2@h/d"),
        ]))
        .expect("valid");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
