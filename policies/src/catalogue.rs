//! The catalogue: the class of every column, event field, header, log field and metric label.
//!
//! One YAML file per service in `policies/catalogue/`, embedded. What is not listed has no class and therefore may not be
//! stored, logged or sent; the tests named `catalogue_…` fail on it, and on what is listed and does not exist.

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
    /// A field of an event's payload, `outer.inner` for one inside another; the owner is the event's type, and the file is
    /// that of the service that tells it.
    EventField = "event-field",
    /// A header of a request, answer or Kafka record; the owner is the service, `kit` for all. The attributes of an event's
    /// envelope belong to `kit.event`.
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

impl FieldKey {
    /// The field of that name.
    #[must_use]
    pub fn new(kind: FieldKind, owner: &str, name: &str) -> Self {
        Self {
            kind,
            owner: owner.to_owned(),
            name: name.to_owned(),
        }
    }
}

impl std::fmt::Display for FieldKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} '{}' of '{}'", self.kind, self.name, self.owner)
    }
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
    /// A file lists what is another service's.
    #[error(
        "catalogue/{file}.yaml: {kind} '{owner}' is not {file}'s; it may list '{file}' and '{file}.…', and the events that {file} tells"
    )]
    NotItsOwn {
        /// Which file.
        file: String,
        /// Where its fields live.
        kind: FieldKind,
        /// Whose fields.
        owner: String,
    },
    /// Two services say that they tell one type of event.
    #[error(
        "catalogue: the event '{event}' is listed in {one}.yaml and also in {other}.yaml; only the service that tells it may list it"
    )]
    ToldTwice {
        /// The event's type.
        event: String,
        /// The first file.
        one: String,
        /// The second file.
        other: String,
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
    /// The service that tells an event, by the event's type. An event without fields has no other trace here.
    tellers: BTreeMap<String, String>,
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
    ("operator", include_str!("../catalogue/operator.yaml")),
    ("promotions", include_str!("../catalogue/promotions.yaml")),
    ("replicator", include_str!("../catalogue/replicator.yaml")),
    ("social", include_str!("../catalogue/social.yaml")),
    ("telemetry", include_str!("../catalogue/telemetry.yaml")),
    ("training", include_str!("../catalogue/training.yaml")),
    ("verifier", include_str!("../catalogue/verifier.yaml")),
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
            self.admit(file, &group)?;
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
                self.list(FieldKey::new(group.kind, &group.owner, name), class)?;
            }
        }
        Ok(())
    }

    /// Checks that the file may list the group, and keeps who tells which event.
    fn admit(&mut self, file: &str, group: &Group) -> Result<(), CatalogueError> {
        if group.kind != FieldKind::EventField {
            let own = group.owner == file || group.owner.strip_prefix(file).is_some_and(|rest| rest.starts_with('.'));
            return own.then_some(()).ok_or_else(|| CatalogueError::NotItsOwn {
                file: file.to_owned(),
                kind: group.kind,
                owner: group.owner.clone(),
            });
        }
        let teller = self
            .tellers
            .entry(group.owner.clone())
            .or_insert_with(|| file.to_owned());
        if *teller == file {
            return Ok(());
        }
        Err(CatalogueError::ToldTwice {
            event: group.owner.clone(),
            one: teller.clone(),
            other: file.to_owned(),
        })
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
        self.classes.get(&FieldKey::new(kind, owner, name)).copied()
    }

    /// The service that tells events of this type; none when the type is not listed.
    #[must_use]
    pub fn teller(&self, event_type: &str) -> Option<&str> {
        self.tellers.get(event_type).map(String::as_str)
    }

    /// The types of the events that a service tells.
    pub fn told_by(&self, service: &str) -> impl Iterator<Item = &str> {
        self.tellers
            .iter()
            .filter(move |(_, teller)| *teller == service)
            .map(|(event, _)| event.as_str())
    }

    /// Where the catalogue and the platform differ, a sentence for each: what is there and not listed, and what is listed
    /// and not there. `there` is all that exists of what `concerns` picks out of the catalogue.
    pub fn disagreements(&self, concerns: impl Fn(&FieldKey) -> bool, there: &BTreeSet<FieldKey>) -> Vec<String> {
        let unlisted = there.iter().filter(|key| !self.classes.contains_key(*key));
        let gone = self.classes.keys().filter(|key| concerns(key) && !there.contains(*key));
        unlisted
            .map(|key| format!("{key} has no class: list it in policies/catalogue/"))
            .chain(gone.map(|key| format!("{key} does not exist: take it out of policies/catalogue/")))
            .collect()
    }

    /// Everything that is listed, with its class.
    pub fn iter(&self) -> impl Iterator<Item = (&FieldKey, DataClass)> {
        self.classes.iter().map(|(key, class)| (key, *class))
    }

    /// The fields of events, by class: what an edge for the class can name. Nothing but events crosses a border, and of
    /// an event only fields that have nothing inside.
    #[must_use]
    pub fn transferable(&self) -> TransferableFields {
        let events = || self.iter().filter(|(key, _)| key.kind == FieldKind::EventField);
        let nested: BTreeSet<(&str, &str)> = events()
            .filter_map(|(key, _)| Some((key.owner.as_str(), key.name.split_once('.')?.0)))
            .collect();
        let plain = |key: &FieldKey| {
            let outer = key.name.split('.').next().unwrap_or_default();
            !nested.contains(&(key.owner.as_str(), outer))
        };
        events()
            .filter(|(key, _)| plain(key))
            .map(|(key, class)| (class, key.name.clone()))
            .collect()
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
    fn what_is_not_listed_and_what_is_not_there_are_both_told() {
        let catalogue = read("fields: [{kind: column, owner: test.t, names: {x: contact, gone: contact}}]").unwrap();
        let column = |name: &str| FieldKey::new(FieldKind::Column, "test.t", name);
        let concerns = |key: &FieldKey| key.kind == FieldKind::Column;
        assert_eq!(
            catalogue.disagreements(concerns, &[column("x"), column("new")].into()),
            [
                "column 'new' of 'test.t' has no class: list it in policies/catalogue/",
                "column 'gone' of 'test.t' does not exist: take it out of policies/catalogue/",
            ]
        );
        assert!(
            catalogue
                .disagreements(concerns, &[column("x"), column("gone")].into())
                .is_empty()
        );
    }

    #[test]
    fn a_file_lists_its_own_service_only() {
        assert!(matches!(
            read("fields: [{kind: column, owner: other.t, names: {x: contact}}]"),
            Err(CatalogueError::NotItsOwn { .. })
        ));
        assert!(matches!(
            read("fields: [{kind: log-field, owner: tester, names: {x: operational}}]"),
            Err(CatalogueError::NotItsOwn { .. })
        ));
    }

    #[test]
    fn an_event_is_told_by_one_service() {
        let told = "fields: [{kind: event-field, owner: e, names: {}}]";
        let catalogue = Catalogue::parse(&[("one", told)]).unwrap();
        assert_eq!(catalogue.teller("e"), Some("one"));
        assert_eq!(catalogue.told_by("one").collect::<Vec<_>>(), ["e"]);
        assert!(matches!(
            Catalogue::parse(&[("one", told), ("two", told)]),
            Err(CatalogueError::ToldTwice { .. })
        ));
    }

    #[test]
    fn a_field_with_fields_inside_never_crosses_a_border() {
        let catalogue =
            read("fields: [{kind: event-field, owner: e, names: {a: identity, a.b: identity, c: identity}}]").unwrap();
        assert_eq!(catalogue.transferable().names_of(DataClass::Identity), "c");
    }

    #[test]
    fn an_unknown_class_is_an_error_that_names_the_field() {
        let error = read("fields: [{kind: column, owner: test.t, names: {x: moods}}]")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("'test.t.x'") && error.contains("'moods' is not a valid data class"),
            "{error}"
        );
    }

    #[test]
    fn a_field_listed_twice_is_an_error() {
        assert!(read("fields: [{kind: column, owner: test.t, names: {x: contact, x: health}}]").is_err());
        let twice = read(
            "fields: [{kind: column, owner: test.t, names: {x: contact}}, {kind: column, owner: test.t, names: {x: health}}]",
        );
        assert!(matches!(twice, Err(CatalogueError::Contradiction { .. })));
    }

    #[test]
    fn only_event_fields_can_cross_a_border() {
        let catalogue = read(
            "fields: [{kind: column, owner: test.t, names: {x: health}}, {kind: event-field, owner: e, names: {y: health}}]",
        )
        .unwrap();
        let fields = catalogue.transferable();
        assert!(fields.has(DataClass::Health, "y"));
        assert!(!fields.has(DataClass::Health, "x"));
        assert!(!fields.has(DataClass::Contact, "y"));
    }
}
