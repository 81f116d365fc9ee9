//! Who is asking: an athlete or a marketing system by its token, another service by its certificate.
//!
//! Tokens are EdDSA JWTs with exactly the claims `iss, aud, sub, tenant, epoch, exp`; one more or one fewer is refused, so
//! that nothing personal can creep into a token. A valid token of a tenant that lives elsewhere gets a 421 with its home.

mod callers;
mod tokens;

pub use callers::{Athlete, Marketer, Peer, RequirePeer, RequirePeerService, admit};
pub use tokens::{Audience, Claims, IdentityKeys, KeySource, Refusal, Verifier, bearer};
