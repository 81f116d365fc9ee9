//! The custom resource definitions that other operators publish, for tests of what is written by them: out of their Go
//! modules, whose versions and checksums are committed in `tests/kind/go/definitions`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::paths::Paths;
use crate::progress::output;
use crate::tools;

/// A definition: the variable that names its file, the module, and the file in it.
const DEFINITIONS: [(&str, &str, &str); 2] = [
    (
        "MERIDIAN_TEST_CLOUDNATIVEPG_CLUSTER",
        "github.com/cloudnative-pg/cloudnative-pg",
        "config/crd/bases/postgresql.cnpg.io_clusters.yaml",
    ),
    (
        "MERIDIAN_TEST_KEDA_SCALED_OBJECT",
        "github.com/kedacore/keda/v2",
        "config/crd/bases/keda.sh_scaledobjects.yaml",
    ),
];

/// Where they lie, by variable.
///
/// # Errors
/// When a module cannot be had, or is not what its checksum says.
pub fn env(paths: &Paths) -> Result<Vec<(&'static str, String)>> {
    let file = |(variable, module, file): (&'static str, &str, &str)| {
        let version = tools::pinned_in(paths, "definitions", module)?;
        let mut download = Command::new("go");
        download
            .current_dir(paths.kind().join("go/definitions"))
            .args(["mod", "download", "-json"])
            .arg(format!("{module}@{version}"))
            .env("GOWORK", "off");
        let told: Value = serde_json::from_str(&output(&mut download)?).context("go mod download")?;
        let Some(folder) = told["Dir"].as_str() else {
            bail!("{module} {version} cannot be had: {}", told["Error"])
        };
        Ok((variable, Path::new(folder).join(file).display().to_string()))
    };
    DEFINITIONS.into_iter().map(file).collect()
}
