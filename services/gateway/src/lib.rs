//! The region's edge: TLS 1.3 ends here, tokens are verified here, and only known requests of accounts that live here go on
//! to a service, over mTLS. It keeps nothing and reads no body.
//!
//! A request walks through [`listener`] → [`proxy`] → [`domain::route`] → [`upstream`], or ends in [`answer`].

#![recursion_limit = "256"]

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use meridian_kit::service::{self, Parts};
use meridian_kit::{Start, StartError};
use pingora::protocols::http::v2::server::default_h2_options;
use pingora::proxy::HttpProxy;
use pingora::server::configuration::ServerConf;
use tokio::net::TcpListener;

pub mod answer;
pub mod domain;
pub mod listener;
pub mod proxy;
pub mod upstream;

use domain::headers::HEADER_LIMIT;
use listener::PublicCertificate;
use proxy::Gateway;
use upstream::Upstreams;

/// Where the public certificate is mounted unless `MERIDIAN_PUBLIC_TLS_DIR` says otherwise.
const PUBLIC_TLS_DIR: &str = "/var/run/meridian/public-tls";
/// Times that a request which did no harm yet is tried.
const TRIES: usize = 2;

/// Runs the gateway until the process is told to stop.
///
/// # Errors
/// When a certificate or an address cannot be used, or a part of the process ended.
pub async fn run(start: Start) -> Result<(), StartError> {
    let configured = std::env::var_os("MERIDIAN_PUBLIC_TLS_DIR");
    run_with(
        start,
        configured.map_or_else(|| PathBuf::from(PUBLIC_TLS_DIR), PathBuf::from),
    )
    .await
}

/// As [`run`] with the public certificate in a folder at hand.
///
/// # Errors
/// When a certificate or an address cannot be used, or a part of the process ended.
pub async fn run_with(start: Start, public_tls_dir: PathBuf) -> Result<(), StartError> {
    let listener = listen(&start).await?;
    let other = |error: listener::ListenerError| StartError::other("the public listener cannot be opened", error);
    let certificate = Arc::new(PublicCertificate::load(&public_tls_dir).map_err(other)?);
    let tls = listener::public_tls(Arc::clone(&certificate)).map_err(other)?;
    let upstreams =
        Upstreams::new(start.clone()).map_err(|error| StartError::other("services cannot be reached", error))?;
    let upstreams = Arc::new(upstreams);
    let app = Arc::new(proxy(&start, Arc::clone(&upstreams)));

    let stop = start.stop();
    let serving = listener::serve(listener, tls, app, stop.clone());
    let addresses = Arc::clone(&upstreams).keep_addresses(stop.clone());
    let (certificates, services) = (certificate.watch(stop.clone()), upstreams.watch(stop));
    let parts = Parts::without_server()
        .background("the public listener", serving)
        .background("the addresses of services", without_errors(addresses))
        .background("the reload of the public certificate", without_errors(certificates))
        .background("the reload of the service certificate", without_errors(services));
    service::serve(start, parts).await
}

async fn without_errors(task: impl Future<Output = ()>) -> Result<(), Infallible> {
    task.await;
    Ok(())
}

async fn listen(start: &Start) -> Result<TcpListener, StartError> {
    let address = start.config().listen;
    let wrong = |error| StartError::Listen {
        variable: "MERIDIAN_LISTEN",
        address: address.to_string(),
        error,
    };
    match start.take_main_listener() {
        Some(opened) => {
            opened.set_nonblocking(true).map_err(wrong)?;
            TcpListener::from_std(opened).map_err(wrong)
        }
        None => TcpListener::bind(address).await.map_err(wrong),
    }
}

fn proxy(start: &Start, upstreams: Arc<Upstreams>) -> HttpProxy<Gateway> {
    let conf = ServerConf {
        // pingora falls back to the system's CAs; here there is no other than the region's.
        ca_file: Some(start.config().tls_dir.join("ca.crt").display().to_string()),
        max_retries: TRIES,
        ..ServerConf::default()
    };
    let mut proxy = HttpProxy::new(Gateway::new(start.clone(), upstreams), Arc::new(conf));
    proxy.handle_init_modules();
    let mut h2 = default_h2_options();
    // Over a limit of our own, so that the answer is a problem and not a broken stream.
    h2.max_header_list_size(2 * HEADER_LIMIT as u32)
        .max_concurrent_streams(100);
    proxy.h2_options = Some(h2);
    proxy
}
