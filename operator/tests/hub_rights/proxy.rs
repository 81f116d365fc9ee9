//! A way to an API server that can turn into a black hole: it accepts connections and never answers.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Proxy {
    pub address: SocketAddr,
    swallows: watch::Sender<bool>,
}

impl Proxy {
    /// In front of this address; from the beginning a black hole, if told so.
    pub async fn before(server: String, swallows: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (swallows, open) = watch::channel(swallows);
        tokio::spawn(async move {
            while let Ok((inner, _)) = listener.accept().await {
                tokio::spawn(carry(inner, server.clone(), open.clone()));
            }
        });
        Self { address, swallows }
    }

    pub fn swallow(&self, everything: bool) {
        self.swallows.send(everything).unwrap();
    }
}

async fn carry(inner: TcpStream, server: String, mut open: watch::Receiver<bool>) {
    let _ = open.wait_for(|swallows| !swallows).await;
    let Ok(outer) = TcpStream::connect(server).await else {
        return;
    };
    let ((inner_reads, inner_writes), (outer_reads, outer_writes)) = (inner.into_split(), outer.into_split());
    tokio::join!(
        pump(inner_reads, outer_writes, open.clone()),
        pump(outer_reads, inner_writes, open)
    );
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut open: watch::Receiver<bool>,
) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let _ = open.wait_for(|swallows| !swallows).await;
        if to.write_all(&bytes[..count]).await.is_err() {
            break;
        }
    }
}
