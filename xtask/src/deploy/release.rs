//! The chart's release in one cluster: whether it is there as it should be, and how it gets there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;

use super::NAMESPACE;
use crate::cache::{Inputs, Key};
use crate::cluster::{Clusters, Spec};
use crate::images::oci::Image;
use crate::paths::Paths;
use crate::progress::{self, Log, output, succeeds};

/// The label of helm's record of a release that says what it was made from.
const INPUTS: &str = "meridian-inputs";

/// The release of one cluster.
pub struct Release<'a> {
    spec: &'a Spec,
    helm: &'a Path,
    kubectl: &'a Path,
    chart: PathBuf,
    role: &'static str,
    values: Vec<String>,
    /// The hash of the chart and its values.
    pub inputs: Key,
}

impl<'a> Release<'a> {
    /// The release with the role that the cluster has.
    ///
    /// # Errors
    /// When the chart cannot be read.
    pub fn of(
        paths: &Paths,
        (helm, kubectl): (&'a Path, &'a Path),
        spec: &'a Spec,
        image: &Image,
        clusters: &Clusters,
    ) -> Result<Self> {
        let role = if spec.country.is_some() { "region" } else { "hub" };
        let values = vec![
            format!("role={role}"),
            format!("image.reference={}", image.tag),
            format!("dataPlane.postgresImage={}", clusters.data.postgres.tag),
            format!("dataPlane.kafkaImage={}", clusters.data.kafka.tag),
            // One node has room for one, and nothing to take over from.
            "operator.replicas=1".to_owned(),
            // One person runs the demo.
            "hub.approval=NotRequired".to_owned(),
        ];
        let chart = paths.project.join("charts/meridian");
        let inputs = inputs(&chart, &values)?;
        Ok(Self {
            spec,
            helm,
            kubectl,
            chart,
            role,
            values,
            inputs,
        })
    }

    /// Whether helm recorded that it finished a release of exactly this chart and these values, every object of it is
    /// still there as the chart says, and the operator runs.
    pub fn is_in_place(&self) -> bool {
        self.is_recorded() && self.is_untouched() && self.operator_runs()
    }

    fn is_recorded(&self) -> bool {
        let wanted = format!(
            "owner=helm,name=meridian,status=deployed,{INPUTS}={}",
            self.inputs.short()
        );
        output(
            self.kubectl()
                .args(["get", "secrets", "--output=name", "--selector", &wanted]),
        )
        .is_ok_and(|listed| !listed.trim().is_empty())
    }

    fn is_untouched(&self) -> bool {
        let Ok(manifest) = output(self.helm().args(["get", "manifest", "meridian"])) else {
            return false;
        };
        // With a field manager of its own the comparison removes nothing that helm or the operator added.
        let mut compare = self.kubectl();
        compare.args([
            "diff",
            "--server-side",
            "--force-conflicts",
            "--field-manager=meridian-xtask",
        ]);
        compare
            .args(["--filename", "-"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // A viewer that the user set would have an exit code of its own.
        compare.env_remove("KUBECTL_EXTERNAL_DIFF");
        super::feed(&mut compare, &manifest).is_ok_and(|done| done.status.success())
    }

    fn operator_runs(&self) -> bool {
        let available = [
            "wait",
            "--for=condition=Available",
            "--timeout=5s",
            "deployment/meridian-operator",
        ];
        succeeds(self.kubectl().args(available))
    }

    /// Installs or upgrades it and waits until the operator runs.
    ///
    /// # Errors
    /// When helm fails: with the end of its log.
    pub fn install(&self, paths: &Paths) -> Result<()> {
        let log = Log::fresh(paths, &format!("helm-{}", self.spec.name))?;
        progress::step(
            &format!("installing the {} role in {}", self.role, self.spec.name),
            Some(log.shown()),
            || {
                self.forget_interrupted(&log)?;
                let mut helm = self.helm();
                helm.args(["upgrade", "--install", "meridian", "--create-namespace"]);
                for value in &self.values {
                    helm.args(["--set", value]);
                }
                helm.args(["--labels", &format!("{INPUTS}={}", self.inputs.short())]);
                log.run(
                    helm.args(["--force-conflicts", "--wait", "--timeout", "180s"])
                        .arg(&self.chart),
                )
            },
        )
    }

    /// Removes helm's record of a release that was interrupted: helm would take it for one that still goes on, and
    /// refuse for ever. What that release made already is taken over by the next.
    fn forget_interrupted(&self, log: &Log) -> Result<()> {
        let pending = "owner=helm,name=meridian,status in (pending-install,pending-upgrade,pending-rollback)";
        log.run(self.kubectl().args(["delete", "secrets", "--selector", pending]))
    }

    fn helm(&self) -> Command {
        let mut command = Command::new(self.helm);
        command.args(["--kube-context", &self.spec.context(), "--namespace", NAMESPACE]);
        command
    }

    fn kubectl(&self) -> Command {
        let mut command = Command::new(self.kubectl);
        command.args(["--context", &self.spec.context(), "--namespace", NAMESPACE]);
        command
    }
}

/// The hash of a chart's files and the values that it is given.
fn inputs(chart: &Path, values: &[String]) -> Result<Key> {
    let all = Inputs::new().folder(chart)?;
    Ok(values.iter().fold(all, |all, value| all.text("value", value)).key())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn another_file_or_value_is_another_release() {
        let chart = tempfile::tempdir().unwrap();
        fs::create_dir(chart.path().join("templates")).unwrap();
        fs::write(chart.path().join("templates/a.yaml"), "kind: A").unwrap();
        let of = |values: &[&str]| {
            let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
            inputs(chart.path(), &values).unwrap()
        };
        let before = of(&["role=hub"]);
        assert_eq!(of(&["role=hub"]), before);
        assert_ne!(of(&["role=region"]), before);
        fs::rename(
            chart.path().join("templates/a.yaml"),
            chart.path().join("templates/b.yaml"),
        )
        .unwrap();
        assert_ne!(of(&["role=hub"]), before);
    }
}
