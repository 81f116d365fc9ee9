//! The subject's consent, asked at the moment of each delivery. No answer is a no.

use std::time::{Duration, Instant};

use futures::future::join_all;
use http::StatusCode;
use meridian_kit::SubjectId;
use meridian_kit::client::{ClientError, ServiceClient};
use meridian_policy::{CompiledEdge, DataClass, Purpose, TenantId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::delivery::PermitWindow;

/// A permit is worth nothing after two seconds; waiting longer for one is pointless.
const ANSWER: Duration = Duration::from_secs(2);
/// Deliveries that the consent service is asked about at once; it takes a few more.
const ASKED_AT_ONCE: usize = 500;

/// A client of the consent service.
pub(super) struct Consent(ServiceClient);

/// What the consent service says of one delivery.
pub(super) enum Answer {
    /// A push may start within the window; close it afterwards.
    Permit { id: Uuid, window: PermitWindow },
    /// The subject does not consent, by this rule.
    No(String),
    /// Nothing: that means no, for now.
    Unreachable,
}

#[derive(Serialize)]
struct PermitsRequest<'a> {
    tenant: &'a TenantId,
    purpose: Purpose,
    class: DataClass,
    deliverer: &'static str,
    deliveries: &'a [Asked],
}

/// A delivery that a permit is asked for.
#[derive(Serialize)]
pub(super) struct Asked {
    pub(super) subject: SubjectId,
    pub(super) delivery_id: Uuid,
}

#[derive(Deserialize)]
struct Permits {
    valid_for_ms: u64,
    permits: Vec<Word>,
}

#[derive(Deserialize)]
struct Word {
    permit_id: Option<Uuid>,
    rule: Option<String>,
}

#[derive(Serialize)]
struct Closing<'a> {
    tenant: &'a TenantId,
    permits: &'a [Uuid],
}

impl Consent {
    pub(super) fn new(client: ServiceClient) -> Self {
        Self(client)
    }

    /// Asks for all deliveries of a batch; the answers are in their order.
    pub(super) async fn ask(&self, edge: &CompiledEdge, purpose: Purpose, deliveries: &[Asked]) -> Vec<Answer> {
        // Side by side: the push ends with the first permit, whichever question that is the answer to.
        let asked = deliveries.chunks(ASKED_AT_ONCE);
        let answers = join_all(asked.map(|asked| self.ask_at_once(edge, purpose, asked))).await;
        answers.into_iter().flatten().collect()
    }

    /// The window of each counts from before the question.
    async fn ask_at_once(&self, edge: &CompiledEdge, purpose: Purpose, deliveries: &[Asked]) -> Vec<Answer> {
        let request = PermitsRequest {
            tenant: &edge.tenant,
            purpose,
            class: edge.class,
            deliverer: "replicator",
            deliveries,
        };
        let asked = Instant::now();
        let answer = self
            .0
            .post("/internal/permits/open")
            .json(&request)
            .within(ANSWER)
            .fetch::<Permits>()
            .await;
        match answer {
            Ok(answer) if answer.permits.len() == deliveries.len() => {
                let window = PermitWindow::new(asked, Duration::from_millis(answer.valid_for_ms));
                answer.permits.into_iter().map(|word| word.within(window)).collect()
            }
            Ok(answer) => {
                let count = answer.permits.len();
                tracing::warn!(count, "consent answered for other deliveries than were asked for");
                all(deliveries, || Answer::Unreachable)
            }
            Err(ClientError::Refused {
                status: StatusCode::FORBIDDEN,
                code,
                body,
                ..
            }) => {
                let rule = body
                    .as_ref()
                    .and_then(|body| body.get("rule")?.as_str())
                    .map(str::to_owned);
                let rule = rule.or(code).unwrap_or_else(no_consent);
                all(deliveries, || Answer::No(rule.clone()))
            }
            Err(error) => {
                tracing::warn!(%error, "consent could not be confirmed, so nothing is delivered");
                all(deliveries, || Answer::Unreachable)
            }
        }
    }

    /// Closes permits, so that a withdrawal need not wait for them to run out. They run out anyway.
    pub(super) async fn close(&self, tenant: &TenantId, permits: &[Uuid]) {
        let closing = permits.chunks(ASKED_AT_ONCE);
        join_all(closing.map(|permits| self.close_at_once(tenant, permits))).await;
    }

    async fn close_at_once(&self, tenant: &TenantId, permits: &[Uuid]) {
        let closing = self
            .0
            .post("/internal/permits/close")
            .json(&Closing { tenant, permits })
            .idempotent()
            .within(ANSWER)
            .send()
            .await;
        if let Err(error) = closing {
            tracing::warn!(%error, "permits could not be closed; they run out by themselves");
        }
    }
}

impl Word {
    fn within(self, window: PermitWindow) -> Answer {
        match self {
            Self {
                permit_id: Some(id), ..
            } => Answer::Permit { id, window },
            Self { rule, .. } => Answer::No(rule.unwrap_or_else(no_consent)),
        }
    }
}

fn no_consent() -> String {
    "no-consent".to_owned()
}

fn all(deliveries: &[Asked], answer: impl Fn() -> Answer) -> Vec<Answer> {
    deliveries.iter().map(|_| answer()).collect()
}
