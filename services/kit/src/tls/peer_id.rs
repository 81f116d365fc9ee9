//! Who a certificate speaks for.

use std::fmt;
use std::str::FromStr;

use meridian_policy::RegionName;
use rustls::pki_types::CertificateDer;

/// Who a certificate speaks for.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PeerId {
    /// The region that issued the certificate.
    pub region: RegionName,
    /// The service.
    pub service: String,
}

impl PeerId {
    /// A service of a region.
    pub fn new(region: RegionName, service: impl Into<String>) -> Self {
        Self {
            region,
            service: service.into(),
        }
    }

    /// The one URI SAN `meridian://…` of a certificate.
    ///
    /// # Errors
    /// When it has none, more than one, or a malformed one.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, NoPeerId> {
        use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| NoPeerId::Malformed)?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|_| NoPeerId::Malformed)?
            .ok_or(NoPeerId::Missing)?;
        let mut ids = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with("meridian://") => Some(*uri),
            _ => None,
        });
        match (ids.next(), ids.next()) {
            (Some(uri), None) => uri.parse(),
            (None, _) => Err(NoPeerId::Missing),
            (Some(_), Some(_)) => Err(NoPeerId::Several),
        }
    }
}

/// Why a certificate speaks for nobody.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoPeerId {
    /// No URI SAN of ours.
    #[error("the certificate has no URI SAN meridian://<region>/<service>")]
    Missing,
    /// More than one.
    #[error("the certificate claims more than one identity")]
    Several,
    /// It cannot be read.
    #[error("the certificate's identity is malformed")]
    Malformed,
}

impl FromStr for PeerId {
    type Err = NoPeerId;

    fn from_str(text: &str) -> Result<Self, NoPeerId> {
        let (region, service) = text
            .strip_prefix("meridian://")
            .and_then(|rest| rest.split_once('/'))
            .ok_or(NoPeerId::Malformed)?;
        let region = region.parse().map_err(|_| NoPeerId::Malformed)?;
        let well_formed = (1..=40).contains(&service.len())
            && service
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !well_formed {
            return Err(NoPeerId::Malformed);
        }
        Ok(Self {
            region,
            service: service.to_owned(),
        })
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "meridian://{}/{}", self.region, self.service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_a_region_and_a_service() {
        let id: PeerId = "meridian://eu/training".parse().expect("valid");
        assert_eq!(id.to_string(), "meridian://eu/training");
        for text in [
            "meridian://eu",
            "meridian:///x",
            "meridian://eu/",
            "meridian://eu/a/b",
            "meridian://eu/A",
            "https://eu/a",
        ] {
            assert!(text.parse::<PeerId>().is_err(), "{text}");
        }
    }
}
