//! The Docker Engine: a running one, or one that is installed and started here.

pub mod capabilities;
pub mod engine;
pub mod front;

use std::process::Command;

use crate::progress;

/// The Docker client with these arguments.
pub fn docker<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new("docker");
    command.args(arguments);
    command
}

/// Whether the engine holds this image.
pub fn has_image(tag: &str) -> bool {
    progress::succeeds(&mut docker(["image", "inspect", tag]))
}
