//! Whose requests are taken: those of the API server, which shows a certificate of the CA, and of one of the names, that it
//! has written into a ConfigMap for servers like this one. As long as that is not known, nobody's.

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use meridian_kit::tls::{Clients, provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, RootCertStore};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";

/// The CA of the API server's certificate, and the names that it may have.
#[derive(Clone, Debug)]
struct Trust {
    clients: Arc<dyn ClientCertVerifier>,
    /// Common names; when there are none, any.
    names: Vec<String>,
}

impl Trust {
    fn read(config: &ConfigMap) -> Result<Self, String> {
        let text = |key: &str| config.data.as_ref().and_then(|data| data.get(key)).map(String::as_str);
        let pem = text("requestheader-client-ca-file").ok_or("it names no CA: the API server aggregates no APIs")?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| format!("its CA is not PEM: {error}"))?;
            roots.add(certificate).map_err(|error| error.to_string())?;
        }
        let names = text("requestheader-allowed-names").unwrap_or("[]");
        Ok(Self {
            clients: WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .build()
                .map_err(|error| error.to_string())?,
            names: serde_json::from_str(names).map_err(|error| format!("its names cannot be read: {error}"))?,
        })
    }

    fn has_a_name(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
            return false;
        };
        let names = parsed.subject().iter_common_name();
        let mut names = names.filter_map(|name| name.as_str().ok());
        self.names.is_empty() || names.any(|name| self.names.iter().any(|known| known == name))
    }
}

/// Verifies the API server; nobody before it is known how.
#[derive(Debug, Default)]
pub(super) struct FrontProxy(RwLock<Option<Trust>>);

impl FrontProxy {
    fn set(&self, trust: Option<Trust>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = trust;
    }

    fn get(&self) -> Option<Trust> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn learn(&self, config: &ConfigMap) {
        match Trust::read(config) {
            Ok(trust) => self.set(Some(trust)),
            Err(cause) => {
                self.set(None);
                tracing::error!(resource = NAME, error = %cause, "no request for metrics is taken");
            }
        }
    }

    /// Follows what the API server says of itself.
    pub(super) async fn follow(self: Arc<Self>, client: Client) -> Infallible {
        let config: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
        let only_this = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
        let mut changes = pin!(watcher(config, only_this).default_backoff());
        let mut listed = false;
        loop {
            match changes.next().await {
                Some(Ok(watcher::Event::Init)) => listed = false,
                Some(Ok(watcher::Event::InitApply(config) | watcher::Event::Apply(config))) => {
                    listed = true;
                    self.learn(&config);
                }
                Some(Ok(watcher::Event::Delete(_))) => self.set(None),
                Some(Ok(watcher::Event::InitDone)) if !listed => self.set(None),
                Some(Ok(watcher::Event::InitDone)) => {}
                Some(Err(error)) => tracing::warn!(resource = NAME, error = %error, "watch failed; it is tried again"),
                None => std::future::pending().await,
            }
        }
    }
}

impl Clients for FrontProxy {
    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let refused = rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        let trust = self
            .get()
            .filter(|trust| trust.has_a_name(certificate))
            .ok_or(refused)?;
        trust.clients.verify_client_cert(certificate, intermediates, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
    use serde_json::json;

    struct Authority {
        pem: String,
        issuer: Issuer<'static, KeyPair>,
    }

    fn authority() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Authority {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    fn certificate(authority: &Authority, name: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, &authority.issuer).unwrap().der().clone()
    }

    fn config(pem: &str, names: &str) -> ConfigMap {
        let data = json!({"requestheader-client-ca-file": pem, "requestheader-allowed-names": names});
        serde_json::from_value(json!({"data": data})).unwrap()
    }

    fn takes(proxy: &FrontProxy, certificate: &CertificateDer<'_>) -> bool {
        proxy.verify(certificate, &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn nobody_is_taken_before_it_is_known_who_the_api_server_is() {
        let ca = authority();
        let proxy = FrontProxy::default();
        assert!(!takes(&proxy, &certificate(&ca, "front-proxy-client")));
        proxy.learn(&config(&ca.pem, r#"["front-proxy-client"]"#));
        assert!(takes(&proxy, &certificate(&ca, "front-proxy-client")));
        proxy.learn(&ConfigMap::default());
        assert!(
            !takes(&proxy, &certificate(&ca, "front-proxy-client")),
            "nor when it is said no more"
        );
    }

    #[test]
    fn another_name_or_another_ca_is_refused() {
        let (ca, other) = (authority(), authority());
        let proxy = FrontProxy::default();
        proxy.learn(&config(&ca.pem, r#"["front-proxy-client"]"#));
        assert!(!takes(&proxy, &certificate(&ca, "admin")));
        assert!(!takes(&proxy, &certificate(&other, "front-proxy-client")));
    }

    #[test]
    fn an_api_server_that_names_no_names_is_known_by_its_ca_alone() {
        let (ca, other) = (authority(), authority());
        let proxy = FrontProxy::default();
        proxy.learn(&config(&ca.pem, "[]"));
        assert!(takes(&proxy, &certificate(&ca, "any")) && !takes(&proxy, &certificate(&other, "any")));
        proxy.learn(&config(&ca.pem, "not json"));
        assert!(!takes(&proxy, &certificate(&ca, "any")));
    }
}
