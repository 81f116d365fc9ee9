//! librdkafka's producer, and the broker's word on each record that was put into it: counted for many records at once, so that
//! whoever waits for them is woken once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError as Raw, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext, PurgeConfig};
use rdkafka::statistics::Statistics;
use rdkafka::{ClientConfig, ClientContext};
use tokio::sync::Notify;

use super::told::{self, KnownBrokers};

/// How long the thread that hears of records listens before it looks whether it is still needed, and the client still knows a
/// broker. It spins through what is less than a millisecond at the end of each such time (rdkafka 0.39 rounds what is left of it
/// down to none): with its own producers' 0.1 s, one that is never used takes a hundredth of a processor.
const LISTENS: Duration = Duration::from_secs(1);

/// What became of records that were sent together.
pub(super) struct Reports {
    left: AtomicUsize,
    lost: Mutex<Vec<(usize, Raw)>>,
    ended: Notify,
}

impl Reports {
    /// Of so many records, each of which gets its [`Report`].
    pub(super) fn of(count: usize) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicUsize::new(count),
            lost: Mutex::default(),
            ended: Notify::new(),
        })
    }

    /// Waits until each record has been taken or lost; those that were lost, by their places. For one who waits.
    pub(super) async fn all(&self) -> Vec<(usize, Raw)> {
        while self.left.load(Ordering::Acquire) > 0 {
            self.ended.notified().await;
        }
        std::mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Goes with a record through librdkafka and comes back with the broker's word.
pub(super) struct Report {
    of: Arc<Reports>,
    place: usize,
}

impl Report {
    /// Of the record at a place.
    pub(super) fn new(of: &Arc<Reports>, place: usize) -> Self {
        let of = Arc::clone(of);
        Self { of, place }
    }

    fn hears(&self, result: Result<(), Raw>) {
        if let Err(error) = result {
            let mut lost = self.of.lost.lock().unwrap_or_else(PoisonError::into_inner);
            lost.push((self.place, error));
        }
        if self.of.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.of.ended.notify_one();
        }
    }
}

/// Hears from librdkafka.
pub(super) struct Listener {
    brokers: KnownBrokers,
}

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, kind: &str, reason: &str) {
        told::log(level, kind, reason);
    }

    fn error(&self, error: Raw, reason: &str) {
        tracing::warn!(%error, reason, "Kafka has a problem; what it did not take is told to whoever sent it");
    }

    fn stats(&self, statistics: Statistics) {
        self.brokers.hear(&statistics);
    }
}

impl ProducerContext for Listener {
    type DeliveryOpaque = Box<Report>;

    fn delivery(&self, result: &DeliveryResult<'_>, report: Box<Report>) {
        report.hears(result.as_ref().map(|_| ()).map_err(|(error, _)| error.clone()));
    }
}

/// A producer, with a thread that listens for it.
pub(super) struct Client {
    producer: Arc<BaseProducer<Listener>>,
    ended: Arc<AtomicBool>,
}

/// A record that was not put into the queue, and why.
pub(super) type NotPut<'a> = (Raw, BaseRecord<'a, str, [u8], Box<Report>>);

impl Client {
    /// Opens one.
    ///
    /// # Errors
    /// librdkafka refuses the set-up.
    pub(super) fn open(config: &ClientConfig, brokers: KnownBrokers) -> KafkaResult<Self> {
        let producer: Arc<BaseProducer<Listener>> = Arc::new(config.create_with_context(Listener { brokers })?);
        let ended = Arc::new(AtomicBool::new(false));
        let (listens, stop) = (Arc::clone(&producer), Arc::clone(&ended));
        let listening = std::thread::Builder::new()
            .name("kafka producer".to_owned())
            .spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    listens.poll(LISTENS);
                    let brokers = &listens.context().brokers;
                    if brokers.take_forgotten() {
                        brokers.remind(listens.client());
                    }
                }
            });
        match listening {
            Ok(_) => Ok(Self { producer, ended }),
            Err(error) => Err(Raw::ClientCreation(format!("no thread can be started for it: {error}"))),
        }
    }

    /// Puts a record into the queue.
    ///
    /// # Errors
    /// The queue is full, or the record can never be sent.
    #[expect(
        clippy::result_large_err,
        reason = "the record comes back as it was, to be put again"
    )]
    pub(super) fn send<'a>(&self, record: BaseRecord<'a, str, [u8], Box<Report>>) -> Result<(), NotPut<'a>> {
        self.producer.send(record)
    }

    /// Waits until the queue is empty. Blocks.
    ///
    /// # Errors
    /// It is not in time.
    pub(super) fn flush(&self, within: Duration) -> KafkaResult<()> {
        self.producer.flush(within)
    }

    /// Why it failed for good: it takes nothing any more.
    pub(super) fn failed(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.producer.client().fatal_error()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // What is left in the queue is lost now, and not when the thread has noticed.
        self.producer.purge(PurgeConfig::default().queue().inflight());
        self.ended.store(true, Ordering::Release);
    }
}
