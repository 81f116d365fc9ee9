//! Watches: events of one resource in order, each when the faults let it through.

use axum::body::{Body, Bytes};
use axum::response::Response;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::request::Ask;
use super::store::Event;
use super::{Server, status};

/// As long as the operator's watches ask for.
const LIFE: Duration = Duration::from_secs(290);

struct Cursor {
    server: Arc<Server>,
    ask: Ask,
    version: u64,
    ends: Instant,
    expired: bool,
    versions: watch::Receiver<u64>,
    reachable: watch::Receiver<bool>,
}

pub fn answer(server: &Arc<Server>, ask: &Ask, from: u64) -> Response {
    if server.store().missing.contains(&ask.key.resource) {
        return super::refusal(404, "NotFound", "404 page not found");
    }
    let cursor = Cursor {
        server: server.clone(),
        ask: ask.clone(),
        version: from,
        ends: Instant::now() + server.faults.life_of_a_watch(LIFE),
        expired: server.faults.watch_is_too_old(),
        versions: server.version.subscribe(),
        reachable: server.reachable.subscribe(),
    };
    Response::new(Body::from_stream(futures::stream::unfold(cursor, next)))
}

async fn next(mut cursor: Cursor) -> Option<(Result<Bytes, Infallible>, Cursor)> {
    loop {
        if std::mem::take(&mut cursor.expired) {
            return Some((Ok(expired()), cursor));
        }
        // What happens behind a broken line is told when it is there again.
        timeout_at(cursor.ends, cursor.reachable.wait_for(|reachable| *reachable))
            .await
            .ok()?
            .ok()?;
        let event = {
            let store = cursor.server.store();
            let found = store.after(&cursor.ask.key.resource, cursor.version);
            if let Ok(None) = found {
                cursor.version = store.version();
            }
            found
        };
        match event {
            Err(()) => {
                // Told once; whoever watches on after that waits in vain.
                cursor.ends = Instant::now();
                cursor.version = cursor.server.store().version();
                return Some((Ok(expired()), cursor));
            }
            Ok(None) => {
                let version = cursor.version;
                timeout_at(cursor.ends, cursor.versions.wait_for(|now| *now > version))
                    .await
                    .ok()?
                    .ok()?;
            }
            Ok(Some(event)) => {
                cursor.version = event.version;
                if let Some(told) = told(&cursor.ask, &event) {
                    sleep(cursor.server.faults.delay_of_an_event()).await;
                    return Some((Ok(line(&told)), cursor));
                }
            }
        }
    }
}

fn told(ask: &Ask, event: &Event) -> Option<Value> {
    if !ask.covers(&event.key) {
        return None;
    }
    let selected = |object: &Option<Arc<Value>>| object.clone().filter(|object| ask.selects(object));
    match (selected(&event.before), selected(&event.after)) {
        (None, None) => None,
        (None, Some(now)) => Some(json!({"type": "ADDED", "object": *now})),
        (Some(_), Some(now)) => Some(json!({"type": "MODIFIED", "object": *now})),
        (Some(last), None) => {
            let mut last = last.as_ref().clone();
            last["metadata"]["resourceVersion"] = json!(event.version.to_string());
            Some(json!({"type": "DELETED", "object": last}))
        }
    }
}

fn expired() -> Bytes {
    line(&json!({"type": "ERROR", "object": status(410, "Expired", "too old resource version")}))
}

fn line(event: &Value) -> Bytes {
    Bytes::from(format!("{event}\n"))
}
