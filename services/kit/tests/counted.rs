//! What leaves for another region is counted, and nothing leaves once the answer is told.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_kit::client::ClientError;
use meridian_kit::counted::{CountedClient, Sent};
use meridian_kit::testing::Region;
use meridian_kit::tls::{Accept, PeerId};
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// More than the machine's buffers take of a connection that nobody reads.
const LARGE: usize = 64 * 1024 * 1024;
const SOON: Duration = Duration::from_secs(60);

/// A service that answers as a test says, and a client for it.
struct World {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    client: CountedClient,
    total: Counter,
    _region: Region,
}

impl World {
    async fn new() -> Self {
        let region = Region::new("eu", &["stride-eu"]).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let mut config = region.tls("training").server_config(Accept::OwnRegion).unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let (expected, total) = (PeerId::new("eu".parse().unwrap(), "training"), Counter::default());
        Self {
            listener,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            client: CountedClient::new(&region.tls("social"), &url, expected, total.clone()).unwrap(),
            total,
            _region: region,
        }
    }

    /// What becomes of a large request that is answered before anything of it but its head is read, and how many bytes of
    /// it arrive altogether.
    async fn answered_early(&self, answer: &str, within: Duration) -> (Sent, usize) {
        let serving = async {
            let (mut stream, already) = self.head().await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            (stream, already)
        };
        let posting = self.client.post("/", Bytes::from(vec![b' '; LARGE]), within);
        let (sent, (stream, already)) = tokio::join!(posting, serving);
        let before = self.total.get();
        let rest = tokio::time::timeout(SOON, rest(stream));
        let arrived = already + rest.await.expect("the connection ends");
        assert_eq!(self.total.get(), before, "nothing leaves once the answer is told");
        (sent, arrived)
    }

    /// A connection of which a request's head is read, and what else was read with it.
    async fn head(&self) -> (TlsStream<TcpStream>, usize) {
        let (stream, _) = self.listener.accept().await.unwrap();
        let mut stream = self.acceptor.accept(stream).await.unwrap();
        let more = read_head(&mut stream).await;
        (stream, more)
    }
}

async fn read_head(stream: &mut TlsStream<TcpStream>) -> usize {
    let mut read = Vec::new();
    loop {
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            return read.len() - end - 4;
        }
    }
}

/// How much arrives until the connection ends, or all of a large request has.
async fn rest(mut stream: TlsStream<TcpStream>) -> usize {
    let (mut arrived, mut buffer) = (0, vec![0; 64 * 1024]);
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        arrived += read;
        if arrived >= LARGE {
            break;
        }
    }
    arrived
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leaves_after_a_refusal_that_came_before_the_request_was_read() {
    let world = World::new().await;
    let answer = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
    let (sent, arrived) = world.answered_early(answer, SOON).await;
    assert!(matches!(sent.answer, Err(ClientError::Refused { .. })), "{sent:?}");
    assert!(arrived < LARGE && arrived as u64 <= sent.bytes, "{arrived}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_a_request_before_reading_it_has_not_taken_it() {
    let world = World::new().await;
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    let (sent, arrived) = world.answered_early(answer, SOON).await;
    assert!(matches!(sent.answer, Err(ClientError::Answer { .. })), "{sent:?}");
    assert!(arrived < LARGE && arrived as u64 <= sent.bytes, "{arrived}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_machine_still_holds_of_a_request_that_is_given_up_is_thrown_away() {
    let world = World::new().await;
    let (sent, arrived) = world.answered_early("", Duration::from_millis(500)).await;
    assert!(matches!(sent.answer, Err(ClientError::Unreachable { .. })), "{sent:?}");
    // What TLS adds is a seventh of a hundredth.
    assert!(
        arrived as u64 + sent.bytes / 50 < sent.bytes,
        "{arrived} of {} arrived",
        sent.bytes
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_whose_requests_are_read_and_answered_is_kept() {
    let world = World::new().await;
    let body = Bytes::from_static(b"{\"text\": \"of 30 bytes at all\"}");
    let length = body.len();
    let serving = async {
        let (mut stream, mut read) = world.head().await;
        for request in 0..2 {
            if request > 0 {
                read = read_head(&mut stream).await;
            }
            let mut left = vec![0; length - read];
            stream.read_exact(&mut left).await.unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
            stream.write_all(answer).await.unwrap();
            stream.flush().await.unwrap();
        }
    };
    let posting = async {
        let first = world.client.post("/", body.clone(), SOON).await;
        (first, world.client.post("/", body.clone(), SOON).await)
    };
    let ((first, second), ()) = tokio::join!(posting, serving);
    assert_eq!(
        (first.answer.unwrap(), second.answer.unwrap()),
        ("{}".into(), "{}".into())
    );
    // The first has the handshake.
    assert!(
        first.bytes > 2 * second.bytes && second.bytes > length as u64,
        "{} and {}",
        first.bytes,
        second.bytes
    );
    assert_eq!(world.total.get(), first.bytes + second.bytes);
}
