//! A proxy in front of a real API server that answers as one in trouble does: by rules, for as long as they are in force.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{Request, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::StreamExt as _;
use kube::Client;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::bed::client_of;

/// What is asked, and what came of it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub at: Instant,
    pub method: String,
    /// With its query.
    pub path: String,
    /// Absent while nothing is answered.
    pub answer: Option<u16>,
}

impl Asked {
    fn of(parts: &Parts) -> Self {
        Self {
            at: Instant::now(),
            method: parts.method.to_string(),
            path: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            answer: None,
        }
    }

    pub fn writes(&self) -> bool {
        self.method != "GET"
    }

    pub fn watches(&self) -> bool {
        self.path.contains("watch=true")
    }

    /// Something done to an object, its status left out.
    pub fn writes_to(&self, object: &str) -> bool {
        let path = self.path.split('?').next().unwrap_or_default();
        self.writes() && path.ends_with(object)
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    /// Nothing is done, and this is the answer.
    Answer(u16, &'static str),
    /// The same, with how many seconds to wait.
    Later(u16, &'static str, u32),
    /// Nothing is done or answered until the trouble is over.
    Silence,
    /// It is done, and the connection breaks before the answer.
    Lost,
    /// A watch that is too old.
    Expired,
}

/// Whether the trouble is somebody's, by what is asked and how often that was asked before.
type Whose = Box<dyn Fn(&Asked, usize) -> bool + Send + Sync>;

struct Shared {
    upstream: Client,
    rule: Mutex<Option<(Whose, Trouble)>>,
    asked: Mutex<Vec<Asked>>,
    /// Counts how often the rule has changed, and cuts watches.
    changed: watch::Sender<u64>,
}

pub struct Proxy {
    kubeconfig: Value,
    shared: Arc<Shared>,
}

impl Proxy {
    /// In front of the API server of this test kubeconfig.
    pub async fn before(path: &str) -> Self {
        let upstream = client_of(path).await;
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut kubeconfig: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        kubeconfig["clusters"][0]["cluster"] = json!({
            "server": format!("https://{}", tcp.local_addr().unwrap()),
            "certificate-authority-data": BASE64.encode(made.cert.pem()),
        });
        let shared = Arc::new(Shared {
            upstream,
            rule: Mutex::default(),
            asked: Mutex::default(),
            changed: watch::Sender::new(0),
        });
        let listener = Tls {
            tcp,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        };
        let router = axum::Router::new().fallback(carry).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { kubeconfig, shared }
    }

    pub fn kubeconfig(&self) -> String {
        self.kubeconfig.to_string()
    }

    pub async fn client(&self) -> Client {
        let kubeconfig = kube::config::Kubeconfig::from_yaml(&self.kubeconfig()).unwrap();
        let options = kube::config::KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .unwrap();
        Client::try_from(config).unwrap()
    }

    /// From now on, and in the place of any other trouble.
    pub fn trouble(&self, trouble: Trouble, whose: impl Fn(&Asked, usize) -> bool + Send + Sync + 'static) {
        *self.shared.rule.lock().unwrap() = Some((Box::new(whose), trouble));
    }

    /// Ends the watches that go on; who watches again is subject to the rule.
    pub fn cut_watches(&self) {
        self.shared.changed.send_modify(|count| *count += 1);
    }

    /// The trouble is over.
    pub fn calm(&self) {
        *self.shared.rule.lock().unwrap() = None;
        self.shared.changed.send_modify(|count| *count += 1);
    }

    /// What has been asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    pub fn forget(&self) {
        self.shared.asked.lock().unwrap().clear();
    }

    /// Writes that the API server has done.
    pub fn done(&self, object: &str) -> usize {
        let done = |asked: &&Asked| asked.writes_to(object) && asked.answer.is_some_and(|status| status < 300);
        self.asked().iter().filter(done).count()
    }
}

impl Shared {
    fn trouble(&self, asked: &Asked) -> Option<Trouble> {
        let path = |asked: &Asked| asked.path.split('?').next().unwrap_or_default().to_owned();
        let same = |other: &&Asked| other.method == asked.method && path(other) == path(asked);
        let before = self.asked.lock().unwrap().iter().filter(same).count();
        let rule = self.rule.lock().unwrap();
        rule.as_ref()
            .filter(|(whose, _)| whose(asked, before))
            .map(|(_, trouble)| *trouble)
    }

    fn note(&self, asked: Asked) -> usize {
        let mut all = self.asked.lock().unwrap();
        all.push(asked);
        all.len() - 1
    }

    fn answered(&self, index: usize, status: u16) {
        // A test may have forgotten it.
        if let Some(asked) = self.asked.lock().unwrap().get_mut(index) {
            asked.answer = Some(status);
        }
    }

    async fn forward(&self, parts: Parts, body: Body) -> Response {
        let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
        let mut request = Request::builder()
            .method(parts.method)
            .uri(parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default());
        let own = [
            header::HOST,
            header::AUTHORIZATION,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::CONNECTION,
        ];
        for (name, value) in parts.headers.iter().filter(|(name, _)| !own.contains(name)) {
            request = request.header(name, value);
        }
        let request = request.body(kube::client::Body::from(body.to_vec())).unwrap();
        match self.upstream.send(request).await {
            Ok(answer) => answer.map(Body::new),
            Err(error) => (axum::http::StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
        }
    }
}

async fn carry(State(shared): State<Arc<Shared>>, request: axum::extract::Request) -> Response {
    let (parts, body) = request.into_parts();
    let asked = Asked::of(&parts);
    let (watches, trouble) = (asked.watches(), shared.trouble(&asked));
    let mut changed = shared.changed.subscribe();
    let index = shared.note(asked);
    let answer = match trouble {
        None => shared.forward(parts, body).await,
        Some(Trouble::Answer(status, reason)) => refusal(status, reason, None),
        Some(Trouble::Later(status, reason, seconds)) => refusal(status, reason, Some(seconds)),
        Some(Trouble::Silence) => {
            let _ = changed.changed().await;
            shared.forward(parts, body).await
        }
        Some(Trouble::Lost) => {
            let answer = shared.forward(parts, body).await;
            shared.answered(index, answer.status().as_u16());
            let broken = futures::stream::once(async { Err::<Bytes, _>(io::Error::other("the connection breaks")) });
            return answer.map(|_| Body::from_stream(broken));
        }
        Some(Trouble::Expired) => {
            let event = json!({"type": "ERROR", "object": status(410, "Expired")});
            Response::new(Body::from(format!("{event}\n")))
        }
    };
    shared.answered(index, answer.status().as_u16());
    if watches {
        let cut = async move {
            let _ = changed.changed().await;
        };
        return answer.map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(cut))));
    }
    answer
}

fn status(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason,
        "message": format!("the test says {reason}")})
}

fn refusal(code: u16, reason: &str, later: Option<u32>) -> Response {
    let mut answer = Response::builder()
        .status(code)
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(seconds) = later {
        answer = answer.header(header::RETRY_AFTER, seconds);
    }
    answer.body(Body::from(status(code, reason).to_string())).unwrap()
}

struct Tls {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            if let Ok((tcp, from)) = self.tcp.accept().await
                && let Ok(tls) = self.acceptor.accept(tcp).await
            {
                return (tls, from);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}
