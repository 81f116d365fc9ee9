//! The peers, each a program of its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use meridian_policy::{CompiledPolicy, Question};
use serde::Deserialize;
use serde_json::Value;

use super::world;
use crate::Peers;

/// Rounds that a peer makes in one turn.
const ROUNDS: &str = "3";

/// Whom the engine is compared with.
#[derive(Clone, Copy, Debug)]
pub enum Peer {
    /// The crate cedar-policy.
    Cedar,
    /// Open Policy Agent's Go library.
    Opa,
}

/// What a peer answers.
#[derive(Debug, Deserialize)]
pub struct Answered {
    /// A 1 or 0 for each question.
    pub allowed: String,
    /// Nanoseconds of each round.
    pub rounds: Vec<f64>,
}

/// Writes what the peers read.
///
/// # Errors
/// When it cannot be written.
pub fn write(folder: &Path, policy: &CompiledPolicy, questions: &[Question]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let questions: Value = questions.iter().map(world::asked).collect();
    for (name, value) in [("edges.json", world::edges(policy)), ("questions.json", questions)] {
        let path = folder.join(name);
        fs::write(&path, serde_json::to_vec(&value)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

impl Peer {
    /// One turn.
    ///
    /// # Errors
    /// When the peer fails.
    pub fn decide(self, peers: &Peers, folder: &Path) -> Result<Answered> {
        let mut command = match self {
            Self::Cedar => Command::new(&peers.cedar),
            Self::Opa => Command::new(&peers.opa),
        };
        if matches!(self, Self::Cedar) {
            command.arg("decide");
        }
        let text = output(command.arg(folder).arg(ROUNDS))?;
        serde_json::from_str(&text).with_context(|| format!("{self:?} did not answer in its form"))
    }
}

/// What a program prints.
///
/// # Errors
/// When it cannot be run, or fails.
pub fn output(command: &mut Command) -> Result<String> {
    let ran = command
        .output()
        .with_context(|| format!("{command:?} cannot be started"))?;
    ensure!(
        ran.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&ran.stderr)
    );
    Ok(String::from_utf8(ran.stdout)?)
}
