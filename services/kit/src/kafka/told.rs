//! What librdkafka tells of itself. Its words go to our log. That a client has forgotten every broker is mended: a controller that
//! has missed what its region's only broker says has the broker tell that there is none, until it hears it again. Who is told so
//! just then, librdkafka from 2.10 on, forgets every broker, those too that it was given, asks nobody any more, and stays so for
//! good (its issue 5301): a consumer of that kind cannot even be closed.

use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt as _;
use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::statistics::Statistics;
use tokio::sync::Notify;

/// How often a client tells of itself, in milliseconds.
pub(super) const TOLD_EVERY_MS: &str = "5000";

/// Has what a client says in our log, like its other lines.
pub(super) fn log(level: RDKafkaLogLevel, kind: &str, reason: &str) {
    use RDKafkaLogLevel::{Debug, Info, Notice, Warning};
    // What is worse than a warning about a connection comes as an error too.
    let told = kind == "FAIL" && !matches!(level, Warning);
    if !told && !matches!(level, Notice | Info | Debug) {
        tracing::warn!(kind, reason, "a Kafka client warns");
    }
}

/// Whether a client knows any broker.
pub(super) struct KnownBrokers {
    /// Those that it begins with, as librdkafka takes them.
    first: CString,
    /// It knew none when it told last. It may be about to ask those again that it begins with; the next time says.
    none: AtomicBool,
    forgotten: Notify,
}

impl KnownBrokers {
    /// Of a client that begins with these.
    pub(super) fn new(first: &str) -> Self {
        Self {
            // No address has a NUL in it; with one, no client could be made either.
            first: CString::new(first).unwrap_or_default(),
            none: AtomicBool::new(false),
            forgotten: Notify::new(),
        }
    }

    /// Hears what a client tells of itself.
    pub(super) fn hear(&self, statistics: &Statistics) {
        let mut sources = statistics.brokers.values().map(|broker| broker.source.as_str());
        let none = !sources.any(|source| matches!(source, "configured" | "learned"));
        if self.none.swap(none, Ordering::Relaxed) && none {
            self.forgotten.notify_one();
        }
    }

    /// Waits until the client has forgotten all.
    pub(super) async fn forgotten(&self) {
        self.forgotten.notified().await;
    }

    /// Whether the client has forgotten all since this was asked last.
    pub(super) fn take_forgotten(&self) -> bool {
        self.forgotten.notified().now_or_never().is_some()
    }

    /// Has a client that has forgotten all begin again with those that it began with; its queue, its producer's id and its
    /// subscription it keeps.
    pub(super) fn remind<C: ClientContext>(&self, client: &Client<C>) {
        if self.add_first(client) > 0 {
            tracing::warn!("a Kafka client knew no broker any more, and asks those again that it began with");
        } else {
            tracing::error!("a Kafka client knows no broker any more, and took none that it began with");
        }
    }

    /// Sees to it that a client which is about to be closed knows a broker, whatever it has told: without one it would not end.
    pub(super) fn before_closing<C: ClientContext>(&self, client: &Client<C>) {
        self.add_first(client);
    }

    /// How many it took. One that it was given, and still knows, is not added twice.
    #[expect(unsafe_code, reason = "rdkafka has no safe function for it")]
    fn add_first<C: ClientContext>(&self, client: &Client<C>) -> i32 {
        // SAFETY: the client lives as long as it is borrowed; any thread may call this; the addresses are copied.
        unsafe { rdkafka::bindings::rd_kafka_brokers_add(client.native_ptr(), self.first.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::statistics::Broker;

    use super::*;

    fn knowing(sources: &[&str]) -> Statistics {
        let broker = |source: &&str| {
            let source = (*source).to_owned();
            (
                source.clone(),
                Broker {
                    source,
                    ..Broker::default()
                },
            )
        };
        Statistics {
            brokers: sources.iter().map(broker).collect(),
            ..Statistics::default()
        }
    }

    #[test]
    fn a_client_that_twice_in_a_row_knows_no_broker_has_forgotten_them() {
        let (none, some) = (&["logical"][..], &["configured", "logical"][..]);
        let told = |all: &[&[&str]]| {
            let brokers = KnownBrokers::new("kafka:9094");
            all.iter().for_each(|sources| brokers.hear(&knowing(sources)));
            brokers.take_forgotten()
        };
        assert!(told(&[some, none, none]));
        assert!(!told(&[none, some, none, &["learned"]]));
        assert!(!told(&[some, none]));
    }
}
