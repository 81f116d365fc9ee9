//! Requests that may be repeated: the same `Idempotency-Key` with the same body gets the same answer, and the work is done
//! once, because answer and work commit together.
//!
//! ```no_run
//! # use meridian_kit::{auth::Athlete, db::{Pool, TenantTx}, idempotency::{self, IdempotencyKey, Outcome}, problem::Problem, subject_keys::SubjectKey};
//! # use axum::response::Response;
//! # async fn example(pool: Pool, athlete: Athlete, key: IdempotencyKey, subject_key: SubjectKey, body: bytes::Bytes) -> Result<Response, Problem> {
//! let mut tx = TenantTx::begin(&pool, &athlete.scope()).await?;
//! let slot = match idempotency::begin(&mut tx, &athlete.subject.to_string(), &key, &body, &subject_key).await? {
//!     Outcome::Fresh(slot) => slot,
//!     Outcome::Repeated(response) => return Ok(response),
//! };
//! // … the work, in the same transaction …
//! let response = slot.finish(&mut tx, http::StatusCode::CREATED, &serde_json::json!({"id": 1})).await?;
//! tx.commit().await?;
//! Ok(response)
//! # }
//! ```

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::db::{Error, TenantTx};
use crate::headers::{CONTENT_TYPE, IDEMPOTENCY_KEY, IDEMPOTENCY_REPLAYED};
use crate::problem::Problem;
use crate::subject_keys::SubjectKey;

const LIMIT: usize = 64;

/// The request's `Idempotency-Key`, if it has one.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct IdempotencyKey(Option<String>);

impl IdempotencyKey {
    /// A key for work that is repeatable by an id of its own.
    ///
    /// # Errors
    /// When it is empty, longer than 64 characters, or not printable ASCII.
    pub fn new(text: &str) -> Result<Self, Problem> {
        let valid = (1..=LIMIT).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if valid {
            return Ok(Self(Some(text.to_owned())));
        }
        let message = "Idempotency-Key must have 1 to 64 printable ASCII characters";
        Err(Problem::bad_request("idempotency-key-invalid", message))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        match parts.headers.get(IDEMPOTENCY_KEY) {
            None => Ok(Self(None)),
            // A value that is not text is as invalid as an empty one.
            Some(value) => Self::new(value.to_str().unwrap_or_default()),
        }
    }
}

/// Whether the work is to be done.
#[derive(Debug)]
pub enum Outcome {
    /// Do it, then [`Slot::finish`].
    Fresh(Slot),
    /// It was done; this was the answer.
    Repeated(Response),
}

/// A request that is being answered for the first time.
#[derive(Debug)]
#[must_use = "finish it with the answer"]
pub struct Slot {
    claim: Option<(String, String)>,
    key: SubjectKey,
}

/// Claims a key for the transaction. A second request with the same key waits for the first to end.
///
/// # Errors
/// 409 `idempotency-key-reused` when the key came with another body before; or that of the database.
pub async fn begin(
    tx: &mut TenantTx,
    subject: &str,
    key: &IdempotencyKey,
    request: &[u8],
    subject_key: &SubjectKey,
) -> Result<Outcome, Problem> {
    let Some(key) = key.as_str() else {
        return Ok(Outcome::Fresh(Slot {
            claim: None,
            key: subject_key.clone(),
        }));
    };
    let digest = digest(&SHA256, request).as_ref().to_vec();
    let claimed = sqlx::query(
        "insert into idempotency (subject, key, request_digest) values ($1, $2, $3) on conflict do nothing",
    )
    .bind(subject)
    .bind(key)
    .bind(&digest)
    .execute(tx.conn())
    .await
    .map_err(Error::from)?;
    if claimed.rows_affected() == 1 {
        let claim = Some((subject.to_owned(), key.to_owned()));
        return Ok(Outcome::Fresh(Slot {
            claim,
            key: subject_key.clone(),
        }));
    }
    let query = "select request_digest, status, response from idempotency where subject = $1 and key = $2";
    let (before, status, sealed): (Vec<u8>, Option<i32>, Option<Vec<u8>>) = sqlx::query_as(query)
        .bind(subject)
        .bind(key)
        .fetch_one(tx.conn())
        .await
        .map_err(Error::from)?;
    if before != digest {
        let message = "this Idempotency-Key was used with another request; use a new key for a new request";
        return Err(Problem::conflict("idempotency-key-reused", message));
    }
    // Both are written by the transaction that claimed the key; without them it committed without finishing.
    let (Some(status), Some(sealed)) = (status, sealed) else {
        return Err(Problem::conflict(
            "idempotency-key-unfinished",
            "the request with this key had no answer; use a new key",
        ));
    };
    let body = subject_key.open(&context(subject, key), sealed)?;
    let status = u16::try_from(status)
        .ok()
        .and_then(|status| StatusCode::from_u16(status).ok())
        .unwrap_or(StatusCode::OK);
    let mut response = answer(status, body.to_vec());
    response
        .headers_mut()
        .insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    Ok(Outcome::Repeated(response))
}

impl Slot {
    /// Stores the answer in the transaction and returns it. Send it after the commit.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn finish<T: Serialize + ?Sized>(
        self,
        tx: &mut TenantTx,
        status: StatusCode,
        body: &T,
    ) -> Result<Response, Problem> {
        let body = serde_json::to_vec(body).map_err(|error| Problem::internal(&error))?;
        if let Some((subject, key)) = &self.claim {
            let sealed = self.key.seal(&context(subject, key), &body)?;
            sqlx::query("update idempotency set status = $3, response = $4 where subject = $1 and key = $2")
                .bind(subject)
                .bind(key)
                .bind(i32::from(status.as_u16()))
                .bind(sealed.as_bytes())
                .execute(tx.conn())
                .await
                .map_err(Error::from)?;
        }
        Ok(answer(status, body))
    }
}

fn context(subject: &str, key: &str) -> String {
    format!("idempotency:{subject}:{key}")
}

fn answer(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = (status, body).into_response();
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_short_and_printable() {
        assert!(IdempotencyKey::new("ride-2026-11-21").is_ok());
        for text in ["", "two words", "ü", &"x".repeat(65)] {
            assert!(IdempotencyKey::new(text).is_err(), "{text}");
        }
    }
}
