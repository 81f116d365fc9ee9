//! Clients that have forgotten every broker. A controller that has missed what its region's only broker says has the broker tell
//! that there is none, until it hears it again. Who is told so just then, librdkafka from 2.10 on, forgets every broker, those too
//! that it was given, asks nobody any more, and stays so for good (its issue 5301): a consumer of that kind cannot even be closed.
//! What it tells of itself shows that, and it is given its brokers again.

use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt as _;
use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::statistics::Statistics;
use tokio::sync::Notify;

/// How often a client tells of itself, in milliseconds.
pub(super) const TOLD_EVERY_MS: &str = "5000";

/// Which brokers a client knows: none, or some.
pub(super) struct Brokers {
    given: CString,
    /// It knew none when it told last. It may be about to ask those again that it was given; the next time says.
    none: AtomicBool,
    forgotten: Notify,
}

impl Brokers {
    /// Those that a client is given, as librdkafka takes them.
    pub(super) fn given(brokers: &str) -> Self {
        Self {
            // No address has a NUL in it; with one, no client could be made either.
            given: CString::new(brokers).unwrap_or_default(),
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
    pub(super) fn are_forgotten(&self) -> bool {
        self.forgotten.notified().now_or_never().is_some()
    }

    /// Gives a client its brokers again; it begins with them as it did at first, and has everything else that it had.
    #[expect(unsafe_code, reason = "rdkafka has no safe function for it")]
    pub(super) fn give_again<C: ClientContext>(&self, client: &Client<C>) {
        tracing::warn!("a Kafka client knew no broker any more, and is given those that it began with");
        // SAFETY: the client lives as long as it is borrowed, and librdkafka copies the addresses.
        unsafe { rdkafka::bindings::rd_kafka_brokers_add(client.native_ptr(), self.given.as_ptr()) };
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
        let (none, some) = (&["internal", "logical"][..], &["configured", "logical"][..]);
        let told = |all: &[&[&str]]| {
            let brokers = Brokers::given("kafka:9094");
            all.iter().for_each(|sources| brokers.hear(&knowing(sources)));
            brokers.are_forgotten()
        };
        assert!(told(&[some, none, none]));
        assert!(!told(&[none, some, none, &["learned"]]));
        assert!(!told(&[some, none]));
    }
}
