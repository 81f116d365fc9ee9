//! The public listener: TLS 1.3 and nothing older, ended here, in the jurisdiction of the region.
//!
//! pingora's own listener would also offer TLS 1.2, so connections are accepted here and handed to its proxy.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use pingora::apps::ServerApp;
use pingora::listeners::tls::Acceptor;
use pingora::protocols::l4::stream::Stream as L4Stream;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once; the next wait in the kernel's queue.
const CONNECTIONS: usize = 4096;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long requests may go on after the process was told to stop.
const DRAIN: Duration = Duration::from_secs(10);
/// How long and how much of what a client still sends is thrown away, so that it gets to read its answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1024 * 1024;
const RELOAD_EVERY: Duration = Duration::from_secs(5);

/// Why the public listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The certificate cannot be used.
    #[error("{path} {problem}; mount the secret tls-gateway-public at MERIDIAN_PUBLIC_TLS_DIR")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// The public certificate, read again when its files change.
#[derive(Debug)]
pub struct PublicCertificate {
    dir: PathBuf,
    key: RwLock<Arc<CertifiedKey>>,
}

impl PublicCertificate {
    /// Reads `tls.crt` and `tls.key` of a folder.
    ///
    /// # Errors
    /// When they are missing or do not fit.
    pub fn load(dir: &Path) -> Result<Self, ListenerError> {
        Ok(Self {
            dir: dir.to_owned(),
            key: RwLock::new(Arc::new(read_key(dir)?)),
        })
    }

    /// Keeps reading the files again until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(RELOAD_EVERY);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            match read_key(&self.dir) {
                Ok(key) => *self.key.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key),
                Err(error) => tracing::warn!(%error, "the new public certificate cannot be used; the old one stays"),
            }
        }
    }
}

impl ResolvesServerCert for PublicCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.key.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn read_key(dir: &Path) -> Result<CertifiedKey, ListenerError> {
    let wrong = |name: &str, problem: String| ListenerError::Certificate {
        path: dir.join(name),
        problem,
    };
    let read =
        |name: &str| std::fs::read(dir.join(name)).map_err(|error| wrong(name, format!("cannot be read: {error}")));
    let chain = CertificateDer::pem_slice_iter(&read("tls.crt")?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong("tls.crt", format!("is not PEM: {error}")))?;
    let key = PrivateKeyDer::from_pem_slice(&read("tls.key")?)
        .map_err(|error| wrong("tls.key", format!("holds no private key: {error}")))?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider())
        .map_err(|error| wrong("tls.key", format!("does not fit tls.crt: {error}")))
}

/// What the public side offers: TLS 1.3 on aws-lc-rs, no client certificates, HTTP/2 and HTTP/1.1.
///
/// # Errors
/// When rustls refuses the set-up.
pub fn public_tls(certificate: Arc<PublicCertificate>) -> Result<Arc<rustls::ServerConfig>, ListenerError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Hands connections to `app` until `stop`, then lets open requests finish.
///
/// # Errors
/// None at present: a connection that fails ends alone.
pub async fn serve<A>(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    app: Arc<A>,
    stop: CancellationToken,
) -> Result<(), std::convert::Infallible>
where
    A: ServerApp + Send + Sync + 'static,
{
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let open = TaskTracker::new();
    let (stopping, stopped) = watch::channel(false);
    loop {
        let accepted = async { (Arc::clone(&slots).acquire_owned().await, listener.accept().await) };
        let Some((slot, accepted)) = stop.run_until_cancelled(accepted).await else {
            break;
        };
        match accepted {
            Ok((stream, _)) => {
                let (app, tls, stopped) = (Arc::clone(&app), Arc::clone(&tls), stopped.clone());
                open.spawn(async move {
                    let _slot = slot;
                    connection(stream, tls, app, stopped).await;
                });
            }
            // Out of file descriptors, or the client left before it was accepted: both pass.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    // Nobody listens to it once the last connection is gone.
    let _ = stopping.send(true);
    app.cleanup().await;
    open.close();
    if tokio::time::timeout(DRAIN, open.wait()).await.is_err() {
        tracing::warn!(count = open.len(), "requests were still open when the drain ended");
    }
    Ok(())
}

async fn connection<A>(stream: TcpStream, tls: Arc<rustls::ServerConfig>, app: Arc<A>, stopped: watch::Receiver<bool>)
where
    A: ServerApp + Send + Sync + 'static,
{
    let Some((stream, socket)) = with_second_handle(stream) else {
        return;
    };
    let acceptor = Acceptor::from_server_config(tls);
    let handshake = acceptor.tls_handshake(L4Stream::from(stream));
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, handshake).await else {
        return;
    };
    app.process_new(Box::new(stream), &stopped).await;
    linger(socket).await;
}

/// The same socket twice: one for the proxy, which closes its own when it is done, and one to end the connection with.
fn with_second_handle(stream: TcpStream) -> Option<(TcpStream, TcpStream)> {
    let _ = stream.set_nodelay(true);
    let first = stream.into_std().ok()?;
    let second = first.try_clone().ok()?;
    Some((TcpStream::from_std(first).ok()?, TcpStream::from_std(second).ok()?))
}

/// Waits for the client to close, throwing away what it still sends. A socket closed with unread bytes is reset, and a
/// reset can destroy an answer that the client has not read yet. What is thrown away here is ciphertext: the body of a
/// request that was refused is never decrypted.
async fn linger(mut socket: TcpStream) {
    let mut dropped = 0;
    let mut buffer = vec![0; 16 * 1024];
    let until_closed = async {
        while dropped < LINGER_BYTES {
            match socket.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => dropped += count,
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, until_closed).await;
}
