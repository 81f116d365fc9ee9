//! A region's CA is rotated while its replicators deliver, both ways: nobody is started anew, and no delivery fails.
#![expect(clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod shared;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use meridian_kit::client::{ClientError, ServiceClient};
use meridian_kit::testing::{Authority, Region, until};
use meridian_kit::tls::{PeerId, Tls};
use shared::{Side, World, edge, edge_back, ride};
use tokio::io::{AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The way to a replicator, whose connections can be ended while nothing is under way: what is said next is said on a new
/// one, with the certificates of then.
#[derive(Clone)]
struct Way {
    address: SocketAddr,
    open: Arc<Mutex<(CancellationToken, JoinSet<()>)>>,
}

impl Way {
    async fn to(target: String) -> Self {
        let target = target.trim_start_matches("https://").to_owned();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let way = Self {
            address: listener.local_addr().expect("an address"),
            open: Arc::default(),
        };
        let open = way.open.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // At the end of the test it is gone before those who call it.
                let Ok(server) = TcpStream::connect(&target).await else {
                    continue;
                };
                let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
                let cut = open.0.clone();
                open.1.spawn(carry(client, server, cut));
            }
        });
        way
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Ends every connection; returns when both sides have noticed. How many there were.
    async fn cut(&self) -> usize {
        let (cut, connections) = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        cut.cancel();
        connections.join_all().await.len()
    }
}

async fn carry(client: TcpStream, server: TcpStream, cut: CancellationToken) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let up = async {
        let ended = cut.run_until_cancelled(copy(&mut from_client, &mut to_server)).await;
        let _ = to_server.shutdown().await;
        if ended.is_none() {
            let _ = copy(&mut from_client, &mut tokio::io::sink()).await;
        }
    };
    let down = async {
        let ended = cut.run_until_cancelled(copy(&mut from_server, &mut to_client)).await;
        let _ = to_client.shutdown().await;
        if ended.is_none() {
            let _ = copy(&mut from_server, &mut tokio::io::sink()).await;
        }
    };
    tokio::join!(up, down);
}

/// A replicator of eu with a certificate of this CA, who trusts this of eu and what there is of us.
fn stranger(authority: &Authority, trusts: &str, us: &Region, dir: &Path) -> Tls {
    authority.issue("replicator", dir);
    std::fs::write(dir.join("ca.crt"), trusts).expect("a file");
    let tls = Tls::load(dir, "eu".parse().expect("a region")).expect("a certificate");
    tls.set_peer_cas([(&"us".parse().expect("a region"), us.authority().ca_pem())]);
    tls
}

/// Whether both sides take each other's certificate.
async fn meet(tls: &Tls, region: &Region, service: &str) -> bool {
    let expected = PeerId::new(region.name().parse().expect("a region"), service);
    let client = ServiceClient::peer(tls, &region.url(service), expected).expect("a client");
    match client.get("/nobody-has-this").send().await {
        Ok(_) | Err(ClientError::Refused { .. }) => true,
        Err(_) => false,
    }
}

/// Shares so many rides in one region, and waits until the other has all that were shared so far.
async fn deliver(from: &Side, to: &Side, shared: &mut usize, count: usize) {
    let athlete = from.athlete();
    for _ in 0..count {
        from.share(&athlete, &ride()).await;
    }
    *shared += count;
    let copies = to.sink.arrived(*shared).await;
    assert_eq!(copies.len(), *shared, "each once");
    until(|| async { (from.count("delivery").await == 0).then_some(()) })
        .await
        .expect("nothing is left to deliver");
}

/// What the exporter counts of deliveries that were not taken at once, or not at all.
async fn failures(side: &Side) -> Vec<String> {
    let text = side.region.metrics("replicator").await;
    let failed = |line: &&str| line.contains("importer-unreachable") || line.contains("_refused_total{");
    text.lines().filter(failed).map(ToOwned::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_regions_ca_is_rotated_while_both_ways_deliver_and_none_fails() {
    let world = World::new().await;
    let (eu, us) = (&world.eu, &world.us);
    world.open(&edge(3600));
    world.open(&edge_back(3600));
    eu.consent.grant();
    us.consent.grant();
    let (there, back) = (
        Way::to(us.region.url("replicator")).await,
        Way::to(eu.region.url("replicator")).await,
    );
    let leads = |side: &Side, way: &Way| {
        let url = way.url();
        side.region.change_policy(|policy| {
            policy
                .peers
                .iter_mut()
                .for_each(|peer| peer.replicator_url = url.clone())
        });
    };
    leads(eu, &there);
    leads(us, &back);
    let told = |bundle: &str| {
        us.region
            .change_policy(|policy| policy.peers.iter_mut().for_each(|peer| peer.ca_pem = bundle.to_owned()));
    };
    let (mut sent, mut returned) = (0, 0);
    let mut both_ways = async |anew: bool| {
        if anew {
            assert!(
                there.cut().await > 0 && back.cut().await > 0,
                "they lead over these ways"
            );
        }
        deliver(eu, us, &mut sent, 5).await;
        deliver(us, eu, &mut returned, 5).await;
    };
    both_ways(false).await;
    let before = [failures(eu).await, failures(us).await];

    // Staged: the new CA is trusted beside the old one, everywhere, before it issues anything.
    let old = eu.region.authority();
    let (new, dir) = (Authority::new("eu"), tempfile::tempdir().expect("a folder"));
    let bundle = format!("{}{}", old.ca_pem(), new.ca_pem());
    let of_new = stranger(&new, &bundle, &us.region, &dir.path().join("new"));
    assert!(!meet(&of_new, &us.region, "replicator").await, "nobody knows it yet");
    eu.region.trust(&bundle);
    told(&bundle);
    let everybody = |tls: Tls, meets: bool| {
        until(move || {
            let tls = tls.clone();
            async move {
                let mut all = meet(&tls, &us.region, "replicator").await == meets;
                for service in ["keyring", "consent", "identity", "replicator", "social"] {
                    all &= meet(&tls, &eu.region, service).await == meets;
                }
                all.then_some(())
            }
        })
    };
    everybody(of_new, true).await.expect("the new CA is trusted");
    both_ways(true).await;

    // Promoted: certificates are of the new one. Who trusts nothing else meets everybody.
    eu.region.issue_by(&new);
    let only_new = stranger(&new, new.ca_pem(), &us.region, &dir.path().join("only-new"));
    everybody(only_new, true)
        .await
        .expect("the new CA's certificates are shown");
    both_ways(true).await;

    // Retired: the old one is trusted no more.
    eu.region.trust(new.ca_pem());
    told(new.ca_pem());
    let of_old = stranger(old, &bundle, &us.region, &dir.path().join("old"));
    everybody(of_old, false).await.expect("the old CA is trusted no more");
    both_ways(true).await;

    assert_eq!((sent, returned), (20, 20));
    assert_eq!(
        [failures(eu).await, failures(us).await],
        before,
        "no delivery has failed"
    );
}
