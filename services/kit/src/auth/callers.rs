//! Callers as extractors and layers: athletes, marketing systems, services.

use std::convert::Infallible;

use axum::extract::{FromRequestParts, OptionalFromRequestParts, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use http::request::Parts;
use meridian_policy::{Epoch, RegionName, TenantId};

use super::{Audience, Refusal, bearer};
use crate::db::Scope;
use crate::headers::AUTHORIZATION;
use crate::ids::SubjectId;
use crate::problem::Problem;
use crate::start::Start;
use crate::tls::PeerId;

fn start_of(parts: &Parts) -> Result<Start, Problem> {
    // Put there by `server::stack`, through which every router is served.
    parts.extensions.get::<Start>().cloned().ok_or_else(|| {
        Problem::new(
            http::StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the router is served without its stack",
        )
    })
}

/// An athlete with a valid token, at home here.
///
/// ```
/// use meridian_kit::auth::Athlete;
/// async fn me(athlete: Athlete) -> String {
///     athlete.subject.to_string()
/// }
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Athlete {
    /// The partition.
    pub tenant: TenantId,
    /// The data subject.
    pub subject: SubjectId,
    /// The epoch of the tenant's home.
    pub epoch: Epoch,
}

impl Athlete {
    /// The scope for work on the tenant's rows.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::new(self.tenant.clone(), self.epoch)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Athlete {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let start = start_of(parts)?;
        let claims = start
            .verifier()
            .verify(bearer(&parts.headers)?, Audience::Athlete)
            .await?;
        let subject = claims.sub.parse().map_err(|_| Refusal::Invalid)?;
        Ok(Self {
            tenant: claims.tenant,
            subject,
            epoch: claims.epoch,
        })
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for Athlete {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, Problem> {
        if !parts.headers.contains_key(AUTHORIZATION) {
            return Ok(None);
        }
        <Self as FromRequestParts<S>>::from_request_parts(parts, state)
            .await
            .map(Some)
    }
}

/// A tenant's marketing system with a valid token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Marketer {
    /// The partition.
    pub tenant: TenantId,
    /// The system's client id.
    pub client_id: String,
    /// The epoch of the tenant's home.
    pub epoch: Epoch,
}

impl Marketer {
    /// The scope for work on the tenant's rows.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::new(self.tenant.clone(), self.epoch)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Marketer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let start = start_of(parts)?;
        let claims = start
            .verifier()
            .verify(bearer(&parts.headers)?, Audience::Marketing)
            .await?;
        Ok(Self {
            tenant: claims.tenant,
            client_id: claims.sub,
            epoch: claims.epoch,
        })
    }
}

/// The service that called, by its certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer(pub PeerId);

impl Peer {
    /// The service's name.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.0.service
    }

    /// The region whose CA vouches for it.
    #[must_use]
    pub fn region(&self) -> &RegionName {
        &self.0.region
    }

    /// A layer that lets only these services of this region through.
    ///
    /// ```
    /// use axum::{Router, routing::post};
    /// use meridian_kit::auth::Peer;
    /// let internal: Router = Router::new().route("/internal/permits", post(|| async {})).layer(Peer::require(&["promotions", "replicator"]));
    /// ```
    #[must_use]
    pub fn require(services: &'static [&'static str]) -> RequirePeer {
        RequirePeer { services }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<PeerId>().cloned();
        peer.map(Self)
            .ok_or_else(|| Problem::forbidden("peer-unknown", "this is for services with a certificate"))
    }
}

/// The layer of [`Peer::require`].
#[derive(Clone, Copy, Debug)]
pub struct RequirePeer {
    services: &'static [&'static str],
}

impl<S> tower::Layer<S> for RequirePeer {
    type Service = RequirePeerService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequirePeerService {
            inner,
            services: self.services,
        }
    }
}

/// The service of [`Peer::require`].
#[derive(Clone, Debug)]
pub struct RequirePeerService<S> {
    inner: S,
    services: &'static [&'static str],
}

impl<S> tower::Service<Request> for RequirePeerService<S>
where
    S: tower::Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let own_region = request.extensions().get::<Start>().map(|start| start.region().clone());
        let admitted = request.extensions().get::<PeerId>().is_some_and(|peer| {
            Some(&peer.region) == own_region.as_ref() && self.services.contains(&peer.service.as_str())
        });
        if admitted {
            return Box::pin(self.inner.call(request));
        }
        tracing::warn!("a service that may not call this address was refused");
        let refused = Problem::forbidden("peer-not-admitted", "this address is not for the calling service");
        Box::pin(std::future::ready(Ok(refused.into_response())))
    }
}

/// As [`Peer::require`], for `axum::middleware::from_fn` with a condition of your own.
pub async fn admit(condition: impl Fn(&PeerId) -> bool, request: Request, next: Next) -> Response {
    match request.extensions().get::<PeerId>() {
        Some(peer) if condition(peer) => next.run(request).await,
        _ => Problem::forbidden("peer-not-admitted", "this address is not for the calling service").into_response(),
    }
}
