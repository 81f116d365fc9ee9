//! The one image of the platform: the `meridian` binary and the libraries that it is linked with, nothing else.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::oci::{Image, Layer};
use super::{files, named};
use crate::cache::{Cache, Inputs, sha256_of};
use crate::host;
use crate::paths::Paths;
use crate::progress::output;

/// The user that it runs as.
const USER: u32 = 65532;
/// What it starts with: `NAME=VALUE` by line.
const ENVIRONMENT: &str = include_str!("../../../services/meridian/image.env");

/// Makes the image of the built binary.
///
/// # Errors
/// When one of its libraries cannot be found, or the file system refuses.
pub fn image(paths: &Paths, cache: &Cache, binary: &Path) -> Result<Image> {
    let stripped = strip(paths, cache, binary)?;
    let libraries = files::libraries(std::slice::from_ref(&stripped), None)?;
    let mut inputs = Inputs::new().text("user", &format!("{USER} v1"));
    for library in &libraries {
        inputs = inputs.text("path", &library.display().to_string()).file(library)?;
    }
    let system = Layer::cached(cache, "layer-app-system", &inputs.key(), |tar| {
        for library in &libraries {
            tar.put(library, &library.display().to_string()[1..], 0o755)?;
        }
        tar.write(
            "etc/passwd",
            &format!("meridian:x:{USER}:{USER}:meridian:/:/nologin\n"),
            0o644,
        )?;
        tar.write("etc/group", &format!("meridian:x:{USER}:\n"), 0o644)
    })?;
    let own = Layer::cached(cache, "layer-app", &Inputs::new().file(&stripped)?.key(), |tar| {
        tar.put(&stripped, "usr/local/bin/meridian", 0o755)
    })?;
    let image = Image::new(String::new(), vec![system, own], &["/usr/local/bin/meridian"]).user(USER);
    let image = variables(ENVIRONMENT).fold(image, |image, (name, value)| image.env(name, value));
    Ok(named(image, "meridian", ""))
}

/// Lines that are no comments.
fn variables(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
}

/// The binary without its debug information: a tenth of the size, and the same for the same code.
fn strip(paths: &Paths, cache: &Cache, binary: &Path) -> Result<PathBuf> {
    host::ensure_packages(paths, &[("strip", "binutils"), ("ldd", "libc-bin")])?;
    let key = Inputs::new().text("binary", &sha256_of(binary)?).key();
    let entry = cache.entry("app-binary", &key, |dir| {
        output(Command::new("strip").arg("-o").arg(dir.join("meridian")).arg(binary))
            .map(drop)
            .context("the binary's debug information cannot be removed")
    })?;
    Ok(entry.join("meridian"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_what_its_file_says_without_what_it_says_about_it() {
        let all: Vec<_> = variables(ENVIRONMENT).collect();
        assert_eq!(all, [("MIMALLOC_PURGE_DELAY", "10000")]);
    }
}
