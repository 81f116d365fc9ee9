//! Where a broker is.

use std::fmt;
use std::str::FromStr;

/// The name in a broker's certificate.
pub const BROKER: &str = "kafka";

/// Where a broker is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Broker {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl fmt::Display for Broker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(formatter, "[{host}]:{port}")
        } else {
            write!(formatter, "{host}:{port}")
        }
    }
}

/// It is not written like `host:port`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("is not host:port")]
pub struct NotABroker;

impl FromStr for Broker {
    type Err = NotABroker;

    fn from_str(text: &str) -> Result<Self, NotABroker> {
        let (host, port) = text.rsplit_once(':').ok_or(NotABroker)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains(['/', '@', ' ', ',']) {
            return Err(NotABroker);
        }
        Ok(Self {
            host: host.to_owned(),
            port: port.parse().map_err(|_| NotABroker)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_a_host_and_a_port() {
        for text in ["kafka.meridian-eu.svc:9094", "10.0.0.1:9094", "[fd00::1]:9094"] {
            let broker: Broker = text.parse().expect(text);
            assert_eq!(broker.to_string(), text);
        }
        for text in [
            "kafka",
            ":9094",
            "kafka:",
            "kafka:x",
            "https://kafka:9094",
            "a@kafka:9094",
        ] {
            assert_eq!(text.parse::<Broker>(), Err(NotABroker), "{text}");
        }
    }
}
