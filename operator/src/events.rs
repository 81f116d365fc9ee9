//! Kubernetes Events: a closed set of reasons, bounded notes, and never a reason for a reconcile to fail.

use crate::metrics::Metrics;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use std::time::Duration;

/// Everything that Meridian reports about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The object is as planned.
    Ready,
    /// It was, and is no longer.
    NotReady,
    /// A pass failed.
    ReconcileFailed,
    /// The object's content is refused.
    Invalid,
    /// An object of somebody else's is in the way.
    ForeignObject,
    /// Objects that left the plan were removed.
    Pruned,
    /// A migration job failed.
    MigrationFailed,
    /// A changed service did not become available; the others keep what they run.
    RolloutHalted,
    /// Rights in Kafka that nobody planned were taken away, or missing ones put back.
    AccessCorrected,
    /// A certificate was issued or renewed.
    CertificateIssued,
    /// A revision or epoch would have gone down.
    DecreaseRefused,
    /// The policy refuses something that the object asks for.
    PolicyRefused,
    /// The policy lease ended without a fresh renewal: transfers stop.
    PolicyLeaseLost,
    /// A pool's replicas were changed.
    Scaled,
    /// A pool is not scaled, and keeps the writers that it has.
    ScalingHeld,
    /// A member does not answer.
    MemberUnreachable,
    /// A member answers again.
    MemberReachable,
    /// Another hub writes into the member.
    OtherHub,
    /// The member holds tenants that the hub does not know.
    TenantsUnknown,
    /// A PrivacyIncident was opened, and its clocks run.
    IncidentOpened,
    /// A legal deadline of a PrivacyIncident ends within 24 hours.
    IncidentDeadlineNear,
    /// A legal deadline of a PrivacyIncident has passed without a notice.
    IncidentDeadlineMissed,
    /// A PrivacyIncident is closed, and no notice is owed.
    IncidentClosed,
}

impl Reason {
    fn name(self) -> String {
        format!("{self:?}")
    }

    fn severity(self) -> EventType {
        match self {
            Self::Ready
            | Self::Pruned
            | Self::CertificateIssued
            | Self::Scaled
            | Self::MemberReachable
            | Self::IncidentClosed => EventType::Normal,
            _ => EventType::Warning,
        }
    }
}

const NOTE_LIMIT: usize = 1000;
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(2);

/// Publishes events; repeated ones become a series.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
    metrics: Metrics,
}

impl Events {
    /// `controller` is the role's name, for example `meridian-region`.
    #[must_use]
    pub fn new(client: Client, controller: &str, instance: &str, metrics: Metrics) -> Self {
        let reporter = Reporter {
            controller: controller.to_owned(),
            instance: Some(instance.to_owned()),
        };
        Self {
            recorder: Recorder::new(client, reporter),
            metrics,
        }
    }

    /// Reports about one object. A failure is logged and counted, nothing more.
    pub async fn report(&self, about: &ObjectReference, reason: Reason, note: &str) {
        let event = Event {
            type_: reason.severity(),
            reason: reason.name(),
            note: Some(note.chars().take(NOTE_LIMIT).collect()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        match tokio::time::timeout(PUBLISH_TIMEOUT, self.recorder.publish(&event, about)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                self.metrics.event_dropped();
                tracing::warn!(reason = ?reason, error = %error, "an Event could not be published");
            }
            Err(_) => {
                self.metrics.event_dropped();
                tracing::warn!(reason = ?reason, "an Event could not be published in time");
            }
        }
    }
}
