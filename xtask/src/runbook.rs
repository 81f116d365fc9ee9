//! `cargo xtask runbook`: runs a page of docs/runbooks, or of docs itself, as it is written, on the running demo. Its commands are the page's
//! blocks marked `sh`, one script in the page's order; what a reader is only shown is in blocks marked otherwise. The pages
//! count on the demo's clusters, which hold the platform's image, and on variables that name the images.
//!
//! No lock is held meanwhile: a page may use `cargo xtask` itself.

use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::cluster;
use crate::deploy;
use crate::on_path;
use crate::paths::Paths;
use crate::programs::Programs;
use crate::progress::{self, Log};
use crate::verify::Tally;

/// The platform's image under a name that no cluster has run yet: what a new release is to it.
const NEXT_IMAGE: &str = "meridian.sh/meridian:next";

/// Runs the pages one after the other; a page that fails ends the run, since the demo is not what the next one expects.
///
/// # Errors
/// When there is no such page, or it has no commands.
pub fn run(paths: &Paths, cache: &Cache, programs: &Programs, names: &[String]) -> Result<Tally> {
    let path = on_path::path(paths, cache, programs)?;
    let clusters = cluster::up(paths, cache)?;
    let image = deploy::image(paths, cache, programs)?;
    cluster::name_also(&image.tag, NEXT_IMAGE)?;
    let pages = names.iter().map(|name| page(paths, name)).collect::<Result<Vec<_>>>()?;
    let mut counted = Tally::default();
    for (name, script) in names.iter().zip(pages) {
        let log = Log::fresh(paths, &format!("runbook-{name}"))?;
        progress::say(&format!("runbook {name} … (log: {})", log.shown()));
        let began = Instant::now();
        let file = paths.target.join(format!("xtask/runbook-{name}.sh"));
        fs::write(&file, script).with_context(|| format!("cannot write {}", file.display()))?;
        let mut shell = Command::new("bash");
        shell
            .arg(&file)
            .current_dir(&paths.project)
            .env("PATH", &path)
            .env("IMAGE", &image.tag)
            .env("NEXT_IMAGE", NEXT_IMAGE)
            .env("POSTGRES_IMAGE", &clusters.data.postgres.tag)
            .env("KAFKA_IMAGE", &clusters.data.kafka.tag);
        let done = log.run(&mut shell);
        let took = began.elapsed().as_secs();
        counted.add(Tally::one(done.is_ok()));
        if let Err(error) = done {
            progress::say(&format!("runbook {name}: FAILED after {took} s: {error:#}"));
            break;
        }
        progress::say(&format!("runbook {name}: done in {took} s"));
    }
    Ok(counted)
}

/// The page's commands as one script, which ends at the first that fails and shows each before it runs.
fn page(paths: &Paths, name: &str) -> Result<String> {
    let [runbook, page] = ["docs/runbooks", "docs"].map(|folder| paths.project.join(folder).join(format!("{name}.md")));
    let file = if page.is_file() { page } else { runbook };
    let text = fs::read_to_string(&file).with_context(|| format!("no page {}", file.display()))?;
    let commands = commands(&text);
    if commands.is_empty() {
        bail!("{} has no block of commands (marked `sh`)", file.display());
    }
    Ok(format!("set -euo pipefail\nset -x\n{commands}"))
}

fn commands(page: &str) -> String {
    let mut inside = false;
    let mut commands = String::new();
    for line in page.lines() {
        match line.trim_end() {
            "```sh" => inside = true,
            "```" => inside = false,
            _ if inside => {
                commands.push_str(line);
                commands.push('\n');
            }
            _ => {}
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_of_commands_are_run_in_their_order() {
        let page = "# Page\n```sh\na\n```\ntext\n```yaml\nkind: b\n```\n```\nshown\n```\n```sh\nc\n  d\n```\n";
        assert_eq!(commands(page), "a\nc\n  d\n");
    }
}
