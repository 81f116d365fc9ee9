//! Between a replica and its API server: holds one write fast, before it arrives or before its answer returns, so that the
//! replica can be killed at exactly that point.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::response::Response;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// Where a write is held fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    BeforeItArrives,
    BeforeItsAnswer,
}

/// The objects whose writes are counted.
const COUNTED: [&str; 2] = [
    "/secrets/meridian-webhook-tls",
    "/validatingwebhookconfigurations/meridian",
];

#[derive(Clone)]
pub struct Proxy {
    upstream: String,
    http: reqwest::Client,
    /// The write to hold: how many come before it.
    armed: Arc<Mutex<Option<(usize, Held)>>>,
    reached: Arc<Notify>,
}

impl Proxy {
    /// Starts it, and writes a kubeconfig that goes through it.
    pub async fn start(kubeconfig: &Path, dir: &Path) -> (Self, PathBuf) {
        use base64::Engine as _;
        let text = std::fs::read_to_string(kubeconfig).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        let cluster = &mut config["clusters"][0]["cluster"];
        let upstream = cluster["server"].as_str().unwrap().to_owned();
        let ca = base64::engine::general_purpose::STANDARD
            .decode(cluster["certificate-authority-data"].as_str().unwrap())
            .unwrap();
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()])
            .build()
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        *cluster = json!({"server": format!("http://{}", listener.local_addr().unwrap())});
        let path = dir.join("through-the-proxy.kubeconfig");
        std::fs::write(&path, config.to_string()).unwrap();
        let proxy = Self {
            upstream,
            http,
            armed: Arc::default(),
            reached: Arc::default(),
        };
        let router = axum::Router::new().fallback(forward).with_state(proxy.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (proxy, path)
    }

    /// Holds the write that comes after `before` others.
    pub fn hold(&self, before: usize, held: Held) {
        *self.armed.lock().unwrap() = Some((before, held));
    }

    /// Until the write is held.
    pub async fn is_reached(&self) {
        tokio::time::timeout(crate::support::LIMIT, self.reached.notified())
            .await
            .expect("the write is tried");
    }

    fn is_to_hold(&self, request: &Request) -> Option<Held> {
        let written = [Method::PATCH, Method::PUT, Method::POST].contains(request.method());
        if !written || !COUNTED.iter().any(|object| request.uri().path().ends_with(object)) {
            return None;
        }
        let mut armed = self.armed.lock().unwrap();
        match *armed {
            Some((0, held)) => {
                *armed = None;
                Some(held)
            }
            Some((before, held)) => {
                *armed = Some((before - 1, held));
                None
            }
            None => None,
        }
    }

    async fn hold_for_ever(&self) -> ! {
        self.reached.notify_one();
        std::future::pending().await
    }
}

async fn forward(State(proxy): State<Proxy>, request: Request) -> Response {
    let held = proxy.is_to_hold(&request);
    if held == Some(Held::BeforeItArrives) {
        proxy.hold_for_ever().await;
    }
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut headers = parts.headers;
    headers.remove("host");
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let asked = proxy
        .http
        .request(parts.method, format!("{}{path}", proxy.upstream))
        .headers(headers)
        .body(body);
    let Ok(answer) = asked.send().await else {
        return Response::builder().status(502).body(Body::empty()).unwrap();
    };
    if held == Some(Held::BeforeItsAnswer) {
        proxy.hold_for_ever().await;
    }
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers() {
        if name != "transfer-encoding" && name != "connection" {
            response = response.header(name, value);
        }
    }
    response.body(Body::from_stream(answer.bytes_stream())).unwrap()
}
