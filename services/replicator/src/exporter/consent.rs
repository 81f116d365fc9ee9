//! The subject's consent, asked at the moment of each delivery. No answer is a no.

use std::time::{Duration, Instant};

use http::StatusCode;
use meridian_kit::SubjectId;
use meridian_kit::client::{ClientError, ServiceClient};
use meridian_policy::{DataClass, Purpose, TenantId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::delivery::PermitWindow;

/// A permit is worth nothing after two seconds; waiting longer for one is pointless.
const ANSWER: Duration = Duration::from_secs(2);

/// A client of the consent service.
pub(super) struct Consent(ServiceClient);

/// What the consent service says.
pub(super) enum Answer {
    /// A push may start within the window; close it afterwards.
    Permit { id: String, window: PermitWindow },
    /// The subject does not consent, by this rule.
    No(String),
    /// Nothing: that means no, for now.
    Unreachable,
}

#[derive(Serialize)]
struct PermitRequest<'a> {
    tenant: &'a TenantId,
    subject: SubjectId,
    purpose: Purpose,
    class: DataClass,
    delivery_id: Uuid,
    deliverer: &'static str,
}

#[derive(Deserialize)]
struct Permit {
    permit_id: String,
    valid_for_ms: u64,
}

impl Consent {
    pub(super) fn new(client: ServiceClient) -> Self {
        Self(client)
    }

    pub(super) async fn ask(
        &self,
        tenant: &TenantId,
        subject: SubjectId,
        purpose: Purpose,
        class: DataClass,
        delivery_id: Uuid,
    ) -> Answer {
        let request = PermitRequest {
            tenant,
            subject,
            purpose,
            class,
            delivery_id,
            deliverer: "replicator",
        };
        let asked = Instant::now();
        match self
            .0
            .post("/internal/permits")
            .json(&request)
            .within(ANSWER)
            .fetch::<Permit>()
            .await
        {
            Ok(permit) => {
                let window = PermitWindow::new(asked, Duration::from_millis(permit.valid_for_ms));
                Answer::Permit {
                    id: permit.permit_id,
                    window,
                }
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
                Answer::No(rule.or(code).unwrap_or_else(|| "no-consent".to_owned()))
            }
            Err(error) => {
                tracing::warn!(%error, "consent could not be confirmed, so nothing is delivered");
                Answer::Unreachable
            }
        }
    }

    /// Closes permits, so that a withdrawal need not wait for them to run out. They run out anyway.
    pub(super) async fn close(&self, permits: &[String]) {
        for id in permits {
            let closing = self
                .0
                .post(&format!("/internal/permits/{id}/close"))
                .idempotent()
                .within(ANSWER)
                .send()
                .await;
            if let Err(error) = closing {
                tracing::warn!(%error, "a permit could not be closed; it runs out by itself");
            }
        }
    }
}
