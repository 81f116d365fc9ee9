//! A service that writes without end, and one that reads what it wrote.

use crate::broker::Region;
use meridian_kit::Start;
use meridian_kit::config::Brokers;
use meridian_kit::event::{Draft, Event, EventSource};
use meridian_kit::kafka::{BatchHandler, Consumed, Consumer, Failure, Producer};
use meridian_kit::subject_keys::{KeyScope, SubjectKey};
use meridian_kit::tls::Tls;
use meridian_policy::{DataClass, Epoch};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

const PATIENCE: Duration = Duration::from_secs(120);
/// Records under way at a time.
const AT_ONCE: u64 = 20;
/// Between them, so that what is read is not mostly load.
const PAUSE: Duration = Duration::from_millis(20);

/// The event with this number.
pub fn event(number: u64) -> Vec<u8> {
    let source = EventSource::new("eu".parse().unwrap(), "training");
    let key = SubjectKey::from_bytes(
        "stride-eu".parse().unwrap(),
        meridian_kit::SubjectId(uuid::Uuid::nil()),
        KeyScope::Personal,
        Zeroizing::new([7; 32]),
    );
    let draft = Draft {
        kind: "sh.meridian.workout.completed.v1",
        stream: "load".to_owned(),
        sequence: number,
        class: DataClass::WorkoutSummary,
        epoch: Epoch(1),
    };
    Event::sealed(&source, draft, &key, "a workout").unwrap().to_bytes()
}

/// Writes events 0, 1, 2… and sends those again that the broker did not take, as the outbox does.
pub struct Writing {
    stop: Arc<AtomicBool>,
    /// Every event below it is acknowledged.
    acknowledged: watch::Receiver<u64>,
    task: JoinHandle<u64>,
}

impl Writing {
    pub fn begin(producer: Producer, topic: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, acknowledged) = watch::channel(0);
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut first = 0;
            while !stopped.load(Ordering::Relaxed) {
                let mut left: Vec<u64> = (first..first + AT_ONCE).collect();
                while !left.is_empty() {
                    let mut under_way = Vec::new();
                    for number in left.drain(..) {
                        let delivery = producer.enqueue(topic, "key", &event(number)).await.unwrap();
                        under_way.push((number, delivery));
                    }
                    for (number, delivery) in under_way {
                        if delivery.await.is_err() {
                            left.push(number);
                        }
                    }
                }
                first += AT_ONCE;
                told.send_replace(first);
                tokio::time::sleep(PAUSE).await;
            }
            first
        });
        Self {
            stop,
            acknowledged,
            task,
        }
    }

    /// Waits until events that were not begun yet are acknowledged; below which number all are.
    pub async fn acknowledged_more(&self) -> u64 {
        let mut acknowledged = self.acknowledged.clone();
        let now = *acknowledged.borrow();
        let more = acknowledged.wait_for(|known| *known >= now + 2 * AT_ONCE);
        *tokio::time::timeout(PATIENCE, more)
            .await
            .expect("nothing more is acknowledged")
            .unwrap()
    }

    /// Ends it; below which number all events are acknowledged.
    pub async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// Which events were read.
#[derive(Clone, Default)]
pub struct Seen {
    numbers: Arc<Mutex<BTreeSet<u64>>>,
    more: Arc<tokio::sync::Notify>,
}

impl BatchHandler for Seen {
    async fn handle(&self, events: &[Consumed<'_>]) -> Result<(), Failure> {
        self.numbers
            .lock()
            .unwrap()
            .extend(events.iter().map(|consumed| consumed.event.sequence));
        self.more.notify_one();
        Ok(())
    }
}

impl Seen {
    /// Waits until every event below a number was read.
    pub async fn has(&self, below: u64) {
        let all = || (0..below).all(|number| self.numbers.lock().unwrap().contains(&number));
        let waiting = async {
            while !all() {
                self.more.notified().await;
            }
        };
        let read = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(read.is_ok(), "of {below} events these were read: {:?}", self.numbers);
    }
}

/// A service that reads.
pub struct Reading {
    start: Start,
    task: JoinHandle<()>,
}

impl Reading {
    /// Its certificate.
    pub fn tls(&self) -> &Tls {
        self.start.tls()
    }

    /// Ends it, while its broker is there: without one, librdkafka waits for ever to commit what it has read.
    pub async fn end(self) {
        self.start.stop().cancel();
        self.task.await.unwrap();
    }
}

/// Starts a consumer of a component, as its service does.
pub async fn consumer(region: &Region, component: &'static str, topic: &'static str, seen: &Seen) -> Reading {
    let home = meridian_kit::testing::Region::new("eu", &["stride-eu"]).await;
    let start = home.start_with(component, |config| {
        config.kafka = Brokers::Mutual(vec![region.address()]);
        config.tls_dir = region.folder(&format!("tls-{component}"));
        config.topic_prefix.clear();
    });
    let consumer = Consumer::new(&start, &[topic]).unwrap();
    let reading = consumer.run_batches(seen.clone());
    let task = tokio::spawn(async move {
        // What the start names lies in its folder.
        let _home = home;
        reading.await.unwrap();
    });
    Reading { start, task }
}
