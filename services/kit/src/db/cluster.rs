//! The roles and databases of a region's PostgreSQL, made by the superuser once and again without harm; or by a role that may
//! make roles and databases and nothing else, where nobody is superuser over the network.
//!
//! A service has its own database, owned by a role that only migrations use. The role it runs as can read and write rows
//! (through default privileges) and nothing else: no DDL, no other database, no bypass of row-level security.

use std::path::Path;

use aws_lc_rs::{digest, hmac, pbkdf2, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::Error;
use super::migrate::{HIDE_STEPS, reach};
use crate::config::Secret;

/// A role's name and password.
#[derive(Clone, Debug)]
pub struct RoleCredentials {
    /// Its name.
    pub username: String,
    /// Its password.
    pub password: Secret,
}

/// What one service needs.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The service, and the name of its database.
    pub service: String,
    /// Who owns the schema.
    pub owner: RoleCredentials,
    /// Whom the service runs as.
    pub app: RoleCredentials,
}

/// Reads `<service>-owner/{username,password}` and `<service>/{username,password}` below a folder (mounted secrets).
///
/// # Errors
/// When a file is missing or empty, or a service has only one of the two.
pub fn credentials_in(dir: &Path) -> Result<Vec<Credentials>, Error> {
    let entries = std::fs::read_dir(dir).map_err(|error| wrong(dir, format!("cannot be read: {error}")))?;
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| wrong(dir, error.to_string()))?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        // `..data` and its like are how Kubernetes mounts secrets.
        let Some(service) = name.strip_suffix("-owner").filter(|service| !service.starts_with('.')) else {
            continue;
        };
        all.push(Credentials {
            service: service.to_owned(),
            owner: role_in(&dir.join(&name))?,
            app: role_in(&dir.join(service))?,
        });
    }
    all.sort_by(|one, other| one.service.cmp(&other.service));
    if all.is_empty() {
        return Err(wrong(dir, "holds no <service>-owner folder".to_owned()));
    }
    Ok(all)
}

fn wrong(path: &Path, problem: String) -> Error {
    Error::Credentials(format!("{}: {problem}", path.display()))
}

fn role_in(dir: &Path) -> Result<RoleCredentials, Error> {
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path).map_err(|error| wrong(path, format!("cannot be read: {error}")))?;
        let text = text.trim_end_matches(['\n', '\r']).to_owned();
        if text.is_empty() {
            Err(wrong(path, "is empty".to_owned()))
        } else {
            Ok(text)
        }
    };
    let password = Secret::new(read(&dir.join("password"))?);
    let username = read(&dir.join("username"))?;
    Ok(RoleCredentials { username, password })
}

/// Makes the roles and databases, or brings them to what they should be.
///
/// # Errors
/// When the superuser cannot connect or a statement fails.
pub async fn migrate_cluster(superuser_url: &str, all: &[Credentials]) -> Result<(), Error> {
    let mut connection = reach(superuser_url).await?;
    // Who makes a role can act as it from then on: needed to give it a database.
    sqlx::raw_sql("set createrole_self_grant = 'set, inherit'")
        .execute(&mut connection)
        .await?;
    for credentials in all {
        for wanted in [&credentials.owner, &credentials.app] {
            role(&mut connection, wanted).await?;
            has_no_power(&mut connection, wanted).await?;
        }
        database(&mut connection, credentials).await?;
        let options = super::options(superuser_url, "meridian-migrate")?.database(&credentials.service);
        let mut inside = PgConnection::connect_with(&options).await?;
        privileges(&mut inside, credentials).await?;
        let _ = inside.close().await;
    }
    let _ = connection.close().await;
    Ok(())
}

/// Makes the role that the verifier looks as: it reads every row of every database, and writes nothing. Where nobody is
/// superuser over the network somebody else has made it (CloudNativePG, by its Cluster), and it is left as it is.
///
/// # Errors
/// When the database cannot be reached, a statement fails, or nobody made the role who may.
pub async fn migrate_verifier(
    superuser_url: &str,
    verifier: &RoleCredentials,
    all: &[Credentials],
) -> Result<(), Error> {
    let mut connection = reach(superuser_url).await?;
    let name = verifier.username.as_str();
    if is_superuser(&mut connection).await? {
        looks_at_everything(&mut connection, verifier).await?;
    } else if !exists(&mut connection, SEES_EVERYTHING, name).await? {
        return Err(Error::Credentials(format!(
            "role {name} is not there, or does not read all data past row-level security, and only a superuser can make \
             it so: create role {name} login bypassrls in role pg_read_all_data, pg_read_all_settings, pg_read_all_stats, \
             with the password that the region's Secret has"
        )));
    }
    for credentials in all {
        run(
            &mut connection,
            "grant connect on database %I to %I",
            &[&credentials.service, name],
        )
        .await?;
    }
    let _ = connection.close().await;
    Ok(())
}

async fn looks_at_everything(connection: &mut PgConnection, verifier: &RoleCredentials) -> Result<(), Error> {
    role(connection, verifier).await?;
    for template in [
        "alter role %I bypassrls",
        "alter role %I set default_transaction_read_only = on",
        "grant pg_read_all_data, pg_read_all_settings, pg_read_all_stats to %I",
    ] {
        run(connection, template, &[&verifier.username]).await?;
    }
    Ok(())
}

/// Reads `verifier/{username,password}` below the folder of credentials; nothing when there is no such folder.
///
/// # Errors
/// When a file is missing or empty.
pub fn verifier_in(dir: &Path) -> Result<Option<RoleCredentials>, Error> {
    let dir = dir.join("verifier");
    dir.is_dir().then(|| role_in(&dir)).transpose()
}

/// Runs a statement whose identifiers and literals PostgreSQL itself quotes: `%I` and `%L` of `format`.
async fn run(connection: &mut PgConnection, template: &'static str, arguments: &[&str]) -> Result<(), Error> {
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let statement: String = sqlx::query_scalar("select format($1, variadic $2::text[])")
        .bind(template)
        .bind(&arguments)
        .fetch_one(&mut *connection)
        .await?;
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await?;
    Ok(())
}

async fn exists(connection: &mut PgConnection, query: &'static str, name: &str) -> Result<bool, Error> {
    Ok(sqlx::query_scalar(query).bind(name).fetch_one(connection).await?)
}

async fn role(connection: &mut PgConnection, role: &RoleCredentials) -> Result<(), Error> {
    let known = exists(
        connection,
        "select exists (select 1 from pg_roles where rolname = $1)",
        &role.username,
    )
    .await?;
    if !known {
        run(connection, "create role %I", &[&role.username]).await?;
    }
    // The verifier, not the password: a server that logs statements does not learn it.
    let verifier = scram_verifier(role.password.expose())?;
    // Who has one of the others may take it away, and nobody else.
    let template = if is_superuser(connection).await? {
        "alter role %I with login nosuperuser nocreatedb nocreaterole noreplication nobypassrls inherit \
         connection limit 200 password %L"
    } else {
        "alter role %I with login nocreatedb nocreaterole inherit connection limit 200 password %L"
    };
    run(connection, template, &[&role.username, &verifier]).await
}

async fn is_superuser(connection: &mut PgConnection) -> Result<bool, Error> {
    let query = "select rolsuper from pg_roles where rolname = current_user";
    Ok(sqlx::query_scalar(query).fetch_one(connection).await?)
}

/// Refuses a role that is mightier than a service may be.
async fn has_no_power(connection: &mut PgConnection, role: &RoleCredentials) -> Result<(), Error> {
    if exists(connection, IS_MIGHTY, &role.username).await? {
        return Err(Error::Credentials(format!(
            "role {} is a superuser, replicates or bypasses row-level security, and only a superuser can change that",
            role.username
        )));
    }
    Ok(())
}

const SEES_EVERYTHING: &str = "select exists (select 1 from pg_roles where rolname = $1 and rolcanlogin and rolbypassrls \
    and not rolsuper and not rolcreaterole and pg_has_role(oid, 'pg_read_all_data', 'usage') \
    and pg_has_role(oid, 'pg_read_all_settings', 'usage') and pg_has_role(oid, 'pg_read_all_stats', 'usage'))";
const IS_MIGHTY: &str = "select rolsuper or rolreplication or rolbypassrls from pg_roles where rolname = $1";

async fn database(connection: &mut PgConnection, credentials: &Credentials) -> Result<(), Error> {
    let (name, owner, app) = (
        &credentials.service,
        &credentials.owner.username,
        &credentials.app.username,
    );
    if !exists(
        connection,
        "select exists (select 1 from pg_database where datname = $1)",
        name,
    )
    .await?
    {
        run(
            connection,
            "create database %I owner %I template template0 encoding 'UTF8'",
            &[name, owner],
        )
        .await?;
    }
    run(connection, "alter database %I owner to %I", &[name, owner]).await?;
    run(connection, "revoke all on database %I from public", &[name]).await?;
    run(connection, "grant connect on database %I to %I", &[name, app]).await
}

async fn privileges(connection: &mut PgConnection, credentials: &Credentials) -> Result<(), Error> {
    let (owner, app) = (&credentials.owner.username, &credentials.app.username);
    for (template, arguments) in [
        ("alter schema public owner to %I", vec![owner]),
        ("revoke all on schema public from public", vec![]),
        ("grant usage on schema public to %I", vec![app]),
        (
            "alter default privileges for role %I in schema public grant select, insert, update, delete on tables to %I",
            vec![owner, app],
        ),
        (
            "alter default privileges for role %I in schema public grant usage, select on sequences to %I",
            vec![owner, app],
        ),
        (
            "alter default privileges for role %I revoke execute on functions from public",
            vec![owner],
        ),
        (
            "alter default privileges for role %I in schema public grant execute on functions to %I",
            vec![owner, app],
        ),
        // Objects that were made before the default privileges were in force.
        (
            "grant select, insert, update, delete on all tables in schema public to %I",
            vec![app],
        ),
        ("grant usage, select on all sequences in schema public to %I", vec![app]),
        ("grant execute on all functions in schema public to %I", vec![app]),
    ] {
        let arguments: Vec<&str> = arguments.into_iter().map(String::as_str).collect();
        run(connection, template, &arguments).await?;
    }
    sqlx::raw_sql(HIDE_STEPS).execute(connection).await?;
    Ok(())
}

/// The form in which PostgreSQL keeps a SCRAM-SHA-256 password (RFC 5803), with a fresh salt.
fn scram_verifier(password: &str) -> Result<String, Error> {
    let mut salt = [0_u8; 16];
    rand::fill(&mut salt).map_err(|_| Error::Credentials("no random numbers can be had".to_owned()))?;
    // 1 ≤ 4096: the iterations are not zero.
    let iterations = std::num::NonZeroU32::new(4096).unwrap_or(std::num::NonZeroU32::MIN);
    let mut salted = [0_u8; 32];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        iterations,
        &salt,
        password.as_bytes(),
        &mut salted,
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let stored = digest::digest(&digest::SHA256, hmac::sign(&key, b"Client Key").as_ref());
    let server = hmac::sign(&key, b"Server Key");
    let (salt, stored, server) = (STANDARD.encode(salt), STANDARD.encode(stored), STANDARD.encode(server));
    Ok(format!("SCRAM-SHA-256${iterations}:{salt}${stored}:{server}"))
}
