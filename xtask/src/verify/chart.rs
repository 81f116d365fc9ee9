//! The chart: linted and rendered in both roles, compared with the renderings that are checked in, and asked for values
//! that its schema must refuse.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Tally, check};
use crate::cache::Cache;
use crate::paths::Paths;
use crate::progress::{Log, output, succeeds};
use crate::tools;

/// Everything that is off by default.
const MONITORED: &str =
    "monitoring.podMonitor.enabled=true,monitoring.prometheusRule.enabled=true,monitoring.dashboard.enabled=true";

/// Traces, as somebody may want them.
const TRACED: &str = "monitoring.traces.collector=http://collector.monitoring.svc:4318,\
     monitoring.traces.to[0].namespaceSelector.matchLabels.name=monitoring";

/// Pools that a HorizontalPodAutoscaler or KEDA scales.
const SCALED: &str = "region.externalMetrics.enabled=true,\
     region.kedaFrom[0].namespaceSelector.matchLabels.name=keda";

/// One rendering that is checked in.
struct Rendering {
    name: &'static str,
    values: &'static [&'static str],
    /// Only what this template makes.
    only: Option<&'static str>,
}

const RENDERINGS: &[Rendering] = &[
    Rendering {
        name: "hub",
        values: &["role=hub"],
        only: None,
    },
    Rendering {
        name: "region",
        values: &["role=region"],
        only: None,
    },
    Rendering {
        name: "region-other-operators",
        values: &["role=region", "dataPlane.cloudNativePG=true,dataPlane.strimzi=true"],
        only: Some("templates/region/role.yaml"),
    },
    Rendering {
        name: "hub-monitored",
        values: &["role=hub", MONITORED],
        only: Some("templates/monitoring.yaml"),
    },
    Rendering {
        name: "region-monitored",
        values: &["role=region", MONITORED],
        only: Some("templates/monitoring.yaml"),
    },
    Rendering {
        name: "hub-traced",
        values: &["role=hub", TRACED],
        only: Some("templates/operator.yaml"),
    },
    Rendering {
        name: "hub-traced-network",
        values: &["role=hub", TRACED],
        only: Some("templates/network.yaml"),
    },
    Rendering {
        name: "region-scaled",
        values: &["role=region", SCALED],
        only: Some("templates/region/role.yaml"),
    },
    Rendering {
        name: "region-scaled-operator",
        values: &["role=region", SCALED],
        only: Some("templates/operator.yaml"),
    },
    Rendering {
        name: "region-scaled-network",
        values: &["role=region", SCALED],
        only: Some("templates/network.yaml"),
    },
];

/// Values that may not be given.
const REFUSED: &[&str] = &[
    "role=both",
    "unknown=1",
    "operator.replicas=0",
    "operator.priorityClass.value=2000000000",
    "image.reference=",
    "networkPolicy.apiServers.ports={70000}",
    "networkPolicy.metricsFrom[0].anybody=true",
    "monitoring.dashboard.enabled=perhaps",
    "monitoring.traces.collector=collector:4318",
    "hub.webhook.failurePolicy=Sometimes",
    "hub.approval=Perhaps",
    "region.hubServiceAccount=Not A Name",
    "region.externalMetrics.enabled=perhaps",
    "region.kedaFrom[0].anybody=true",
];

/// Writes charts/snapshots anew.
///
/// # Errors
/// When helm cannot be had or refuses the chart.
pub fn write(paths: &Paths, cache: &Cache) -> Result<()> {
    let helm = tools::path(paths, cache, "helm")?;
    let folder = folder(paths);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for rendering in RENDERINGS {
        let text = render(paths, &helm, rendering)?;
        let path = folder.join(rendering.file());
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Runs every check of the chart.
///
/// # Errors
/// When helm cannot be had.
pub fn verify(paths: &Paths, cache: &Cache) -> Result<Tally> {
    let log = Log::fresh(paths, "test-chart")?;
    let helm = tools::path(paths, cache, "helm")?;
    let mut total = Tally::default();
    for rendering in RENDERINGS {
        total.add(check(&format!("chart, {}", rendering.name), || {
            let mut lint = Command::new(&helm);
            lint.args(["lint", "--strict"]).arg(chart(paths));
            log.run(set(&mut lint, rendering.values))?;
            compare(paths, &helm, rendering)
        }));
    }
    total.add(check("chart, values that are refused", || {
        for value in REFUSED {
            let mut template = Command::new(&helm);
            template.args(["template", "meridian"]).arg(chart(paths));
            if succeeds(set(&mut template, &[value])) {
                bail!("the chart's schema lets `{value}` through");
            }
        }
        Ok(())
    }));
    Ok(total)
}

impl Rendering {
    fn file(&self) -> String {
        format!("{}.yaml", self.name)
    }
}

fn chart(paths: &Paths) -> PathBuf {
    paths.project.join("charts/meridian")
}

/// Beside the chart, not in it: a package of the chart has no use for them.
fn folder(paths: &Paths) -> PathBuf {
    paths.project.join("charts/snapshots")
}

fn set<'a>(helm: &'a mut Command, values: &[&str]) -> &'a mut Command {
    for value in values {
        helm.args(["--set", value]);
    }
    helm
}

fn render(paths: &Paths, helm: &Path, rendering: &Rendering) -> Result<String> {
    let mut template = Command::new(helm);
    template
        .args(["template", "meridian", "--namespace", "meridian-system"])
        .arg(chart(paths));
    if let Some(only) = rendering.only {
        template.args(["--show-only", only]);
    }
    let text = output(set(&mut template, rendering.values))?;
    Ok(without_definitions(&text))
}

/// The custom resources' definitions are checked in once already, in crds/generated.
fn without_definitions(rendered: &str) -> String {
    let documents = rendered
        .split_inclusive("\n")
        .fold(Vec::<String>::new(), |mut all, line| {
            if line.trim_end() == "---" || all.is_empty() {
                all.push(String::new());
            }
            if let Some(last) = all.last_mut() {
                last.push_str(line);
            }
            all
        });
    let kept = documents
        .into_iter()
        .filter(|document| !document.contains("# Source: meridian/templates/crds.yaml\n"));
    kept.collect()
}

fn compare(paths: &Paths, helm: &Path, rendering: &Rendering) -> Result<()> {
    let held = fs::read_to_string(folder(paths).join(rendering.file())).unwrap_or_default();
    let rendered = render(paths, helm, rendering)?;
    if held == rendered {
        return Ok(());
    }
    let line = 1 + held
        .lines()
        .zip(rendered.lines())
        .take_while(|(before, now)| before == now)
        .count();
    bail!(
        "charts/snapshots/{} is not what the chart renders, from line {line} on; look at what changed with `cargo xtask \
         chart` and `git diff charts/snapshots`",
        rendering.file()
    )
}

#[cfg(test)]
mod tests {
    use super::without_definitions;

    #[test]
    fn definitions_are_left_out_and_everything_else_stays_as_it_is() {
        let kept = "---\n# Source: meridian/templates/a.yaml\nkind: A\n";
        let definition = "---\n# Source: meridian/templates/crds.yaml\nkind: CustomResourceDefinition\n";
        let last = "---\n# Source: meridian/templates/z.yaml\nkind: Z\n";
        assert_eq!(
            without_definitions(&[kept, definition, definition, last].concat()),
            [kept, last].concat()
        );
    }
}
