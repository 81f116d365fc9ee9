//! As whom this process comes to the brokers. librdkafka takes a certificate, and whom it trusts, when a client is made, and
//! never again: whoever keeps a client makes it anew when they have changed, and finds out here that they have.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError as Raw, KafkaResult, RDKafkaErrorCode};
use tokio::sync::watch;

use super::{Kafka, KafkaError};
use crate::tls::Tls;

/// A certificate of this region, or nobody's name to a test's broker.
#[derive(Clone, Debug)]
pub(super) enum Identity {
    Mutual(Tls),
    Nobody,
}

impl Identity {
    /// Puts the certificate of now into what a client is made of.
    pub(super) fn show(&self, config: &mut ClientConfig) {
        let Self::Mutual(tls) = self else { return };
        let files = tls.files();
        // They were parsed as PEM, which is ASCII.
        let text = |pem: &[u8]| String::from_utf8_lossy(pem).into_owned();
        config
            .set("security.protocol", "ssl")
            .set("ssl.certificate.pem", text(&files.certificate))
            .set("ssl.key.pem", text(&files.key))
            .set("ssl.ca.pem", text(&files.ca))
            // Both are librdkafka's defaults; without either, any service of the region could be its broker.
            .set("enable.ssl.certificate.verification", "true")
            .set("ssl.endpoint.identification.algorithm", "https");
    }

    /// Tells when certificate or trust have changed.
    pub(super) fn changes(&self) -> Changes {
        Changes(match self {
            Self::Mutual(tls) => Some(tls.changes()),
            Self::Nobody => None,
        })
    }
}

/// What has changed since a client was made. Taken before the client is made: a change in between makes it once more, and
/// none is missed.
#[derive(Clone, Debug)]
pub(super) struct Changes(Option<watch::Receiver<u64>>);

impl Changes {
    /// Whether certificate or trust are others than when this was taken.
    pub(super) fn any(&self) -> bool {
        let seen = |changes: &watch::Receiver<u64>| changes.has_changed().unwrap_or(false);
        self.0.as_ref().is_some_and(seen)
    }

    /// Waits until they are others.
    pub(super) async fn next(&mut self) {
        if let Some(changes) = &mut self.0
            && changes.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

type Make<C> = dyn Fn(&Kafka) -> Result<C, KafkaError> + Send + Sync;

struct Made<C> {
    client: Arc<C>,
    changes: Changes,
}

/// A client that is asked now and then, and has nothing under way in between: made when it is first asked, and anew when
/// this process's certificate has changed or it was not answered. Cheap to clone; clones share the client.
pub struct Current<C> {
    kafka: Kafka,
    make: Arc<Make<C>>,
    made: Arc<Mutex<Option<Made<C>>>>,
}

impl<C> Clone for Current<C> {
    fn clone(&self) -> Self {
        Self {
            kafka: self.kafka.clone(),
            make: Arc::clone(&self.make),
            made: Arc::clone(&self.made),
        }
    }
}

impl<C> fmt::Debug for Current<C> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Current")
            .field("kafka", &self.kafka)
            .finish_non_exhaustive()
    }
}

impl<C: Send + Sync + 'static> Current<C> {
    /// A client that `make` makes.
    pub fn new(kafka: Kafka, make: impl Fn(&Kafka) -> Result<C, KafkaError> + Send + Sync + 'static) -> Self {
        Self {
            kafka,
            make: Arc::new(make),
            made: Arc::default(),
        }
    }

    /// Asks the client under the certificate of now. One that was not answered is not asked again: it may have forgotten every
    /// broker, and nobody hears what it tells of itself (docs/adr/0032).
    ///
    /// # Errors
    /// When librdkafka refuses the set-up, the broker the question, or there is no answer.
    pub fn ask<T>(&self, question: impl FnOnce(&C) -> KafkaResult<T>) -> Result<T, KafkaError> {
        let client = self.get()?;
        let answer = question(&client);
        if answer.as_ref().is_err_and(is_silence) {
            self.forget(&client);
            close(client);
        }
        answer.map_err(KafkaError::Consume)
    }

    fn get(&self) -> Result<Arc<C>, KafkaError> {
        let mut made = self.lock();
        if let Some(made) = made.as_ref().filter(|made| !made.changes.any()) {
            return Ok(Arc::clone(&made.client));
        }
        let changes = self.kafka.identity.changes();
        let client = Arc::new((self.make)(&self.kafka)?);
        let next = Made {
            client: Arc::clone(&client),
            changes,
        };
        if let Some(before) = made.replace(next) {
            close(before.client);
        }
        Ok(client)
    }

    /// Makes another when one is asked next, unless somebody was quicker.
    fn forget(&self, client: &Arc<C>) {
        self.lock().take_if(|made| Arc::ptr_eq(&made.client, client));
    }

    fn lock(&self) -> MutexGuard<'_, Option<Made<C>>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets go of a client that is not asked any more, in a thread: closing may take longer than who asks has patience.
fn close<C: Send + Sync + 'static>(client: Arc<C>) {
    let closing = std::thread::Builder::new().name("kafka closing".to_owned());
    // Without a thread it is closed here.
    let _ = closing.spawn(move || drop(client));
}

/// Whether nobody answered: a refusal is an answer.
fn is_silence(error: &Raw) -> bool {
    use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut, WaitingForCoordinator};
    matches!(
        error.rdkafka_error_code(),
        Some(AllBrokersDown | BrokerTransportFailure | OperationTimedOut | WaitingForCoordinator)
    )
}
