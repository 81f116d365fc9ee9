//! A front for runc on machines that lack a capability: asks for no more than the machine has, then becomes runc.
//!
//! runc refuses to start a container whose specification names a capability that it may not give. Docker names all of
//! them for a privileged container, so on such a machine no kind node would start. The engine is told to use a copy of
//! this program, under [`NAME`], as its runtime; nothing else is changed, and a machine that has every capability
//! never sees it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::capabilities::Bounding;
use crate::host;
use crate::progress;

/// The file name under which this program is that front.
pub const NAME: &str = "meridian-runc";

/// Whether this program was started as the front.
pub fn is_called() -> bool {
    std::env::args_os()
        .next()
        .is_some_and(|name| Path::new(&name).file_name().is_some_and(|file| file == NAME))
}

/// Adapts the specification that the arguments name and becomes runc; returns only when that fails.
pub fn run() -> anyhow::Error {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Err(error) = adapt(&arguments) {
        // runc is the judge of a specification that cannot be read: it is left as it is.
        progress::say(&format!("{NAME}: {error:#}"));
    }
    let Some(runc) = host::program("runc") else {
        return anyhow::anyhow!("`runc` is not installed");
    };
    Command::new(runc).args(arguments).exec().into()
}

fn adapt(arguments: &[OsString]) -> Result<()> {
    let Some(spec) = specification(arguments) else {
        return Ok(());
    };
    let text = fs::read(&spec.file).with_context(|| format!("cannot read {}", spec.file.display()))?;
    let mut content: Value =
        serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", spec.file.display()))?;
    let process = if spec.whole {
        content.get_mut("process")
    } else {
        Some(&mut content)
    };
    let Some(process) = process else { return Ok(()) };
    restrict(process, Bounding::own(), own_oom_score());
    fs::write(&spec.file, content.to_string()).with_context(|| format!("cannot write {}", spec.file.display()))
}

struct Specification {
    file: PathBuf,
    /// A container's whole specification, or that of one process.
    whole: bool,
}

fn specification(arguments: &[OsString]) -> Option<Specification> {
    let words: Vec<&str> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
    let verb = words
        .iter()
        .find(|word| ["create", "run", "restore", "exec"].contains(word))?;
    if *verb == "exec" {
        let file = option(&words, &["--process", "-p"])?;
        return Some(Specification {
            file: file.into(),
            whole: false,
        });
    }
    let bundle = option(&words, &["--bundle", "-b"]).unwrap_or(".");
    Some(Specification {
        file: Path::new(bundle).join("config.json"),
        whole: true,
    })
}

fn option<'a>(words: &[&'a str], names: &[&str]) -> Option<&'a str> {
    words.iter().enumerate().find_map(|(at, word)| {
        names.iter().find_map(|name| {
            if word == name {
                return words.get(at + 1).copied();
            }
            word.strip_prefix(name)?.strip_prefix('=')
        })
    })
}

/// Takes from a process what this machine cannot give: capabilities outside the bounding set and, without
/// CAP_SYS_RESOURCE, an easier life than this process has with the out-of-memory killer and with resource limits.
fn restrict(process: &mut Value, bounding: Bounding, oom_score: i64) {
    if let Some(sets) = process.get_mut("capabilities").and_then(Value::as_object_mut) {
        for names in sets.values_mut().filter_map(Value::as_array_mut) {
            names.retain(|name| name.as_str().is_some_and(|name| bounding.holds(name)));
        }
    }
    if bounding.holds("CAP_SYS_RESOURCE") {
        return;
    }
    if let Some(process) = process.as_object_mut() {
        let asked = process.get("oomScoreAdj").and_then(Value::as_i64).unwrap_or(0);
        process.insert("oomScoreAdj".to_owned(), asked.max(oom_score).into());
        process.insert("rlimits".to_owned(), Value::Array(Vec::new()));
    }
}

fn own_oom_score() -> i64 {
    fs::read_to_string("/proc/self/oom_score_adj")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_specification_is_found_where_runc_would_look() {
        let created = specification(&words("--root /run/x create --bundle /b --pid-file p id")).unwrap();
        assert_eq!((created.file, created.whole), (PathBuf::from("/b/config.json"), true));
        let executed = specification(&words("--root /r exec --process=/tmp/p.json --detach id")).unwrap();
        assert_eq!((executed.file, executed.whole), (PathBuf::from("/tmp/p.json"), false));
        assert!(specification(&words("--root /r state id")).is_none());
    }

    #[test]
    fn what_the_machine_lacks_is_dropped_and_the_rest_is_kept() {
        let lacking = serde_json::json!({
            "capabilities": {"bounding": ["CAP_CHOWN", "CAP_SYS_RESOURCE"], "ambient": ["CAP_SYS_RESOURCE"]},
            "oomScoreAdj": -500, "rlimits": [{"type": "RLIMIT_NOFILE"}], "cwd": "/"
        });
        let mut process = lacking.clone();
        restrict(&mut process, Bounding::without("CAP_SYS_RESOURCE"), 0);
        assert_eq!(
            process,
            serde_json::json!({
                "capabilities": {"bounding": ["CAP_CHOWN"], "ambient": []}, "oomScoreAdj": 0, "rlimits": [], "cwd": "/"
            })
        );
    }

    #[test]
    fn a_machine_with_every_capability_changes_nothing() {
        let asked = serde_json::json!({"capabilities": {"bounding": ["CAP_SYS_RESOURCE"]}, "oomScoreAdj": -500});
        let mut process = asked.clone();
        restrict(&mut process, Bounding::without("none"), 0);
        assert_eq!(process, asked);
    }
}
