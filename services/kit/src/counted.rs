//! A client for another region that counts at the socket, below TLS, every byte that it sends: what evidence says of a
//! transfer is what the machine was given to send, and so the most that has left, not what somebody meant to send.
//!
//! One connection, one request at a time, no trace context: nothing of this region's requests can be linked to it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderValue, Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::counter::Counter;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::client::{ClientError, refused};
use crate::headers::{CONTENT_TYPE, HOST};
use crate::tls::{PeerId, Tls};

const CONNECT: Duration = Duration::from_secs(2);
/// A connection that was idle for longer is not used again: the other side may be about to close it.
const IDLE: Duration = Duration::from_secs(30);
/// The largest answer.
const ANSWER_LIMIT_BYTES: usize = 64 * 1024;
const HTTPS: u16 = 443;

/// What became of a request.
#[derive(Debug)]
pub struct Sent {
    /// The answer, when it is a success.
    pub answer: Result<Bytes, ClientError>,
    /// Bytes that the socket has taken since the request before, and so the most that has left: handshake, headers, body,
    /// and what TLS adds.
    pub bytes: u64,
}

/// A client for one service of another region. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct CountedClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    peer: String,
    authority: Authority,
    name: ServerName<'static>,
    connector: Connector,
    line: Mutex<Line>,
}

struct Connector {
    tls: TlsConnector,
    sent: Arc<AtomicU64>,
    total: Counter,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Connector").finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Line {
    connection: Option<Connection>,
    /// Of the bytes sent, those that were told.
    told: u64,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
    used: Instant,
}

impl CountedClient {
    /// For the service `expected` at `url`; `total` counts along.
    ///
    /// # Errors
    /// When the address is none, or TLS cannot be set up.
    pub fn new(tls: &Tls, url: &str, expected: PeerId, total: Counter) -> Result<Self, ClientError> {
        let peer = expected.service.clone();
        let setup = |problem: String| ClientError::Setup {
            peer: peer.clone(),
            problem,
        };
        let uri: Uri = url.parse().map_err(|_| setup("its address is no URL".to_owned()))?;
        let authority = uri
            .authority()
            .cloned()
            .ok_or_else(|| setup("its address has no host".to_owned()))?;
        let name = ServerName::try_from(authority.host().to_owned())
            .map_err(|_| setup("its address has no name for TLS".to_owned()))?;
        let mut config = tls.client_config(expected).map_err(|error| setup(error.to_string()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let connector = Connector {
            tls: TlsConnector::from(Arc::new(config)),
            sent: Arc::default(),
            total,
        };
        Ok(Self {
            inner: Arc::new(Inner {
                peer,
                authority,
                name,
                connector,
                line: Mutex::default(),
            }),
        })
    }

    /// Posts JSON; with what had left by then, also when there was no answer. After an error nothing of it leaves any
    /// more: the connection is closed, and what the machine still holds of it thrown away.
    pub async fn post(&self, path: &str, body: Bytes, within: Duration) -> Sent {
        let inner = &self.inner;
        let mut line = inner.line.lock().await;
        let exchange = inner.exchange(&mut line, path, body);
        let answer = tokio::time::timeout(within, exchange)
            .await
            .unwrap_or_else(|_| Err(inner.unreachable("no answer in time")));
        // Also a refusal may come before the request was read.
        if answer.is_err() {
            line.close().await;
        }
        let sent = inner.connector.sent.load(Ordering::Acquire);
        let bytes = sent - line.told;
        line.told = sent;
        Sent { answer, bytes }
    }
}

impl Line {
    /// Ends the connection; when this returns nothing more is sent.
    async fn close(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            connection.driver.abort();
            // That it was cancelled is what was asked for.
            let _ = (&mut connection.driver).await;
        }
    }
}

impl Inner {
    fn unreachable(&self, problem: impl ToString) -> ClientError {
        ClientError::Unreachable {
            peer: self.peer.clone(),
            problem: problem.to_string(),
        }
    }

    async fn exchange(&self, line: &mut Line, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let answered = match self.attempt(line, path, body.clone()).await {
            // The other side had closed what was kept: nothing of the request was read.
            Err(Failed::Unsent(_)) => {
                line.close().await;
                self.attempt(line, path, body).await
            }
            answered => answered,
        };
        answered.map_err(|failed| match failed {
            Failed::Unsent(error) | Failed::Sent(error) => error,
        })
    }

    async fn attempt(&self, line: &mut Line, path: &str, body: Bytes) -> Result<Bytes, Failed> {
        if line.connection.as_ref().is_some_and(Connection::is_stale) {
            line.close().await;
        }
        let connection = match &mut line.connection {
            Some(connection) => connection,
            empty => empty.insert(self.connect().await.map_err(Failed::Sent)?),
        };
        connection.used = Instant::now();
        let request = Request::post(path)
            .header(HOST, self.authority.as_str())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(body.clone()))
            .map_err(|error| Failed::Sent(self.unreachable(error)))?;
        let before = self.connector.sent.load(Ordering::Acquire);
        let response = connection.sender.send_request(request).await.map_err(|error| {
            let unreachable = self.unreachable(crate::problem::Chain(&error));
            if error.is_canceled() {
                Failed::Unsent(unreachable)
            } else {
                Failed::Sent(unreachable)
            }
        })?;
        let status = response.status();
        let read = Limited::new(response.into_body(), ANSWER_LIMIT_BYTES).collect().await;
        let answer = read.map_err(|error| Failed::Sent(self.unreachable(error)))?.to_bytes();
        if !status.is_success() {
            return Err(Failed::Sent(refused(self.peer.clone(), status, &answer)));
        }
        if self.connector.sent.load(Ordering::Acquire) - before < body.len() as u64 {
            return Err(Failed::Sent(ClientError::Answer {
                peer: self.peer.clone(),
                problem: "it answered before it had read the request".to_owned(),
            }));
        }
        Ok(answer)
    }

    async fn connect(&self) -> Result<Connection, ClientError> {
        let port = self.authority.port_u16().unwrap_or(HTTPS);
        let connecting = TcpStream::connect((self.authority.host(), port));
        let stream = tokio::time::timeout(CONNECT, connecting)
            .await
            .map_err(|_| self.unreachable("no connection in time"))?
            .map_err(|error| self.unreachable(error))?;
        stream.set_nodelay(true).map_err(|error| self.unreachable(error))?;
        // Closing it throws away what was written and has not left.
        stream.set_zero_linger().map_err(|error| self.unreachable(error))?;
        let counted = Counted {
            stream,
            sent: Arc::clone(&self.connector.sent),
            total: self.connector.total.clone(),
        };
        let stream = self
            .connector
            .tls
            .connect(self.name.clone(), counted)
            .await
            .map_err(|error| self.unreachable(error))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unreachable(error))?;
        let driver = tokio::spawn(async move {
            // Why it ended is told to who waits for an answer.
            let _ = connection.await;
        });
        Ok(Connection {
            sender,
            driver,
            used: Instant::now(),
        })
    }
}

enum Failed {
    Unsent(ClientError),
    Sent(ClientError),
}

impl Connection {
    fn is_stale(&self) -> bool {
        self.sender.is_closed() || self.used.elapsed() > IDLE
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A socket that counts what it has taken.
struct Counted {
    stream: TcpStream,
    sent: Arc<AtomicU64>,
    total: Counter,
}

impl Counted {
    fn count(&self, written: Poll<std::io::Result<usize>>) -> Poll<std::io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.sent.fetch_add(bytes as u64, Ordering::Release);
            self.total.inc_by(bytes as u64);
        }
        written
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
