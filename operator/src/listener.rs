//! A listener for TLS that no slow client holds up.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// Connections that shake hands at the same time, at most.
const HANDSHAKES: usize = 64;

/// Accepts connections and shakes hands beside each other, so that one slow client holds up nobody.
pub(crate) struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    handshakes: JoinSet<Option<(TlsStream<TcpStream>, SocketAddr)>>,
}

impl TlsListener {
    pub(crate) async fn bind(listen: SocketAddr, config: ServerConfig) -> io::Result<Self> {
        Ok(Self {
            tcp: TcpListener::bind(listen).await?,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            handshakes: JoinSet::new(),
        })
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                accepted = self.tcp.accept(), if self.handshakes.len() < HANDSHAKES => {
                    let Ok((stream, peer)) = accepted else {
                        // Out of file descriptors, or a client that left at once: neither is a reason to stop listening.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    };
                    let handshake = self.acceptor.accept(stream);
                    self.handshakes.spawn(async move {
                        let done = tokio::time::timeout(HANDSHAKE, handshake).await.ok()?.ok()?;
                        Some((done, peer))
                    });
                }
                Some(done) = self.handshakes.join_next() => {
                    if let Ok(Some(connection)) = done {
                        return connection;
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
