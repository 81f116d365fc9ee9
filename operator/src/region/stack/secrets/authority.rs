//! A region's certificate authority and the certificates it issues. ECDSA P-256, 90 days, renewed after 60.

use super::Data;
use jiff::Timestamp;
use meridian_policy::RegionName;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::RootCertStore;
use rustls::server::ParsedCertificate;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use std::collections::BTreeSet;
use std::time::Duration;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use x509_parser::pem::parse_x509_pem;

const DAY: u64 = 24 * 60 * 60;
const CA_DAYS: u64 = 3650;
/// The age at which it is replaced by another: half of its life, so that there is all the time in the world to tell peers.
const CA_RENEWED_AFTER: i64 = 1825 * 24 * 60 * 60;
/// With so little of its life left, a rotation waits no longer for peers that do not answer.
const CA_ENDS: i64 = 30 * 24 * 60 * 60;
const LEAF_DAYS: u64 = 90;
/// Clocks of nodes differ: a certificate is valid a little before it was made.
const BACKDATED: u64 = 5 * 60;

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The library refused.
    #[error("certificate {name} cannot be made: {cause}")]
    Make {
        /// Which.
        name: String,
        /// Why.
        cause: String,
    },
    /// The stored CA is damaged. Nothing is replaced by itself: every peer pins this CA.
    #[error(
        "Secret region-ca of region {region} is damaged ({cause}); restore it, or delete it to have the region trusted anew by its peers"
    )]
    DamagedAuthority {
        /// Whose.
        region: String,
        /// What is wrong.
        cause: String,
    },
}

/// A certificate that a stack needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Name of its Secret.
    pub secret: String,
    /// DNS names.
    pub dns: Vec<String>,
    /// Identity, `meridian://<region>/<service>`; none for certificates that only browsers see.
    pub uri: Option<String>,
}

/// A CA of a region.
pub struct Authority {
    certificate: String,
    key: KeyPair,
    from: i64,
    until: i64,
}

/// A point in time as rcgen wants it, seconds after the epoch.
macro_rules! at {
    ($second:expr) => {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs($second)
    };
}

fn seconds(now: Timestamp) -> u64 {
    u64::try_from(now.as_second()).unwrap_or(0)
}

impl Authority {
    /// Makes a new CA.
    ///
    /// # Errors
    /// When the library refuses, which it does for no valid region name.
    pub fn new(region: &RegionName, now: Timestamp) -> Result<Self, CertificateError> {
        let failed = |e: rcgen::Error| CertificateError::Make {
            name: super::REGION_CA.to_owned(),
            cause: e.to_string(),
        };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::default();
        // Two that follow one another have different names: who verifies finds the right one at once.
        params.distinguished_name = name(&format!("Meridian region {region} {}", now.as_second()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = at!(seconds(now).saturating_sub(BACKDATED));
        params.not_after = at!(seconds(now) + CA_DAYS * DAY);
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        let now = now.as_second();
        Ok(Self {
            certificate,
            key,
            from: now - BACKDATED.cast_signed(),
            until: now + (CA_DAYS * DAY).cast_signed(),
        })
    }

    /// Reads a CA from its Secret's content: `<stem>.crt` and `<stem>.key`.
    ///
    /// # Errors
    /// [`CertificateError::DamagedAuthority`] when it is not whole.
    pub fn read(region: &RegionName, data: &Data, stem: &str) -> Result<Self, CertificateError> {
        let (crt, key) = (format!("{stem}.crt"), format!("{stem}.key"));
        let damaged = |cause: &str| CertificateError::DamagedAuthority {
            region: region.to_string(),
            cause: cause.to_owned(),
        };
        let text = |key: &str| {
            data.get(key)
                .and_then(|v| std::str::from_utf8(v).ok())
                .ok_or_else(|| damaged(&format!("no {key}")))
        };
        let certificate = text(&crt)?.to_owned();
        let pair = KeyPair::from_pem(text(&key)?).map_err(|_| damaged(&format!("{key} is no private key")))?;
        let no_certificate = || damaged(&format!("{crt} is no certificate"));
        let (_, pem) = parse_x509_pem(certificate.as_bytes()).map_err(|_| no_certificate())?;
        let parsed = pem.parse_x509().map_err(|_| no_certificate())?;
        if parsed.public_key().subject_public_key.data.as_ref() != pair.public_key_raw() {
            return Err(damaged(&format!("{key} does not belong to {crt}")));
        }
        Ok(Self {
            certificate,
            key: pair,
            from: parsed.validity().not_before.timestamp(),
            until: parsed.validity().not_after.timestamp(),
        })
    }

    /// Content of the Secret that keeps it: `<stem>.crt` and `<stem>.key`.
    #[must_use]
    pub fn data(&self, stem: &str) -> Data {
        Data::from([
            (format!("{stem}.crt"), self.certificate.clone().into_bytes()),
            (format!("{stem}.key"), self.key.serialize_pem().into_bytes()),
        ])
    }

    /// The CA's certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Whether its time has come to be replaced.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        now.as_second() >= self.from.saturating_add(CA_RENEWED_AFTER)
    }

    /// Whether too little of its life is left to wait for anybody.
    #[must_use]
    pub fn is_ending(&self, now: Timestamp) -> bool {
        now.as_second() >= self.until.saturating_sub(CA_ENDS)
    }

    /// Whether nobody trusts it any more.
    #[must_use]
    pub fn has_expired(&self, now: Timestamp) -> bool {
        now.as_second() >= self.until
    }

    /// Whether it has issued this certificate, which is valid now.
    fn has_issued(&self, certificate: &CertificateDer<'_>, now: Timestamp) -> bool {
        let verified = || {
            let mut roots = RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_slice(self.certificate.as_bytes()).ok()?)
                .ok()?;
            let (parsed, now) = (
                ParsedCertificate::try_from(certificate).ok()?,
                UnixTime::since_unix_epoch(Duration::from_secs(seconds(now))),
            );
            let all = meridian_kit::tls::algorithms().all;
            rustls::client::verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], now, all).ok()
        };
        verified().is_some()
    }

    /// Issues a certificate with a new key; content of its Secret. `bundle` is what its holder trusts.
    ///
    /// # Errors
    /// When a name is not valid in a certificate.
    pub fn issue(&self, wanted: &Wanted, bundle: &str, now: Timestamp) -> Result<Data, CertificateError> {
        let failed = |cause: String| CertificateError::Make {
            name: wanted.secret.clone(),
            cause,
        };
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, &self.key).map_err(|e| failed(e.to_string()))?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| failed(e.to_string()))?;
        let mut params = CertificateParams::new(wanted.dns.clone()).map_err(|e| failed(e.to_string()))?;
        params.distinguished_name = name(&wanted.secret);
        if let Some(uri) = &wanted.uri {
            let uri = uri
                .as_str()
                .try_into()
                .map_err(|e: rcgen::Error| failed(e.to_string()))?;
            params.subject_alt_names.push(SanType::URI(uri));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = at!(seconds(now).saturating_sub(BACKDATED));
        params.not_after = at!(seconds(now) + LEAF_DAYS * DAY);
        let certificate = params.signed_by(&key, &issuer).map_err(|e| failed(e.to_string()))?;
        Ok(Data::from([
            ("tls.crt".to_owned(), certificate.pem().into_bytes()),
            ("tls.key".to_owned(), key.serialize_pem().into_bytes()),
            ("ca.crt".to_owned(), bundle.as_bytes().to_vec()),
        ]))
    }
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Meridian");
    name.push(DnType::CommonName, common);
    name
}

/// When an issued certificate is due for renewal; `None` when it must be made anew now: missing, damaged, with other
/// names than wanted, from another CA, or past two thirds of its life.
#[must_use]
pub fn renew_at(data: &Data, wanted: &Wanted, authority: &Authority, now: Timestamp) -> Option<Timestamp> {
    let key = data.get("tls.key").and_then(|v| std::str::from_utf8(v).ok())?;
    let key = KeyPair::from_pem(key).ok()?;
    let der = CertificateDer::from_pem_slice(data.get("tls.crt")?).ok()?;
    if !authority.has_issued(&der, now) {
        return None;
    }
    let (_, certificate) = parse_x509_certificate(&der).ok()?;
    if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return None;
    }
    let names = certificate.subject_alternative_name().ok()??;
    let (mut dns, mut uris) = (BTreeSet::new(), BTreeSet::new());
    for general in &names.value.general_names {
        match general {
            GeneralName::DNSName(name) => _ = dns.insert((*name).to_owned()),
            GeneralName::URI(uri) => _ = uris.insert((*uri).to_owned()),
            _ => return None,
        }
    }
    if dns != wanted.dns.iter().cloned().collect() || uris != wanted.uri.iter().cloned().collect() {
        return None;
    }
    let (from, until) = (
        certificate.validity().not_before.timestamp(),
        certificate.validity().not_after.timestamp(),
    );
    let due = Timestamp::from_second(from + (until - from) / 3 * 2).ok()?;
    (due > now).then_some(due)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T00:00:00Z".parse().unwrap()
    }

    fn region() -> RegionName {
        "eu".parse().unwrap()
    }

    fn wanted() -> Wanted {
        Wanted {
            secret: "tls-identity".into(),
            dns: vec!["identity".into()],
            uri: Some("meridian://eu/identity".into()),
        }
    }

    fn days(days: i64) -> Timestamp {
        Timestamp::from_second(now().as_second() + days * 86_400).unwrap()
    }

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_90_days() {
        let authority = Authority::new(&region(), now()).unwrap();
        let data = authority.issue(&wanted(), authority.certificate(), now()).unwrap();
        let due = renew_at(&data, &wanted(), &authority, now()).unwrap();
        assert!(due > days(59) && due < days(61), "{due}");
        assert!(renew_at(&data, &wanted(), &authority, days(61)).is_none());
    }

    #[test]
    fn other_names_or_another_authority_make_it_anew() {
        let (authority, other) = (
            Authority::new(&region(), now()).unwrap(),
            Authority::new(&region(), now()).unwrap(),
        );
        let data = authority.issue(&wanted(), authority.certificate(), now()).unwrap();
        let renamed = Wanted {
            dns: vec!["identity".into(), "id".into()],
            ..wanted()
        };
        assert!(renew_at(&data, &renamed, &authority, now()).is_none());
        assert!(renew_at(&data, &wanted(), &other, now()).is_none());
        assert!(renew_at(&Data::new(), &wanted(), &authority, now()).is_none());
    }

    #[test]
    fn an_authority_comes_back_from_its_secret_and_a_mixed_up_one_is_refused() {
        let (authority, other) = (
            Authority::new(&region(), now()).unwrap(),
            Authority::new(&region(), now()).unwrap(),
        );
        let read = Authority::read(&region(), &authority.data("tls"), "tls").unwrap();
        let leaf = read.issue(&wanted(), read.certificate(), now()).unwrap();
        assert!(renew_at(&leaf, &wanted(), &authority, now()).is_some());
        let mut mixed = authority.data("tls");
        mixed.insert("tls.key".into(), other.data("tls")["tls.key"].clone());
        assert!(matches!(
            Authority::read(&region(), &mixed, "tls"),
            Err(CertificateError::DamagedAuthority { .. })
        ));
        assert!(Authority::read(&region(), &Data::new(), "tls").is_err());
    }
}
