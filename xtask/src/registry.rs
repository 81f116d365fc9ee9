//! Where a container registry can be reached, stock images are used instead of ones that are built here.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::Inputs;
use crate::cluster::Found;
use crate::docker::{docker, has_image};
use crate::images::data::Data;
use crate::images::{PREFIX, oci::Image};
use crate::paths::Paths;
use crate::progress::{self, Log, succeeds};

/// The stock images that ours are made from there.
const POSTGRES: &str = "postgres:17";
const KAFKA: &str = "apache/kafka:4.1.1";

/// Seconds that a registry may take to answer before it counts as out of reach.
const LIMIT: &str = "8";

/// Whether the clusters are made from stock images. Those that are there stay as they are: a registry that is out of
/// reach for a moment is no reason to make every cluster anew from another image. `MERIDIAN_REGISTRY=off` says no without
/// asking.
pub fn stock(found: &[Found]) -> bool {
    let off = std::env::var("MERIDIAN_REGISTRY").is_ok_and(|value| value == "off");
    decided(off, found.first().map(Found::built_here)).unwrap_or_else(|| {
        let mut probe = Command::new("timeout");
        let reached = succeeds(probe.args([LIMIT, "docker", "manifest", "inspect", POSTGRES]));
        if !reached {
            progress::say("no container registry can be reached: the node image and the data images are built here");
        }
        reached
    })
}

/// What is known without asking the registry.
fn decided(off: bool, cluster_built_here: Option<bool>) -> Option<bool> {
    if off {
        return Some(false);
    }
    cluster_built_here.map(|here| !here)
}

/// PostgreSQL and Kafka from the stock images, with the same entry scripts as those that are built here.
///
/// # Errors
/// When a stock image cannot be pulled or extended.
pub fn data_images(paths: &Paths) -> Result<Data> {
    Ok(Data {
        postgres: extend(paths, "postgres", POSTGRES, "17", "999:999")?,
        kafka: extend(paths, "kafka", KAFKA, "4.1", "1000:1000")?,
    })
}

fn extend(paths: &Paths, name: &str, stock: &str, version: &str, user: &str) -> Result<Image> {
    let script = paths.kind().join(name).join("entrypoint");
    let hash = Inputs::new()
        .text("stock", stock)
        .text("user", user)
        .file(&script)?
        .key();
    let tag = format!("{PREFIX}/{name}:{version}-{}", hash.short());
    if !has_image(&tag) {
        let log = Log::fresh(paths, &format!("stock-{name}"))?;
        let context = log.path().with_extension("context");
        fs::create_dir_all(&context).with_context(|| format!("cannot create {}", context.display()))?;
        fs::copy(&script, context.join("entrypoint")).with_context(|| format!("cannot copy {}", script.display()))?;
        let recipe = format!(
            "FROM {stock}\nCOPY --chmod=0755 entrypoint /usr/local/bin/meridian-{name}\nUSER {user}\n\
             ENTRYPOINT [\"/usr/local/bin/meridian-{name}\"]\nCMD []\n"
        );
        fs::write(context.join("Dockerfile"), recipe).context("cannot write the Dockerfile")?;
        progress::step(&format!("extending {stock}"), Some(log.shown()), || {
            log.run(docker(["build", "--tag", &tag]).arg(&context))
        })?;
    }
    // Its layers stay in the engine; only the name is used.
    Ok(Image::new(tag, Vec::new(), &[]))
}

#[cfg(test)]
mod tests {
    use super::decided;

    #[test]
    fn clusters_that_are_there_decide_and_off_is_off() {
        assert_eq!(decided(false, None), None);
        assert_eq!(decided(false, Some(true)), Some(false));
        assert_eq!(decided(false, Some(false)), Some(true));
        assert_eq!(decided(true, Some(false)), Some(false));
    }
}
