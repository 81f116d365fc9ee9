//! Who runs the server, and what of it is therefore theirs: replicas of their own, roles of their own, and where the log of
//! changes is archived. What a statement or a row could be read from in a log stays forbidden, whoever runs it.

use std::str::FromStr;

/// Who runs PostgreSQL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunBy {
    /// The region's operator: one instance, which nobody follows.
    #[default]
    Us,
    /// CloudNativePG: several, that follow each other.
    CloudNativePg,
    /// Somebody else, inside the same jurisdiction.
    Somebody,
}

/// Not a mode of a region's PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no mode of PostgreSQL; Embedded, CloudNativePG and External are")]
pub struct UnknownMode(String);

impl FromStr for RunBy {
    type Err = UnknownMode;

    /// By `dataPlane.postgres.mode` of the region.
    fn from_str(mode: &str) -> Result<Self, UnknownMode> {
        match mode {
            "Embedded" => Ok(Self::Us),
            "CloudNativePG" => Ok(Self::CloudNativePg),
            "External" => Ok(Self::Somebody),
            other => Err(UnknownMode(other.to_owned())),
        }
    }
}

/// The server, as far as it is not the region's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// Who runs it.
    pub run_by: RunBy,
    /// The role that makes roles and databases where nobody is superuser over the network.
    pub administrator: Option<String>,
}

/// The role as which CloudNativePG's instances follow each other.
const FOLLOWER: &str = "streaming_replica";
/// The role that its instances read their own metrics as, over a socket that only they have.
const EXPORTER: &str = "cnpg_metrics_exporter";
/// The database that CloudNativePG makes beside `postgres`; nobody uses it.
const FIRST: &str = "meridian";
/// What belongs to following and archiving, to where its log goes, and to who ends TLS.
const THEIRS: &[&str] = &[
    "archive_mode",
    "primary_conninfo",
    "synchronous_standby_names",
    "log_destination",
    "logging_collector",
    "ssl",
];

impl Server {
    /// Whether nobody follows it and it has one volume: it is the region's own.
    pub(crate) fn keeps_to_itself(&self) -> bool {
        self.run_by == RunBy::Us
    }

    /// Whether a setting is theirs to make.
    pub(crate) fn sets(&self, setting: &str) -> bool {
        self.run_by != RunBy::Us && THEIRS.contains(&setting)
    }

    /// Whether a role may have a right that others may not; `ours` are the roles of the services.
    pub(crate) fn lets(&self, role: &str, right: &str, ours: &[&str]) -> bool {
        let of_us = || right.strip_prefix("member of ").is_some_and(|of| ours.contains(&of));
        let theirs: &[&str] = match (self.run_by, role) {
            (RunBy::CloudNativePg, FOLLOWER) => &["unknown", "replication"],
            (RunBy::CloudNativePg, EXPORTER) => &["unknown", "member of pg_monitor"],
            _ => &[],
        };
        if theirs.contains(&right) {
            return true;
        }
        self.administrator.as_deref() == Some(role)
            && (matches!(right, "unknown" | "createrole" | "createdb") || of_us())
    }

    /// Whether a database that no service has is theirs.
    pub(crate) fn made(&self, database: &str) -> bool {
        self.run_by == RunBy::CloudNativePg && database == FIRST
    }

    /// Whether who follows the server by streaming is one of its own instances.
    pub(crate) fn is_followed_by(&self, role: &str, application: &str) -> bool {
        let instance = || {
            let number = application.strip_prefix("postgres-");
            number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
        };
        self.run_by == RunBy::CloudNativePg && role == FOLLOWER && instance()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(run_by: RunBy) -> Server {
        Server {
            run_by,
            administrator: Some("meridian_admin".to_owned()),
        }
    }

    #[test]
    fn a_server_of_ours_has_nothing_that_is_not_ours() {
        let ours = Server::default();
        assert!(!THEIRS.iter().any(|setting| ours.sets(setting)));
        assert!(!ours.made(FIRST) && !ours.is_followed_by(FOLLOWER, "postgres-2"));
        assert!(!ours.lets(FOLLOWER, "replication", &[]));
    }

    #[test]
    fn nobody_lets_a_log_tell_of_rows() {
        for run_by in [RunBy::Us, RunBy::CloudNativePg, RunBy::Somebody] {
            assert!(!by(run_by).sets("log_statement") && !by(run_by).sets("row_security"));
        }
    }

    #[test]
    fn instances_follow_each_other_and_nobody_else_follows_them() {
        let theirs = by(RunBy::CloudNativePg);
        assert!(theirs.is_followed_by(FOLLOWER, "postgres-2"));
        assert!(!theirs.is_followed_by(FOLLOWER, "postgres-") && !theirs.is_followed_by(FOLLOWER, "pg_receivewal"));
        assert!(!theirs.is_followed_by("social", "postgres-2"));
        assert!(!by(RunBy::Somebody).is_followed_by(FOLLOWER, "postgres-2"));
    }

    #[test]
    fn its_own_roles_have_what_they_need_and_no_more() {
        let theirs = by(RunBy::CloudNativePg);
        assert!(theirs.lets(EXPORTER, "member of pg_monitor", &[]) && theirs.lets(FOLLOWER, "replication", &[]));
        assert!(!theirs.lets(EXPORTER, "replication", &[]) && !theirs.lets(FOLLOWER, "superuser", &[]));
        assert!(!by(RunBy::Somebody).lets(EXPORTER, "unknown", &[]));
    }

    #[test]
    fn who_makes_roles_is_in_those_of_the_services_and_in_no_other_and_never_past_row_level_security() {
        let theirs = by(RunBy::CloudNativePg);
        let lets = |right| theirs.lets("meridian_admin", right, &["social", "social_owner"]);
        assert!(lets("createrole") && lets("member of social_owner"));
        assert!(!lets("superuser") && !lets("bypassrls") && !lets("member of pg_read_all_data"));
        assert!(!theirs.lets("social", "createrole", &["social"]));
    }
}
