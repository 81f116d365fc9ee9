//! What identity does: register, sign in, show and change a profile, hand out tokens. Each use case in one function,
//! decided by `domain/`, stored by `store/`.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use axum::response::Response;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use meridian_kit::auth::Athlete;
use meridian_kit::db::{Pool, Scope, TenantTx};
use meridian_kit::event::{Draft, Event, EventSource};
use meridian_kit::idempotency::{self, IdempotencyKey, Outcome};
use meridian_kit::policy_feed::PolicyFeed;
use meridian_kit::residency::Homes;
use meridian_kit::subject_keys::{Create, KeyScope, Keyring, SubjectKey};
use meridian_kit::{SubjectId, outbox};
use meridian_policy::{CountryCode, DataClass, TenantId};
use serde::{Deserialize, Serialize};

use crate::domain::claims::{Audience, Claims, LIFETIME};
use crate::domain::email::EmailAddress;
use crate::domain::password::Password;
use crate::domain::profile::{Privacy, Profile, ProfileChange, check_birth_year};
use crate::domain::residence::{self, Residence};
use crate::domain::user::{User, UserEvent};
use crate::marketing::MarketingClients;
use crate::password::PasswordHasher;
use crate::refusal::Refusal;
use crate::secrets::Secrets;
use crate::store::accounts::{self as store, Inserted, NewAccount};
use crate::tokens::Signer;

/// Where identity's events go.
pub const TOPIC: &str = "identity.events";
/// An account came to be.
pub const USER_REGISTERED: &str = "sh.meridian.user.registered.v1";
/// Name or privacy changed.
pub const USER_PROFILE_UPDATED: &str = "sh.meridian.user.profile-updated.v1";

/// A request to register.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    email: String,
    password: Password,
    first_name: String,
    last_name: String,
    country: String,
    #[serde(default)]
    birth_year: Option<i16>,
}

/// The answer to a registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Registered {
    /// The athlete's opaque id in this tenant.
    pub subject: SubjectId,
    /// The tenant.
    pub tenant: TenantId,
}

/// What others need to know of a user, the payload of both events. No e-mail, no year of birth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserFacts {
    /// Whose facts these are.
    pub subject: SubjectId,
    /// Declared country of residence.
    pub country: String,
    /// Given name.
    pub first_name: String,
    /// Family name.
    pub last_name: String,
    /// Who may see what.
    pub privacy: Privacy,
}

/// One's own account, as `GET /api/v1/me` shows it.
#[derive(Clone, Serialize)]
pub struct Me {
    /// The athlete's opaque id.
    pub subject: SubjectId,
    /// The tenant.
    pub tenant: TenantId,
    /// Sign-in name.
    pub email: String,
    /// Declared country of residence.
    pub country: String,
    /// Declared year of birth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub birth_year: Option<i16>,
    /// Name, bio, preferences, privacy.
    #[serde(flatten)]
    pub profile: Profile,
    /// Version for the next change.
    pub version: i64,
}

/// A token and its lifetime.
#[derive(Clone, Serialize)]
pub struct AccessToken {
    access_token: String,
    token_type: &'static str,
    expires_in: u64,
}

/// Everything that the use cases need.
#[derive(Clone)]
pub struct Accounts {
    /// The database.
    pub pool: Pool,
    /// Live policy.
    pub feed: PolicyFeed,
    /// Tenants at home here.
    pub homes: Homes,
    /// Subject keys.
    pub keyring: Keyring,
    /// Who our events come from.
    pub source: EventSource,
    /// Keys derived from the pepper.
    pub secrets: Arc<Secrets>,
    /// argon2.
    pub passwords: PasswordHasher,
    /// Token signing.
    pub signer: Signer,
    /// Marketing credentials.
    pub marketing: MarketingClients,
}

impl Accounts {
    /// Registers an athlete in the tenant that the request names, if their declared country is served here.
    ///
    /// `body` is the request as it came: with `key`, a repetition of the same body gets the same answer.
    pub async fn register(
        &self,
        tenant: &TenantId,
        request: Registration,
        key: &IdempotencyKey,
        body: &[u8],
    ) -> Result<Response, Refusal> {
        let (email, user, event) = self.admit(&request)?;
        let scope = self.homes.scope(tenant).ok_or(Refusal::UnknownTenant)?;
        // Before the transaction: a connection is not held while argon2 runs.
        let password_hash = self.passwords.hash(request.password).await?;
        let email_index = self.secrets.email_index(tenant, &email);

        let mut tx = TenantTx::begin(&self.pool, &scope).await?;
        let claim = self.idempotency_claim(tenant, &email_index, body)?;
        let slot = match idempotency::begin(&mut tx, &claim.owner, key, &claim.request, &claim.sealing).await? {
            Outcome::Fresh(slot) => slot,
            Outcome::Repeated(response) => return Ok(response),
        };
        if store::credentials(&mut tx, &email_index).await?.is_some() {
            return Err(Refusal::AccountExists);
        }
        // An id that is not used in the end (a lost race, a crash) leaves a key that opens nothing.
        let subject = SubjectId::random();
        let personal = self.personal_key(tenant, subject, Create::Yes).await?;
        let inserted = store::insert(
            &mut tx,
            &NewAccount {
                subject,
                email_index: &email_index,
                sealed_email: personal
                    .seal(&email_context(subject), email.as_str().as_bytes())?
                    .as_bytes(),
                password_hash: &password_hash,
                sealed_user: personal
                    .seal_json(&user_context(subject), &StoredUser::from(&user))?
                    .as_bytes(),
            },
        )
        .await?;
        if inserted == Inserted::EmailTaken {
            return Err(Refusal::AccountExists);
        }
        self.append(&mut tx, &personal, subject, &user, &event).await?;
        let answer = Registered {
            subject,
            tenant: tenant.clone(),
        };
        let response = slot.finish(&mut tx, http::StatusCode::CREATED, &answer).await?;
        tx.commit().await?;
        Ok(response)
    }

    /// Checks a registration: every field, then the residence. Says nothing about accounts.
    fn admit(&self, request: &Registration) -> Result<(EmailAddress, User, UserEvent), Refusal> {
        let email = EmailAddress::parse(&request.email)?;
        request.password.check()?;
        check_birth_year(request.birth_year, Timestamp::now().to_zoned(TimeZone::UTC).year())?;
        let country: CountryCode = request.country.parse().map_err(|_| Refusal::Country)?;
        let profile = Profile {
            first_name: request.first_name.clone(),
            last_name: request.last_name.clone(),
            ..Profile::default()
        };
        profile.check()?;
        match residence::decide(&self.feed.current(), &country) {
            Residence::Home => {}
            Residence::Elsewhere { public_url } => return Err(Refusal::ResidenceElsewhere { public_url }),
            Residence::Unserved => return Err(Refusal::ResidenceUnserved),
        }
        let event = UserEvent::UserRegistered {
            profile,
            country: country.to_string(),
            birth_year: request.birth_year,
        };
        let user = User::apply(None, &event)?;
        Ok((email, user, event))
    }

    /// Signs an athlete in. Every failure costs one look-up and one argon2 run and gives the same answer, whether the
    /// tenant is unknown or foreign, the account unknown, or the password wrong.
    pub async fn sign_in(
        &self,
        tenant: Option<&TenantId>,
        email: &str,
        password: Password,
    ) -> Result<AccessToken, Refusal> {
        let email = EmailAddress::for_lookup(email);
        let scope = tenant.and_then(|tenant| self.homes.scope(tenant));
        // Without a tenant of ours the look-up is done all the same, in another tenant and for nobody.
        let looked_up = scope.clone().or_else(|| self.homes.scopes().into_iter().next());
        let index = match &scope {
            Some(scope) => self.secrets.email_index(scope.tenant(), &email),
            None => [0; 32],
        };
        let credentials = match &looked_up {
            Some(scope) => {
                let mut tx = TenantTx::begin(&self.pool, scope).await?;
                let found = store::credentials(&mut tx, &index).await?;
                tx.commit().await?;
                found
            }
            None => None,
        };
        let stored = credentials.as_ref().map(|known| known.password_hash.clone());
        let matches = self.passwords.verify(password, stored).await?;
        let (Some(scope), Some(credentials), true) = (scope, credentials, matches) else {
            return Err(Refusal::SignIn);
        };
        let mut tx = TenantTx::begin(&self.pool, &scope).await?;
        store::note_login(&mut tx, credentials.subject).await?;
        tx.commit().await?;
        self.token(Audience::Athlete, credentials.subject.to_string(), &scope)
    }

    /// A token for a tenant's marketing client.
    pub async fn marketing_token(&self, client_id: &str, client_secret: &str) -> Result<AccessToken, Refusal> {
        let scopes = self.homes.scopes();
        let tenants = scopes.iter().map(Scope::tenant);
        let tenant = self
            .marketing
            .authenticate(tenants, client_id, client_secret)
            .await
            .ok_or(Refusal::Client)?;
        let scope = self.homes.scope(&tenant).ok_or(Refusal::Client)?;
        self.token(Audience::Marketing, client_id.to_owned(), &scope)
    }

    /// One's own account.
    pub async fn me(&self, athlete: &Athlete) -> Result<Me, Refusal> {
        let mut tx = TenantTx::begin(&self.pool, &athlete.scope()).await?;
        let stored = store::by_subject(&mut tx, athlete.subject, false)
            .await?
            .ok_or(Refusal::NoAccount)?;
        tx.commit().await?;
        let personal = self.personal_key(&athlete.tenant, athlete.subject, Create::No).await?;
        let user = open_user(&personal, athlete.subject, &stored.sealed_user, stored.version)?;
        Me::assemble(athlete, &personal, &stored.sealed_email, user)
    }

    /// Changes one's own profile, made for version `expected` of it. The answer is [`Me`].
    ///
    /// `body` is the request as it came: with `key`, a repetition of the same body gets the same answer.
    pub async fn change_profile(
        &self,
        athlete: &Athlete,
        expected: i64,
        change: ProfileChange,
        key: &IdempotencyKey,
        body: &[u8],
    ) -> Result<Response, Refusal> {
        let personal = self.personal_key(&athlete.tenant, athlete.subject, Create::No).await?;
        let mut tx = TenantTx::begin(&self.pool, &athlete.scope()).await?;
        // The version may stand in a header; a change of another version is another request. The stored digest is keyed:
        // a name is guessed easily.
        let request = [expected.to_be_bytes().as_slice(), body].concat();
        let request = self.secrets.request_digest(&request);
        let slot = match idempotency::begin(&mut tx, &athlete.subject.to_string(), key, &request, &personal).await? {
            Outcome::Fresh(slot) => slot,
            Outcome::Repeated(response) => return Ok(response),
        };
        let stored = store::by_subject(&mut tx, athlete.subject, true)
            .await?
            .ok_or(Refusal::NoAccount)?;
        let user = open_user(&personal, athlete.subject, &stored.sealed_user, stored.version)?;
        let user = match user.update_profile(expected, change)? {
            None => user,
            Some(event) => {
                let user = User::apply(Some(user), &event)?;
                let sealed = personal.seal_json(&user_context(athlete.subject), &StoredUser::from(&user))?;
                store::update(&mut tx, athlete.subject, sealed.as_bytes(), user.version).await?;
                self.append(&mut tx, &personal, athlete.subject, &user, &event).await?;
                user
            }
        };
        let me = Me::assemble(athlete, &personal, &stored.sealed_email, user)?;
        let response = slot.finish(&mut tx, http::StatusCode::OK, &me).await?;
        tx.commit().await?;
        Ok(response)
    }

    /// The user's state from the events alone, to compare with the read table.
    pub async fn replayed(&self, scope: &Scope, subject: SubjectId) -> Result<Option<User>, Refusal> {
        let mut tx = TenantTx::begin(&self.pool, scope).await?;
        let history = store::history(&mut tx, subject).await?;
        tx.commit().await?;
        let personal = self.personal_key(scope.tenant(), subject, Create::No).await?;
        let events = history
            .iter()
            .map(|(version, sealed)| personal.open_json(&event_context(subject, *version), sealed))
            .collect::<Result<Vec<UserEvent>, _>>()?;
        Ok(User::replay(&events)?)
    }

    /// Appends the event that led to `user`, for ourselves and for others.
    async fn append(
        &self,
        tx: &mut TenantTx,
        personal: &SubjectKey,
        subject: SubjectId,
        user: &User,
        event: &UserEvent,
    ) -> Result<(), Refusal> {
        let sealed = personal.seal_json(&event_context(subject, user.version), event)?;
        store::append_event(tx, subject, user.version, event.name(), sealed.as_bytes()).await?;
        let facts = UserFacts {
            subject,
            country: user.country.clone(),
            first_name: user.profile.first_name.clone(),
            last_name: user.profile.last_name.clone(),
            privacy: user.profile.privacy,
        };
        let kind = match event {
            UserEvent::UserRegistered { .. } => USER_REGISTERED,
            UserEvent::ProfileUpdated { .. } => USER_PROFILE_UPDATED,
        };
        let draft = Draft {
            kind,
            stream: subject.to_string(),
            sequence: u64::try_from(user.version).unwrap_or_default(),
            class: DataClass::Identity,
            epoch: tx.scope().epoch(),
        };
        outbox::append(tx, TOPIC, &Event::sealed(&self.source, draft, personal, &facts)?).await?;
        Ok(())
    }

    async fn personal_key(&self, tenant: &TenantId, subject: SubjectId, create: Create) -> Result<SubjectKey, Refusal> {
        Ok(self.keyring.key(tenant, &subject, &KeyScope::Personal, create).await?)
    }

    fn token(&self, audience: Audience, sub: String, scope: &Scope) -> Result<AccessToken, Refusal> {
        let now = Timestamp::now();
        let issuer = self.feed.current().issuer.clone();
        let claims = Claims::new(&issuer, audience, sub, scope.tenant().clone(), scope.epoch(), now);
        let access_token = self.signer.sign(&claims, now)?;
        Ok(AccessToken {
            access_token,
            token_type: "Bearer",
            expires_in: LIFETIME.as_secs(),
        })
    }

    /// A registration has no subject yet, so its repetition is recognised by the e-mail's index, and its answer (an
    /// opaque id) is sealed under a key of the region. The stored digest is keyed: the body holds a password.
    fn idempotency_claim(
        &self,
        tenant: &TenantId,
        email_index: &[u8; 32],
        body: &[u8],
    ) -> Result<IdempotencyClaim, Refusal> {
        let owner = digest(&SHA256, email_index)
            .as_ref()
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let sealing = SubjectKey::from_bytes(
            tenant.clone(),
            SubjectId(uuid::Uuid::nil()),
            KeyScope::Personal,
            self.secrets.idempotency_key(),
        );
        Ok(IdempotencyClaim {
            owner,
            request: self.secrets.request_digest(body),
            sealing,
        })
    }
}

struct IdempotencyClaim {
    owner: String,
    request: [u8; 32],
    sealing: SubjectKey,
}

/// A user's state without its version, which has a column of its own.
#[derive(Serialize, Deserialize)]
struct StoredUser {
    profile: Profile,
    country: String,
    birth_year: Option<i16>,
}

impl From<&User> for StoredUser {
    fn from(user: &User) -> Self {
        Self {
            profile: user.profile.clone(),
            country: user.country.clone(),
            birth_year: user.birth_year,
        }
    }
}

fn open_user(personal: &SubjectKey, subject: SubjectId, sealed: &[u8], version: i64) -> Result<User, Refusal> {
    let StoredUser {
        profile,
        country,
        birth_year,
    } = personal.open_json(&user_context(subject), sealed)?;
    Ok(User {
        version,
        profile,
        country,
        birth_year,
    })
}

impl Me {
    fn assemble(athlete: &Athlete, personal: &SubjectKey, sealed_email: &[u8], user: User) -> Result<Self, Refusal> {
        let email = personal.open(&email_context(athlete.subject), sealed_email)?;
        Ok(Self {
            subject: athlete.subject,
            tenant: athlete.tenant.clone(),
            email: String::from_utf8_lossy(&email).into_owned(),
            country: user.country,
            birth_year: user.birth_year,
            profile: user.profile,
            version: user.version,
        })
    }
}

fn email_context(subject: SubjectId) -> String {
    format!("identity.account.email:{subject}")
}

fn user_context(subject: SubjectId) -> String {
    format!("identity.account.user:{subject}")
}

fn event_context(subject: SubjectId, version: i64) -> String {
    format!("identity.user_event:{subject}:{version}")
}
