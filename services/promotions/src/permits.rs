//! Asking the consent service, at each delivery, whether it may start.

use std::time::{Duration, Instant};

use http::StatusCode;
use meridian_kit::SubjectId;
use meridian_kit::client::{ClientError, ServiceClient};
use meridian_policy::{Purpose, TenantId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::audience::Matter;
use crate::domain::window::Window;

/// A permit is worthless after two seconds, so its answer is not waited for longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the consent service said.
#[derive(Debug)]
pub enum Answer {
    /// The delivery may start in this window.
    Permitted(Permit),
    /// Consent does not stand.
    Refused,
}

/// Open permits for one delivery.
#[derive(Debug)]
#[must_use = "close it when the delivery is done"]
pub struct Permit {
    /// When the delivery may start.
    pub window: Window,
    ids: Vec<Uuid>,
}

#[derive(Serialize)]
struct Request<'a> {
    tenant: &'a TenantId,
    subject: SubjectId,
    purpose: &'static str,
    class: &'static str,
    delivery_id: String,
    deliverer: &'static str,
}

#[derive(Deserialize)]
struct Opened {
    permit_id: Uuid,
    valid_for_ms: u64,
}

/// Asks for permits. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Permits {
    consent: ServiceClient,
}

impl Permits {
    /// With a client for consent.
    #[must_use]
    pub fn new(consent: ServiceClient) -> Self {
        Self { consent }
    }

    /// Asks for every consent that the delivery rests on. All of them, or none is kept.
    ///
    /// # Errors
    /// When there is no clear answer, which means no for now.
    pub async fn open(
        &self,
        tenant: &TenantId,
        subject: SubjectId,
        delivery: Uuid,
        matters: &[Matter],
    ) -> Result<Answer, ClientError> {
        let mut permit: Option<Permit> = None;
        for matter in matters {
            match self.ask(tenant, subject, delivery, *matter).await {
                Ok(Some((id, window))) => {
                    let joined = match permit.take() {
                        None => Permit { window, ids: vec![id] },
                        Some(mut before) => {
                            before.ids.push(id);
                            Permit {
                                window: before.window.and(window),
                                ..before
                            }
                        }
                    };
                    permit = Some(joined);
                }
                other => {
                    if let Some(before) = permit {
                        self.close(before).await;
                    }
                    return other.map(|_| Answer::Refused);
                }
            }
        }
        // A delivery that rests on no consent does not exist (`domain::audience::needed`); if one did, the answer is no.
        Ok(permit.map_or(Answer::Refused, Answer::Permitted))
    }

    async fn ask(
        &self,
        tenant: &TenantId,
        subject: SubjectId,
        delivery: Uuid,
        matter: Matter,
    ) -> Result<Option<(Uuid, Window)>, ClientError> {
        let request = Request {
            tenant,
            subject,
            purpose: Purpose::Marketing.as_str(),
            class: matter.class().as_str(),
            delivery_id: delivery.to_string(),
            deliverer: "promotions",
        };
        // Before the request leaves: the permit is opened later than this.
        let asked = Instant::now();
        let answer = self
            .consent
            .post("/internal/permits")
            .json(&request)
            .within(PATIENCE)
            .fetch::<Opened>()
            .await;
        match answer {
            Ok(opened) => {
                let window = Window::new(asked, Duration::from_millis(opened.valid_for_ms));
                Ok(Some((opened.permit_id, window)))
            }
            Err(error) if says_no(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Closes permits, so that a withdrawal need not wait for their end. They end by themselves if this fails.
    pub async fn close(&self, permit: Permit) {
        for id in permit.ids {
            let closed = self
                .consent
                .post(&format!("/internal/permits/{id}/close"))
                .within(PATIENCE)
                .send()
                .await;
            if let Err(error) = closed {
                tracing::info!(%error, permit_id = %id, "a permit was not closed and will run out");
            }
        }
    }
}

/// Whether this is the consent service's "no", and not a refusal for another reason (a wrong certificate, a tenant whose
/// placement has not arrived there), which would drop deliveries that are allowed.
fn says_no(error: &ClientError) -> bool {
    match error {
        ClientError::Refused { status, body, .. } => {
            let rule = body
                .as_ref()
                .and_then(|body| body.get("rule"))
                .and_then(serde_json::Value::as_str);
            *status == StatusCode::FORBIDDEN && matches!(rule, Some("consent-missing" | "consent-withdrawn"))
        }
        _ => false,
    }
}
