//! The real gateway in front of small real services, and a client that decides about each byte.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use meridian_kit::config::Config;
use meridian_kit::testing::Region;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub const HOST: &str = "eu.meridian.test";
const PATIENCE: Duration = Duration::from_secs(60);

/// Two regions that are peers, and the gateway of the first.
pub struct Edge {
    pub eu: Region,
    pub us: Region,
    pub address: SocketAddr,
    pub certificate: Vec<u8>,
    pub stop: tokio_util::sync::CancellationToken,
    public: tempfile::TempDir,
}

impl Edge {
    pub async fn new() -> Self {
        Self::configured(|_| {}).await
    }

    pub async fn configured(change: impl FnOnce(&mut Config)) -> Self {
        let eu = Region::new("eu", &["stride-eu"]).await;
        let us = Region::new("us", &["stride-us"]).await;
        eu.add_peer(&us);
        eu.change_policy(|policy| {
            policy.directory = serde_json::from_value(serde_json::json!([
                {"region": "eu", "public_url": "https://eu.meridian.test", "countries": ["DE", "FR"]},
                {"region": "us", "public_url": "https://us.meridian.test", "countries": ["US"]},
            ]))
            .unwrap();
        });
        let public = tempfile::tempdir().unwrap();
        let certificate = new_certificate(public.path());
        let start = eu.start_with("gateway", change);
        let stop = start.stop();
        let address = start.config().listen;
        let dir = public.path().to_owned();
        eu.run_start(start, move |start| meridian_gateway::run_with(start, dir))
            .await;
        Self {
            eu,
            us,
            address,
            certificate,
            stop,
            public,
        }
    }

    /// Replaces the public certificate on the disk, and the one that the clients of this edge trust.
    pub fn replace_certificate(&mut self) {
        self.certificate = new_certificate(self.public.path());
    }

    /// With an echo in the place of these services.
    pub async fn with_echo(services: &[&'static str]) -> Self {
        let edge = Self::new().await;
        for service in services {
            edge.eu.serve(service, echoes()).await;
        }
        edge
    }

    pub fn http(&self) -> reqwest::Client {
        self.client_builder().build().unwrap()
    }

    pub fn client_builder(&self) -> reqwest::ClientBuilder {
        let certificate = reqwest::Certificate::from_pem(&self.certificate).unwrap();
        reqwest::Client::builder()
            .tls_certs_only([certificate])
            .no_proxy()
            .resolve(HOST, self.address)
            .timeout(PATIENCE)
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{HOST}:{}{path}", self.address.port())
    }

    pub async fn tls(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(&self.certificate).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from(HOST).unwrap(), stream)
            .await
    }

    /// Sends exactly these bytes and reads until the gateway closes.
    pub async fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.tls(&[&rustls::version::TLS13]).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        Answer::read(&mut stream).await
    }
}

fn new_certificate(dir: &Path) -> Vec<u8> {
    let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
    std::fs::write(dir.join("tls.crt"), made.cert.pem()).unwrap();
    std::fs::write(dir.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    made.cert.pem().into_bytes()
}

/// An answer, byte by byte.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub async fn read(stream: &mut TlsStream<TcpStream>) -> Self {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
        assert!(
            read.is_ok(),
            "the gateway did not close: {}",
            String::from_utf8_lossy(&bytes)
        );
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Self {
        let end = bytes
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .expect("the end of a head");
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| {
            line.split_once(": ")
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        };
        let headers = lines.filter_map(header).collect();
        Self {
            status,
            headers,
            body: bytes[end + 4..].to_vec(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&self.body)))
    }
}

/// Answers everything with what it was sent.
pub fn echoes() -> Router {
    Router::new()
        .route("/{*path}", axum::routing::any(echo))
        .layer(axum::extract::DefaultBodyLimit::disable())
}

async fn echo(request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let headers: serde_json::Map<String, serde_json::Value> = head
        .headers
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned().into(),
            )
        })
        .collect();
    let seen = serde_json::json!({
        "method": head.method.as_str(), "uri": head.uri.to_string(), "headers": headers, "bytes": body.len(),
    });
    ([("server", "secret/1.0"), ("x-powered-by", "axum")], Json(seen)).into_response()
}
