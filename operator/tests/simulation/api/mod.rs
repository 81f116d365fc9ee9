//! A fake API server behind kube's own client: what it does is done whole and in order; when that is, whether the answer
//! comes, and what watches tell when, is the faults'.

pub mod fields;
pub mod request;
pub mod store;
mod watching;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::response::Response;
use kube::Client;
use serde_json::{Value, json};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};

use crate::faults::{Crash, Fate, Faults, Outcome};
use crate::process::Process;
use request::{Ask, Verb};
use store::{Answer, Event, Store};

/// Hears of every request when it is sent and of every change when it is made.
pub trait Observer: Send + Sync {
    fn sent(&self, server: &Server, by: &Process, ask: &Ask);
    fn changed(&self, server: &Server, by: &Process, ask: &Ask, event: &Event);
    fn endless(&self);
}

pub struct Server {
    pub name: &'static str,
    pub faults: Arc<Faults>,
    store: Mutex<Store>,
    version: watch::Sender<u64>,
    reachable: watch::Sender<bool>,
    observer: Arc<dyn Observer>,
}

impl Server {
    pub fn new(name: &'static str, faults: Arc<Faults>, observer: Arc<dyn Observer>) -> Arc<Self> {
        Arc::new(Self {
            name,
            faults,
            store: Mutex::new(Store::new()),
            version: watch::Sender::new(0),
            reachable: watch::Sender::new(true),
            observer,
        })
    }

    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    /// Done at once and without faults, by this process.
    pub fn perform(&self, by: &Process, ask: &Ask) -> Answer {
        let (answer, event) = self.store().answer(ask);
        if let Some(event) = event {
            self.observer.changed(self, by, ask, &event);
        }
        self.tell();
        answer
    }

    /// After something was done to the store directly.
    pub fn tell(&self) {
        let version = self.store().version();
        self.version.send_replace(version);
    }

    pub fn reach(&self, reachable: bool) {
        self.reachable.send_replace(reachable);
    }

    pub fn client(self: &Arc<Self>, process: &Process) -> Client {
        let line = Line {
            server: self.clone(),
            process: process.clone(),
        };
        Client::new(axum::Router::new().fallback(call).with_state(line), "default")
    }
}

/// From one process to one server.
#[derive(Clone)]
struct Line {
    server: Arc<Server>,
    process: Process,
}

/// How long a request to a cluster that cannot be reached hangs before its connection is given up.
const GIVEN_UP: Duration = Duration::from_secs(20);

async fn call(State(line): State<Line>, request: axum::extract::Request) -> Response {
    let (parts, body) = request.into_parts();
    let ask = Ask::of(&parts, &to_bytes(body, usize::MAX).await.unwrap_or_default());
    line.server.faults.note(&line.process, &ask);
    line.server.observer.sent(&line.server, &line.process, &ask);
    let crash = line.server.faults.crash(&line.process, &ask);
    let fate = line.server.faults.fate(&ask);
    let (tell, told) = oneshot::channel();
    // Of its own, since what was sent may be done after who sent it has died.
    tokio::spawn(async move {
        if let Some(answer) = carry_out(&line, &ask, &fate, crash).await {
            // Nobody may wait for it any more.
            let _ = tell.send(answer);
        }
    });
    match told.await {
        Ok(answer) => answer,
        Err(_) => std::future::pending().await,
    }
}

async fn carry_out(line: &Line, ask: &Ask, fate: &Fate, crash: Option<Crash>) -> Option<Response> {
    let server = &line.server;
    let mut reachable = server.reachable.subscribe();
    if server.faults.is_endless() {
        server.observer.endless();
        return None;
    }
    if server.faults.is_cut_off(&line.process, server.name) {
        sleep(GIVEN_UP).await;
        return Some(broken());
    }
    if !*reachable.borrow() {
        let _ = timeout(GIVEN_UP, reachable.wait_for(|reachable| *reachable)).await;
        return Some(broken());
    }
    sleep(fate.before).await;
    if crash == Some(Crash::Before) {
        line.process.kill();
        return None;
    }
    let answer = match fate.outcome {
        Outcome::Refused(code, reason) => Some(refusal(code, reason, "the API server is in trouble")),
        Outcome::Broken => Some(broken()),
        Outcome::Silent => None,
        Outcome::Done | Outcome::DoneAndBroken | Outcome::DoneAndSilent => {
            let done = match ask.verb {
                Verb::Watch(from) => watching::answer(server, ask, from),
                _ => response(server.perform(&line.process, ask)),
            };
            match fate.outcome {
                Outcome::DoneAndBroken => Some(broken()),
                Outcome::DoneAndSilent => None,
                _ => Some(done),
            }
        }
    };
    if crash == Some(Crash::After) {
        line.process.kill();
        return None;
    }
    sleep(fate.after).await;
    match answer {
        Some(answer) => Some(answer),
        None => {
            sleep(GIVEN_UP).await;
            Some(broken())
        }
    }
}

fn response(answer: Answer) -> Response {
    match answer {
        Ok((code, body)) => of(code, &body),
        Err((code, reason, message)) => refusal(code, reason, &message),
    }
}

fn of(code: u16, body: &Value) -> Response {
    Response::builder()
        .status(code)
        .body(Body::from(body.to_string()))
        .unwrap()
}

fn refusal(code: u16, reason: &str, message: &str) -> Response {
    of(code, &status(code, reason, message))
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason,
        "message": message})
}

/// The connection breaks.
fn broken() -> Response {
    let broken = futures::stream::once(async { Err::<Bytes, _>(io::Error::other("the connection broke")) });
    Response::new(Body::from_stream(broken))
}
