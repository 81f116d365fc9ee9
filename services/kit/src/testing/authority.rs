//! A region's CA and the certificates that it issues.

use std::path::Path;

use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

/// A CA that lives in memory.
pub struct Authority {
    region: String,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Authority")
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// The CA of a region.
    ///
    /// # Panics
    /// When no key can be made.
    #[must_use]
    pub fn new(region: &str) -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("{region} test CA"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self {
            region: region.to_owned(),
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// Its certificate.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.pem
    }

    /// Writes `tls.crt`, `tls.key` and `ca.crt` of a service into a folder.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn issue(&self, service: &str, dir: &Path) {
        let id = format!("meridian://{}/{service}", self.region);
        self.issue_as(service, &[&id], dir);
    }

    /// As [`Authority::issue`] with URI SANs of the test's choice, also false ones.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn issue_as(&self, service: &str, uris: &[&str], dir: &Path) {
        let names = [service, "localhost", "127.0.0.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).expect("names");
        for uri in uris {
            params
                .subject_alt_names
                .push(SanType::URI(Ia5String::try_from(*uri).expect("ASCII")));
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        std::fs::create_dir_all(dir).expect("a folder");
        let files = [
            ("tls.crt", certificate.pem()),
            ("tls.key", key.serialize_pem()),
            ("ca.crt", self.pem.clone()),
        ];
        for (name, content) in files {
            std::fs::write(dir.join(name), content).expect("a file");
        }
    }
}
