//! The catalogue: the class of every column, event field, header, log field and metric label.
//!
//! One YAML file per service in `policies/catalogue/`, embedded. What is not listed has no class and therefore may not be
//! stored, logged or sent; `cargo xtask` fails on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde::Deserialize;

use crate::names::InvalidName;
use crate::vocabulary::{DataClass, closed_vocabulary};

closed_vocabulary! {
    /// Where a catalogued field lives.
    FieldKind, "kind of field";
    /// A column of a table; the owner is `<service>.<table>`, for the tables that every service has `kit.<table>`.
    Column = "column",
    /// A field of an event's payload; the owner is the event's type.
    EventField = "event-field",
    /// A header of a request, answer or Kafka record, or an attribute of an event's envelope; the owner is the service, `kit` for all.
    Header = "header",
    /// A field of a log line or span; the owner is the service, `kit` for all.
    LogField = "log-field",
    /// A label of a metric; the owner is the service, `kit` for all.
    MetricLabel = "metric-label",
}

/// One thing that must have a class.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldKey {
    /// Where it lives.
    pub kind: FieldKind,
    /// The table, event type or service that it belongs to.
    pub owner: String,
    /// Its name.
    pub name: String,
}

/// Why a catalogue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// A file is not of the form described in `policies/catalogue/README.md`.
    #[error("catalogue/{file}.yaml cannot be read: {source}; see policies/catalogue/README.md for the form")]
    Malformed {
        /// Which file.
        file: String,
        /// What is wrong.
        #[source]
        source: serde_yaml::Error,
    },
    /// A name or class is not a text.
    #[error("catalogue/{file}.yaml: '{owner}' lists something that is not `name: class`")]
    NotANameAndClass {
        /// Which file.
        file: String,
        /// Whose fields.
        owner: String,
    },
    /// A class is not in the vocabulary.
    #[error("catalogue/{file}.yaml: '{field}': {source}")]
    UnknownClass {
        /// Which file.
        file: String,
        /// Owner and name of the field.
        field: String,
        /// What is wrong.
        #[source]
        source: InvalidName,
    },
    /// Something has two classes.
    #[error("catalogue: {kind} '{field}' is {one} and also {other}; it can be only one of them")]
    Contradiction {
        /// Where it lives.
        kind: FieldKind,
        /// Owner and name of the field.
        field: String,
        /// Its first class.
        one: DataClass,
        /// Its second class.
        other: DataClass,
    },
}

/// The class of everything that is listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalogue {
    classes: BTreeMap<FieldKey, DataClass>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    fields: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    kind: FieldKind,
    owner: String,
    // A Mapping, since it refuses a key that is there twice; a map would keep the last in silence.
    names: serde_yaml::Mapping,
}

const EMBEDDED: &[(&str, &str)] = &[
    ("consent", include_str!("../catalogue/consent.yaml")),
    ("gateway", include_str!("../catalogue/gateway.yaml")),
    ("identity", include_str!("../catalogue/identity.yaml")),
    ("keyring", include_str!("../catalogue/keyring.yaml")),
    ("kit", include_str!("../catalogue/kit.yaml")),
    ("promotions", include_str!("../catalogue/promotions.yaml")),
    ("replicator", include_str!("../catalogue/replicator.yaml")),
    ("social", include_str!("../catalogue/social.yaml")),
    ("telemetry", include_str!("../catalogue/telemetry.yaml")),
    ("training", include_str!("../catalogue/training.yaml")),
];

impl Catalogue {
    /// The catalogue that is part of the product.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "the text is part of the build, and the_embedded_catalogue_is_valid fails before anything with a broken one can be released"
    )]
    pub fn embedded() -> &'static Self {
        static CATALOGUE: LazyLock<Catalogue> =
            LazyLock::new(|| Catalogue::parse(EMBEDDED).expect("the embedded catalogue is valid"));
        &CATALOGUE
    }

    /// Reads files given as (name, text).
    ///
    /// # Errors
    /// [`CatalogueError`] names the file and what is wrong in it.
    pub fn parse(files: &[(&str, &str)]) -> Result<Self, CatalogueError> {
        let mut catalogue = Self::default();
        for (name, text) in files {
            catalogue.read(name, text)?;
        }
        Ok(catalogue)
    }

    fn read(&mut self, file: &str, text: &str) -> Result<(), CatalogueError> {
        let parsed: File = serde_yaml::from_str(text).map_err(|source| CatalogueError::Malformed {
            file: file.to_owned(),
            source,
        })?;
        for group in parsed.fields {
            for (name, class) in &group.names {
                let (Some(name), Some(class)) = (name.as_str(), class.as_str()) else {
                    return Err(CatalogueError::NotANameAndClass {
                        file: file.to_owned(),
                        owner: group.owner,
                    });
                };
                let class = class.parse().map_err(|source| CatalogueError::UnknownClass {
                    file: file.to_owned(),
                    field: format!("{}.{name}", group.owner),
                    source,
                })?;
                self.list(
                    FieldKey {
                        kind: group.kind,
                        owner: group.owner.clone(),
                        name: name.to_owned(),
                    },
                    class,
                )?;
            }
        }
        Ok(())
    }

    fn list(&mut self, key: FieldKey, class: DataClass) -> Result<(), CatalogueError> {
        match self.classes.get(&key) {
            Some(listed) if *listed != class => Err(CatalogueError::Contradiction {
                one: *listed,
                other: class,
                kind: key.kind,
                field: format!("{}.{}", key.owner, key.name),
            }),
            _ => {
                self.classes.insert(key, class);
                Ok(())
            }
        }
    }

    /// The class of a field; none when it is not listed.
    #[must_use]
    pub fn class_of(&self, kind: FieldKind, owner: &str, name: &str) -> Option<DataClass> {
        let key = FieldKey {
            kind,
            owner: owner.to_owned(),
            name: name.to_owned(),
        };
        self.classes.get(&key).copied()
    }

    /// Those of `used` that are not listed, in order, each once.
    pub fn unlisted(&self, used: impl IntoIterator<Item = FieldKey>) -> Vec<FieldKey> {
        let missing: BTreeSet<FieldKey> = used.into_iter().filter(|key| !self.classes.contains_key(key)).collect();
        missing.into_iter().collect()
    }

    /// Everything that is listed, with its class.
    pub fn iter(&self) -> impl Iterator<Item = (&FieldKey, DataClass)> {
        self.classes.iter().map(|(key, class)| (key, *class))
    }

    /// The fields of events, by class: what an edge for the class can name. Nothing but events crosses a border.
    #[must_use]
    pub fn transferable(&self) -> TransferableFields {
        let mut fields = TransferableFields::default();
        for (key, class) in self.iter().filter(|(key, _)| key.kind == FieldKind::EventField) {
            fields.0.entry(class).or_default().insert(key.name.clone());
        }
        fields
    }
}

/// The names of event fields, by class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TransferableFields(BTreeMap<DataClass, BTreeSet<String>>);

impl TransferableFields {
    /// Whether events have a field of that name and class.
    #[must_use]
    pub fn has(&self, class: DataClass, field: &str) -> bool {
        self.0.get(&class).is_some_and(|names| names.contains(field))
    }

    /// The fields of a class, for people: `a, b, c`.
    #[must_use]
    pub fn names_of(&self, class: DataClass) -> String {
        self.0.get(&class).map_or_else(
            || "none".to_owned(),
            |names| names.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
        )
    }
}

impl FromIterator<(DataClass, String)> for TransferableFields {
    fn from_iter<I: IntoIterator<Item = (DataClass, String)>>(pairs: I) -> Self {
        let mut fields = Self::default();
        for (class, name) in pairs {
            fields.0.entry(class).or_default().insert(name);
        }
        fields
    }
}

/// The class of a field in the embedded catalogue; none when it is not listed.
#[must_use]
pub fn class_of(kind: FieldKind, owner: &str, name: &str) -> Option<DataClass> {
    Catalogue::embedded().class_of(kind, owner, name)
}

/// Those of `used` that the embedded catalogue does not list.
pub fn unlisted(used: impl IntoIterator<Item = FieldKey>) -> Vec<FieldKey> {
    Catalogue::embedded().unlisted(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Catalogue, CatalogueError> {
        Catalogue::parse(&[("test", text)])
    }

    #[test]
    fn the_embedded_catalogue_is_valid() {
        let catalogue = Catalogue::parse(EMBEDDED).unwrap();
        assert_eq!(
            catalogue.class_of(FieldKind::EventField, "sh.meridian.workout.shared.v1", "sport_type"),
            Some(DataClass::WorkoutSummary)
        );
    }

    #[test]
    fn every_file_of_the_folder_is_embedded() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("catalogue");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| {
                entry
                    .unwrap()
                    .file_name()
                    .to_str()?
                    .strip_suffix(".yaml")
                    .map(str::to_owned)
            })
            .collect();
        files.sort();
        assert_eq!(files, EMBEDDED.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }

    #[test]
    fn a_personal_label_or_log_field_is_never_listed() {
        for (key, class) in Catalogue::embedded().iter() {
            if matches!(key.kind, FieldKind::LogField | FieldKind::MetricLabel) {
                assert_eq!(
                    class,
                    DataClass::Operational,
                    "{key:?} would put personal data into logs or metrics"
                );
            }
        }
    }

    #[test]
    fn what_is_not_listed_is_reported_once() {
        let catalogue = read("fields: [{kind: column, owner: a.t, names: {x: contact}}]").unwrap();
        let key = |name: &str| FieldKey {
            kind: FieldKind::Column,
            owner: "a.t".into(),
            name: name.into(),
        };
        assert_eq!(catalogue.unlisted([key("x"), key("y"), key("y")]), vec![key("y")]);
    }

    #[test]
    fn an_unknown_class_is_an_error_that_names_the_field() {
        let error = read("fields: [{kind: column, owner: a.t, names: {x: moods}}]")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("'a.t.x'") && error.contains("'moods' is not a valid data class"),
            "{error}"
        );
    }

    #[test]
    fn a_field_listed_twice_is_an_error() {
        assert!(read("fields: [{kind: column, owner: a.t, names: {x: contact, x: health}}]").is_err());
        let twice = read(
            "fields: [{kind: column, owner: a.t, names: {x: contact}}, {kind: column, owner: a.t, names: {x: health}}]",
        );
        assert!(matches!(twice, Err(CatalogueError::Contradiction { .. })));
    }

    #[test]
    fn only_event_fields_can_cross_a_border() {
        let catalogue = read(
            "fields: [{kind: column, owner: a.t, names: {x: health}}, {kind: event-field, owner: e, names: {y: health}}]",
        )
        .unwrap();
        let fields = catalogue.transferable();
        assert!(fields.has(DataClass::Health, "y"));
        assert!(!fields.has(DataClass::Health, "x"));
        assert!(!fields.has(DataClass::Contact, "y"));
    }
}
