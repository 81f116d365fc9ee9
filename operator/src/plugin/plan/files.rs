//! The files that a plan is asked about: which resources they hold, as the API server would keep them.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use kube::api::DynamicObject;
use meridian_crds::{FitnessRegionSpec, IngestPoolSpec};
use meridian_policy::{JurisdictionSpec, PartySpec, TenantResidencySpec};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::schema;
use crate::hub::RESOURCES;
use crate::manifest::{
    FITNESS_REGION, INGEST_POOL, JURISDICTION, Kind, ObjectKey, PARTY, REGION_STACK, TENANT_DATA_RESIDENCY,
    TENANT_PLACEMENT,
};

/// The group of everything that is planned.
const GROUP: &str = "meridian.sh";
/// The file that is standard input.
const STDIN: &str = "-";

/// Why a file cannot be planned.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{file} cannot be read: {cause}")]
    Read {
        /// Which file.
        file: String,
        /// What is wrong.
        cause: String,
    },
    /// There is nothing in a folder.
    #[error("{file} holds no .yaml, .yml or .json file")]
    Empty {
        /// Which folder.
        file: String,
    },
    /// It is not YAML.
    #[error("{file} is not YAML: {cause}")]
    Syntax {
        /// Which file.
        file: String,
        /// Where and why.
        cause: String,
    },
    /// Something in it is no resource.
    #[error("{file}, document {document}: {cause}")]
    NoResource {
        /// Which file.
        file: String,
        /// Which document in it, from 1.
        document: usize,
        /// What is wrong.
        cause: String,
    },
    /// A field is wrong.
    #[error("{file}, {resource}: {field}: {cause}")]
    Field {
        /// Which file.
        file: String,
        /// Which resource.
        resource: Box<ObjectKey>,
        /// Which field.
        field: String,
        /// What is allowed.
        cause: String,
    },
}

/// A resource that somebody is about to apply.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Which.
    pub key: ObjectKey,
    /// As the API server would keep it, without what it adds itself.
    pub object: DynamicObject,
}

/// What was found in the files.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// In the order in which they would be applied.
    pub resources: Vec<Applied>,
    /// Objects that are not of this platform.
    pub passed_over: Vec<String>,
}

/// Reads files, folders (their own files, in order) and standard input (`-`).
///
/// # Errors
/// See [`FileError`].
pub fn read(paths: &[PathBuf]) -> Result<Files, FileError> {
    let mut files = Files::default();
    for path in paths {
        for (name, text) in texts(path)? {
            let found = parse(&name, &text)?;
            files.resources.extend(found.resources);
            files.passed_over.extend(found.passed_over);
        }
    }
    Ok(files)
}

fn texts(path: &Path) -> Result<Vec<(String, String)>, FileError> {
    let name = path.display().to_string();
    let failed = |error: std::io::Error| FileError::Read {
        file: name.clone(),
        cause: error.to_string(),
    };
    if name == STDIN {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(failed)?;
        return Ok(vec![("standard input".to_owned(), text)]);
    }
    if !path.is_dir() {
        let text = std::fs::read_to_string(path).map_err(failed)?;
        return Ok(vec![(name, text)]);
    }
    let mut inside = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_file() && matches!(extension, Some("yaml" | "yml" | "json")) {
            inside.push(path);
        }
    }
    inside.sort();
    if inside.is_empty() {
        return Err(FileError::Empty { file: name });
    }
    let mut all = Vec::new();
    for path in inside {
        all.extend(texts(&path)?);
    }
    Ok(all)
}

/// The resources of one file.
///
/// # Errors
/// See [`FileError`].
pub fn parse(file: &str, text: &str) -> Result<Files, FileError> {
    let mut files = Files::default();
    for (index, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let value = Value::deserialize(document).map_err(|error| FileError::Syntax {
            file: file.to_owned(),
            cause: error.to_string(),
        })?;
        let items = match &value {
            Value::Null => Vec::new(),
            list if list["kind"] == "List" => list["items"].as_array().cloned().unwrap_or_default(),
            _ => vec![value],
        };
        for item in items {
            resource(file, index + 1, &item, &mut files)?;
        }
    }
    Ok(files)
}

fn resource(file: &str, document: usize, value: &Value, files: &mut Files) -> Result<(), FileError> {
    let wrong = |cause: String| FileError::NoResource {
        file: file.to_owned(),
        document,
        cause,
    };
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind_name, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    for (field, found) in [
        ("apiVersion", api_version),
        ("kind", kind_name),
        ("metadata.name", name),
    ] {
        if found.is_empty() {
            return Err(wrong(format!("{field} is missing")));
        }
    }
    if api_version.split('/').next() != Some(GROUP) {
        files.passed_over.push(format!("{kind_name} {name}"));
        return Ok(());
    }
    if [REGION_STACK, TENANT_PLACEMENT]
        .iter()
        .any(|kind| kind.kind == kind_name)
    {
        return Err(wrong(format!("{kind_name} {name}: the hub writes it, people do not")));
    }
    let kind = RESOURCES
        .iter()
        .copied()
        .find(|kind| kind.kind == kind_name && kind.api_version() == api_version);
    let Some(kind) = kind else {
        let known: Vec<&str> = RESOURCES.iter().map(|kind| kind.kind).collect();
        return Err(wrong(format!(
            "there is no {kind_name} in {api_version}; apiVersion {GROUP}/v1alpha1 has {}",
            known.join(", ")
        )));
    };
    files.resources.push(kept(file, ObjectKey::cluster(kind, name), value)?);
    Ok(())
}

/// The resource as the API server would keep it.
fn kept(file: &str, key: ObjectKey, value: &Value) -> Result<Applied, FileError> {
    let wrong = |(field, cause): (String, String)| FileError::Field {
        file: file.to_owned(),
        resource: Box::new(key.clone()),
        field,
        cause,
    };
    if !value["spec"].is_object() {
        return Err(wrong(("spec".to_owned(), "it is missing".to_owned())));
    }
    let spec = schema::kept(key.kind, &value["spec"]).map_err(wrong)?;
    fields(key.kind, &spec).map_err(wrong)?;
    let mut metadata = json!({"name": key.name});
    for map in ["labels", "annotations"] {
        if let Some(given) = value["metadata"].get(map).filter(|given| !given.is_null()) {
            metadata[map] = given.clone();
        }
    }
    let object =
        json!({"apiVersion": key.kind.api_version(), "kind": key.kind.kind, "metadata": metadata, "spec": spec});
    let object = serde_json::from_value(object).map_err(|error| wrong(("metadata".to_owned(), error.to_string())))?;
    Ok(Applied { key, object })
}

/// The first field that cannot be read, and why.
fn fields(kind: Kind, spec: &Value) -> Result<(), (String, String)> {
    match kind {
        JURISDICTION => typed::<JurisdictionSpec>(spec),
        PARTY => typed::<PartySpec>(spec),
        FITNESS_REGION => typed::<FitnessRegionSpec>(spec),
        TENANT_DATA_RESIDENCY => typed::<TenantResidencySpec>(spec),
        INGEST_POOL => typed::<IngestPoolSpec>(spec),
        _ => Ok(()),
    }
}

fn typed<T: DeserializeOwned>(spec: &Value) -> Result<(), (String, String)> {
    match serde_path_to_error::deserialize::<_, T>(spec) {
        Ok(_) => Ok(()),
        Err(error) => {
            let path = error.path().to_string();
            let field = if path == "." {
                "spec".to_owned()
            } else {
                format!("spec.{path}")
            };
            Err((field, error.into_inner().to_string()))
        }
    }
}

/// What cannot be read of a resource that is there, if anything.
#[must_use]
pub fn unreadable(kind: Kind, object: &Value) -> Option<String> {
    let (field, cause) = fields(kind, &object["spec"]).err()?;
    Some(format!("{field}: {cause}"))
}
