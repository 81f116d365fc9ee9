//! In the place of the webhook's Service and of kube-proxy: takes the API server's connections to the replicas in turn.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections that were open at one time, and the end of them.
#[derive(Clone, Default)]
struct Generation {
    end: CancellationToken,
    open: TaskTracker,
}

#[derive(Clone)]
pub struct Service {
    pub port: u16,
    endpoints: Arc<Mutex<Vec<SocketAddr>>>,
    now: Arc<Mutex<Generation>>,
}

impl Service {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = Self {
            port: listener.local_addr().unwrap().port(),
            endpoints: Arc::default(),
            now: Arc::default(),
        };
        tokio::spawn(service.clone().accept(listener));
        service
    }

    /// The replicas that are ready.
    pub fn lead_to(&self, endpoints: &[SocketAddr]) {
        *self.endpoints.lock().unwrap() = endpoints.to_vec();
    }

    async fn accept(self, listener: TcpListener) {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let replica = {
                let mut endpoints = self.endpoints.lock().unwrap();
                let Some(first) = endpoints.first().copied() else {
                    continue;
                };
                endpoints.rotate_left(1);
                first
            };
            let generation = self.now.lock().unwrap().clone();
            generation.open.spawn(carry(client, replica, generation.end));
        }
    }

    /// Ends every connection that nobody uses at the moment, and waits until the API server has seen that: what it asks next
    /// begins with a handshake. To be called between reviews.
    pub async fn hang_up(&self) {
        let past = std::mem::take(&mut *self.now.lock().unwrap());
        past.open.close();
        past.end.cancel();
        tokio::time::timeout(crate::support::LIMIT, past.open.wait())
            .await
            .expect("the API server lets go of a closed connection");
    }
}

async fn carry(mut client: TcpStream, replica: SocketAddr, end: CancellationToken) {
    let Ok(mut server) = TcpStream::connect(replica).await else {
        return;
    };
    let carried = tokio::io::copy_bidirectional(&mut client, &mut server);
    if end.run_until_cancelled(carried).await.is_none() {
        drop(server);
        let _ = client.shutdown().await;
        let mut rest = [0; 1024];
        while client.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    }
}
