//! What the verifier says: counts, places and classes.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use meridian_policy::vocabulary::DataClass;
use meridian_policy::{PolicyRevision, RegionName, RegionPolicy};
use serde::Serialize;

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// Rows, or records of a topic, of a tenant that does not have its home here.
    ForeignRows,
    /// The same of an epoch that is not in force yet.
    FutureEpoch,
    /// Copies from another region that no edge in force brought here.
    CopiesWithoutEdge,
    /// Copies that should have been deleted.
    ExpiredCopies,
    /// Records of a topic that are no sealed events.
    Unsealed,
    /// A column that the catalogue gives no class.
    Uncatalogued,
    /// A table of personal data that row-level security does not hold.
    Unguarded,
    /// A table, a topic or a group that somebody else than its service may use.
    OpenToOthers,
    /// A role that may do more than its service needs.
    MightyRole,
    /// A database that no service of the region has.
    UnknownDatabase,
    /// A topic that no service of the region owns.
    UnknownTopic,
    /// A consumer group that no service of the region reads in.
    UnknownGroup,
    /// A setting of the engine by which personal data reach logs or other machines.
    Setting,
    /// Something that carries rows or records out of where they are kept.
    WayOut,
}

impl Check {
    /// Its name, as reports and logs have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ForeignRows => "foreign-rows",
            Self::FutureEpoch => "future-epoch",
            Self::CopiesWithoutEdge => "copies-without-edge",
            Self::ExpiredCopies => "expired-copies",
            Self::Unsealed => "unsealed",
            Self::Uncatalogued => "uncatalogued",
            Self::Unguarded => "unguarded",
            Self::OpenToOthers => "open-to-others",
            Self::MightyRole => "mighty-role",
            Self::UnknownDatabase => "unknown-database",
            Self::UnknownTopic => "unknown-topic",
            Self::UnknownGroup => "unknown-group",
            Self::Setting => "setting",
            Self::WayOut => "way-out",
        }
    }

    /// A sentence for people.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::ForeignRows => "rows or records of a tenant that does not have its home here",
            Self::FutureEpoch => "rows or records of an epoch that is not in force yet",
            Self::CopiesWithoutEdge => "copies that no edge in force brought here",
            Self::ExpiredCopies => "copies that should have been deleted",
            Self::Unsealed => "records that are no sealed events",
            Self::Uncatalogued => "a column without a class",
            Self::Unguarded => "a table of personal data without row-level security in force",
            Self::OpenToOthers => "something that somebody else than its service may use",
            Self::MightyRole => "a role that may do more than its service needs",
            Self::UnknownDatabase => "a database that no service of the region has",
            Self::UnknownTopic => "a topic that no service of the region owns, with so many records",
            Self::UnknownGroup => "a consumer group that no service of the region reads in, with so many members",
            Self::Setting => "a setting by which personal data reach logs or other machines",
            Self::WayOut => "something that carries rows or records out of where they are kept",
        }
    }
}

/// Something that should not be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What was looked for.
    pub check: Check,
    /// Where: `<service>.<table>`, `kafka: topic <name>`, a role, a setting.
    pub place: String,
    /// Of whom, or by what: a tenant, an edge, a role. Opaque.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// The classes of what is there; none for settings.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub classes: BTreeSet<DataClass>,
    /// How many rows, records or things.
    pub count: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} in {}", self.check.sentence(), self.count, self.place)?;
        if let Some(of) = &self.of {
            write!(f, " ({of})")?;
        }
        Ok(())
    }
}

/// How much was looked at: a clean report over nothing says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Looked {
    /// Databases.
    pub databases: u64,
    /// Tables.
    pub tables: u64,
    /// Rows.
    pub rows: u64,
    /// Topics that somebody owns.
    pub topics: u64,
    /// Records in them.
    pub records: u64,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Where.
    pub region: RegionName,
    /// Against which policy.
    pub revision: PolicyRevision,
    /// When.
    pub at: Timestamp,
    /// At how much.
    pub looked: Looked,
    /// In the order of the checks.
    pub findings: Vec<Finding>,
}

impl Report {
    pub(crate) fn new(policy: &RegionPolicy, now: Timestamp) -> Self {
        Self {
            region: policy.region.clone(),
            revision: policy.revision,
            at: now,
            looked: Looked::default(),
            findings: Vec::new(),
        }
    }

    pub(crate) fn find(
        &mut self,
        check: Check,
        place: String,
        of: Option<String>,
        classes: BTreeSet<DataClass>,
        count: u64,
    ) {
        self.findings.push(Finding {
            check,
            place,
            of,
            classes,
            count,
        });
    }

    /// This and what another look at the same region found, by the same policy.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        let Looked {
            databases,
            tables,
            rows,
            topics,
            records,
        } = other.looked;
        self.looked.databases += databases;
        self.looked.tables += tables;
        self.looked.rows += rows;
        self.looked.topics += topics;
        self.looked.records += records;
        self.findings.extend(other.findings);
        self.findings.sort();
        self
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}
