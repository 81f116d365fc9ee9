//! Why identity did not do what was asked, and how that is said over HTTP. Sentences never repeat what was typed.

use http::StatusCode;
use meridian_kit::problem::Problem;
use meridian_kit::{db, subject_keys};

use crate::domain::InvalidField;
use crate::domain::user::{self, BrokenHistory};
use crate::password::PasswordError;
use crate::tokens::TokenError;

/// Why a request was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A field breaks a rule.
    #[error(transparent)]
    Field(#[from] InvalidField),
    /// The country is not a code.
    #[error("country must be an ISO 3166-1 alpha-2 code in capitals, like DE")]
    Country,
    /// Another region serves the declared country.
    #[error("accounts of residents of this country are kept in another region; register at the address in home")]
    ResidenceElsewhere {
        /// That region's public address.
        public_url: String,
    },
    /// No region serves the declared country.
    #[error("no region serves residents of this country yet; GET /api/v1/regions lists the countries served")]
    ResidenceUnserved,
    /// The header names no tenant of this region.
    #[error("the header Meridian-Tenant must name a tenant of this region")]
    UnknownTenant,
    /// The tenant has an account with this e-mail address.
    #[error("an account with this e-mail address exists; sign in instead")]
    AccountExists,
    /// Any failed sign-in.
    #[error("e-mail, password or tenant is wrong")]
    SignIn,
    /// Any failed client authentication.
    #[error("client_id or client_secret is wrong")]
    Client,
    /// A valid token, but the account is gone.
    #[error("the account does not exist any more")]
    NoAccount,
    /// A change names no version.
    #[error("say for which version of the profile the change is: If-Match: \"<version>\" or expected_version")]
    VersionMissing,
    /// A command on the user.
    #[error(transparent)]
    User(#[from] user::Refusal),
    /// The history in the table.
    #[error(transparent)]
    History(#[from] BrokenHistory),
    /// Hashing.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// Signing.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The database.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The keyring, or a sealed value.
    #[error(transparent)]
    Keys(#[from] subject_keys::Error),
    /// An answer that the kit has worded already.
    #[error("{0}")]
    Problem(Box<Problem>),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        let unprocessable = |code: &'static str| Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, message.clone());
        match refusal {
            Refusal::Field(field) | Refusal::User(user::Refusal::Invalid(field)) => {
                Self::bad_request("invalid-field", "a field of the body does not fit; see details")
                    .detail(field.field, field.rule)
            }
            Refusal::Country => Self::bad_request("invalid-field", "a field of the body does not fit; see details")
                .detail("country", message),
            Refusal::ResidenceElsewhere { public_url } => Self::misdirected(public_url).detail("country", message),
            Refusal::ResidenceUnserved => unprocessable("country-not-served").detail("country", message.clone()),
            Refusal::UnknownTenant => unprocessable("unknown-tenant"),
            Refusal::AccountExists => Self::conflict("account-exists", message),
            Refusal::SignIn => Self::unauthorized("sign-in-failed", message),
            Refusal::Client => Self::unauthorized("client-unknown", message),
            Refusal::NoAccount => Self::not_found("no-account", message),
            Refusal::VersionMissing => Self::new(StatusCode::PRECONDITION_REQUIRED, "version-missing", message),
            Refusal::User(user::Refusal::VersionConflict { .. }) => Self::conflict("version-conflict", message),
            Refusal::Password(PasswordError::Busy) => Self::too_many(std::time::Duration::from_secs(2)),
            Refusal::Password(error) => Self::internal(&error),
            Refusal::Token(error) => Self::internal(&error),
            Refusal::History(error) => Self::internal(&error),
            Refusal::Database(error) => error.into(),
            Refusal::Keys(error) => error.into(),
            Refusal::Problem(problem) => *problem,
        }
    }
}
