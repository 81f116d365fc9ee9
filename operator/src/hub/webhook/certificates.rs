//! The webhook's certificate and what is trusted, as the Secret holds them, and which step comes next. Pure.
//!
//! Each certificate has a CA of its own, whose key is thrown away once it has signed: nobody who reads the Secret can
//! issue another. So a new certificate is a new CA, and one order serves both:
//!
//! | the Secret holds | the configuration trusts | served |
//! |---|---|---|
//! | `tls.*`, `ca.crt` of one CA | it | `tls.crt` |
//! | and `next.*` | both | `tls.crt`, of the old one |
//! | `tls.*` of the new one, `ca.crt` of two | both | `tls.crt`, of the new one |
//! | `tls.*`, `ca.crt` of one CA | it | `tls.crt` |
//!
//! From one row to the next is one write, so whoever leads next finds out from the content where to go on.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use meridian_kit::tls::provider;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use serde_json::{Value, json};
use x509_parser::parse_x509_certificate;

use super::SERVICE;
use crate::rotation::blocks;

const DAY: u64 = 24 * 60 * 60;
/// How long a certificate and its CA are valid.
const LIFE: u64 = 90 * DAY;
/// The age at which they are replaced; so is anything that was made to live longer.
const RENEW_AFTER: i64 = 60 * 24 * 60 * 60;
/// Clocks differ: a certificate is valid a little before it was made.
const BACKDATED: u64 = 5 * 60;

/// A certificate, its key and its CA.
#[derive(Clone)]
pub(super) struct Issued {
    certificate: String,
    key: String,
    /// PEM, one certificate.
    pub(super) ca: String,
    from: Timestamp,
    until: Timestamp,
    /// The same, as TLS wants it.
    pub(super) tls: Arc<CertifiedKey>,
}

impl Issued {
    /// Makes a new one.
    ///
    /// # Errors
    /// When the library refuses, which it does for no valid namespace.
    pub(super) fn new(namespace: &str, now: Timestamp) -> Result<Self, String> {
        let (certificate, key, ca) = make(namespace, now).map_err(|error| error.to_string())?;
        Self::of(certificate, key, &ca, namespace)
    }

    /// What belongs together: the key to the certificate, and the certificate to one of the CAs and to the Service's name.
    fn of(certificate: String, key: String, cas: &str, namespace: &str) -> Result<Self, String> {
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| "the certificate is not PEM")?;
        let leaf = chain.first().cloned().ok_or("there is no certificate")?;
        let secret = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| "the key is no private key")?;
        let provider = provider();
        let tls = CertifiedKey::from_der(chain, secret, &provider)
            .map_err(|error| format!("the key and the certificate do not belong together: {error}"))?;
        let (_, parsed) = parse_x509_certificate(&leaf).map_err(|_| "the certificate cannot be read")?;
        let at = |seconds: i64| Timestamp::from_second(seconds).map_err(|error| error.to_string());
        let (from, until) = (
            at(parsed.validity().not_before.timestamp())?,
            at(parsed.validity().not_after.timestamp())?,
        );
        let ca = blocks(cas)
            .into_iter()
            .find(|ca| issued_by(&leaf, ca, namespace, from, &provider))
            .ok_or_else(|| format!("no CA in it has issued the certificate for {}", name(namespace)))?;
        Ok(Self {
            certificate,
            key,
            ca,
            from,
            until,
            tls: Arc::new(tls),
        })
    }

    fn is_due(&self, now: Timestamp) -> bool {
        now.as_second() >= self.from.as_second().saturating_add(RENEW_AFTER)
    }
}

/// What the Secret holds.
#[derive(Clone)]
pub(super) struct Stored {
    /// What is served.
    pub(super) served: Issued,
    /// What will be, once its CA is trusted.
    pub(super) next: Option<Issued>,
    /// The CA of what is served, and of what was served before; PEM.
    trusted: Vec<String>,
}

/// The next write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// None.
    Wait,
    /// The certificate has expired, so nobody trusts it: a new one takes its place at once.
    Replace,
    /// A new certificate, and a CA that is to be trusted beside the old one.
    Stage,
    /// The new certificate is served.
    Promote,
    /// The old CA is trusted no more.
    Retire,
}

impl Stored {
    /// Reads the Secret.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(secret: &Secret, namespace: &str) -> Result<Self, String> {
        let text = |key: &str| {
            let data = secret.data.as_ref().and_then(|data| data.get(key));
            data.map(|value| String::from_utf8(value.0.clone()).map_err(|_| format!("{key} is not text")))
                .transpose()
        };
        let needed = |key: &str| text(key)?.ok_or_else(|| format!("{key} is missing"));
        let of = |certificate: &str, key: &str, cas: &str| {
            Issued::of(needed(certificate)?, needed(key)?, &needed(cas)?, namespace)
                .map_err(|cause| format!("{certificate}, {key} and {cas}: {cause}"))
        };
        let staged = ["next.crt", "next.key", "next-ca.crt"];
        let next = match staged.iter().any(|key| !matches!(text(key), Ok(None))) {
            true => Some(of("next.crt", "next.key", "next-ca.crt")?),
            false => None,
        };
        Ok(Self {
            served: of("tls.crt", "tls.key", "ca.crt")?,
            next,
            trusted: blocks(&needed("ca.crt")?),
        })
    }

    /// A certificate that nothing came before.
    pub(super) fn first(served: Issued) -> Self {
        Self {
            trusted: vec![served.ca.clone()],
            served,
            next: None,
        }
    }

    /// The same, with what comes next.
    pub(super) fn staged(&self, next: Issued) -> Self {
        Self {
            next: Some(self.next.clone().unwrap_or(next)),
            ..self.clone()
        }
    }

    /// What the API server has to trust now: everything that is served, was served, or will be.
    pub(super) fn bundle(&self) -> String {
        let mut bundle = self.trusted.clone();
        bundle.extend(self.next.iter().map(|next| next.ca.clone()));
        bundle.concat()
    }

    /// The step that is due. `stands`: everybody has had the time to see the last one.
    pub(super) fn step(&self, asked: bool, stands: bool, now: Timestamp) -> Step {
        if self.served.until <= now {
            return Step::Replace;
        }
        let two = self.trusted.len() > 1;
        match &self.next {
            Some(_) if stands => Step::Promote,
            None if two && stands => Step::Retire,
            None if !two && (asked || self.served.is_due(now)) => Step::Stage,
            _ => Step::Wait,
        }
    }

    /// What the Secret holds after a step; `new` is for the steps that need one.
    pub(super) fn after(&self, step: Step, new: impl FnOnce() -> Result<Issued, String>) -> Result<Self, String> {
        Ok(match (step, &self.next) {
            (Step::Replace, _) => Self::first(new()?),
            (Step::Stage, _) => self.staged(new()?),
            (Step::Promote, Some(next)) => Self {
                served: next.clone(),
                next: None,
                trusted: [vec![next.ca.clone()], self.trusted.clone()].concat(),
            },
            (Step::Retire, _) => Self::first(self.served.clone()),
            (Step::Wait | Step::Promote, _) => self.clone(),
        })
    }

    /// Content of the Secret, as a merge patch or to create it from.
    pub(super) fn content(&self) -> Value {
        let mut text =
            json!({"tls.crt": self.served.certificate, "tls.key": self.served.key, "ca.crt": self.trusted.concat()});
        match &self.next {
            Some(next) => {
                text["next.crt"] = json!(next.certificate);
                text["next.key"] = json!(next.key);
                text["next-ca.crt"] = json!(next.ca);
                json!({"stringData": text})
            }
            None => json!({"stringData": text, "data": {"next.crt": null, "next.key": null, "next-ca.crt": null}}),
        }
    }

    /// Whether the Secret holds the same.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.content() == other.content()
    }
}

/// The name that the API server expects.
fn name(namespace: &str) -> String {
    format!("{SERVICE}.{namespace}.svc")
}

/// Whether the API server would accept this certificate from the Service, trusting only this CA.
fn issued_by(
    leaf: &CertificateDer<'_>,
    ca: &str,
    namespace: &str,
    at: Timestamp,
    provider: &Arc<CryptoProvider>,
) -> bool {
    let verified = || {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).ok()?).ok()?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let expected = ServerName::try_from(name(namespace)).ok()?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0)));
        let verifier = verifier.build().ok()?;
        verifier.verify_server_cert(leaf, &[], &expected, &[], at).ok()
    };
    verified().is_some()
}

fn make(namespace: &str, now: Timestamp) -> Result<(String, String, String), rcgen::Error> {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let second = u64::try_from(now.as_second()).unwrap_or(0);
    let from = epoch + Duration::from_secs(second.saturating_sub(BACKDATED));
    let until = epoch + Duration::from_secs(second + LIFE);
    let mut ca = CertificateParams::default();
    ca.distinguished_name = DistinguishedName::new();
    ca.distinguished_name
        .push(DnType::CommonName, format!("meridian webhook {now}"));
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (ca.not_before, ca.not_after) = (from, until);
    let ca_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);
    let mut params = CertificateParams::new(vec![name(namespace), format!("{}.cluster.local", name(namespace))])?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, SERVICE);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = (from, until);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok((certificate.pem(), key.serialize_pem(), ca_certificate.pem()))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T00:00:00Z".parse().unwrap()
    }

    fn days(days: i64) -> Timestamp {
        Timestamp::from_second(now().as_second() + days * 86_400).unwrap()
    }

    fn new() -> Result<Issued, String> {
        Issued::new("system", now())
    }

    fn secret(stored: &Stored) -> Secret {
        let content = stored.content();
        let text = content["stringData"].as_object().unwrap().iter();
        Secret {
            data: Some(
                text.map(|(key, value)| (key.clone(), ByteString(value.as_str().unwrap().into())))
                    .collect(),
            ),
            ..Secret::default()
        }
    }

    fn read(stored: &Stored) -> Stored {
        Stored::read(&secret(stored), "system").unwrap()
    }

    #[test]
    fn a_rotation_goes_on_from_what_is_stored_and_what_is_served_is_always_trusted() {
        let mut stored = Stored::first(new().unwrap());
        let old = stored.served.ca.clone();
        assert_eq!(stored.step(false, true, days(59)), Step::Wait);
        for (asked, step, cas) in [
            (true, Step::Stage, 2),
            (false, Step::Promote, 2),
            (false, Step::Retire, 1),
        ] {
            assert_eq!(stored.step(asked, true, days(1)), step);
            if step != Step::Stage {
                assert_eq!(stored.step(true, false, days(1)), Step::Wait, "it does not stand yet");
            }
            let before = stored.bundle();
            let after = stored.after(step, new).unwrap();
            assert!(after.bundle().contains(&after.served.ca));
            assert!(
                step != Step::Promote || before == stored.bundle() && before.contains(&after.served.ca),
                "trusted before it is served"
            );
            stored = read(&after);
            assert!(stored.is(&after));
            assert_eq!(blocks(&stored.bundle()).len(), cas);
        }
        assert_eq!(stored.step(false, true, days(1)), Step::Wait);
        assert_ne!(stored.served.ca, old);
    }

    #[test]
    fn a_certificate_is_replaced_after_60_of_its_90_days_and_one_that_has_expired_at_once() {
        let stored = Stored::first(new().unwrap());
        assert_eq!(stored.step(false, false, days(60)), Step::Stage);
        assert_eq!(stored.step(false, false, days(90)), Step::Replace);
    }

    #[test]
    fn one_of_a_version_that_made_them_for_ever_is_read_and_replaced() {
        let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let trusted = ca.self_signed(&ca_key).unwrap().pem();
        let params = CertificateParams::new(vec![name("system")]).unwrap();
        let certificate = params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap().pem();
        let old = Issued::of(certificate, key.serialize_pem(), &trusted, "system").unwrap();
        assert_eq!(Stored::first(old).step(false, false, now()), Step::Stage);
    }

    #[test]
    fn what_does_not_belong_together_is_refused_with_what_is_wrong() {
        let (one, other) = (Stored::first(new().unwrap()), Stored::first(new().unwrap()));
        let refused = |change: &dyn Fn(&mut std::collections::BTreeMap<String, ByteString>)| {
            let mut secret = secret(&one);
            change(secret.data.as_mut().unwrap());
            Stored::read(&secret, "system").err().unwrap()
        };
        let text = |text: &str| ByteString(text.into());
        for (key, value, expected) in [
            ("tls.crt", text("garbage"), "there is no certificate"),
            ("tls.key", text("garbage"), "the key is no private key"),
            ("tls.key", text(&other.served.key), "do not belong together"),
            ("ca.crt", text(&other.served.ca), "no CA in it has issued"),
            ("ca.crt", ByteString(vec![0xff]), "ca.crt is not text"),
            ("next.crt", text("garbage"), "next.key is missing"),
        ] {
            let sentence = refused(&|data| _ = data.insert(key.to_owned(), value.clone()));
            assert!(sentence.contains(expected), "{sentence}");
        }
        let sentence = refused(&|data| _ = data.remove("tls.key"));
        assert!(sentence.contains("tls.key is missing"), "{sentence}");
        let elsewhere = Stored::read(&secret(&one), "elsewhere").err().unwrap();
        assert!(elsewhere.contains("meridian-webhook.elsewhere.svc"), "{elsewhere}");
    }
}
