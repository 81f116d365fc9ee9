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
/// The environment that it starts with; what is measured of the platform is measured in it, too. The allocator keeps freed
/// memory for so many milliseconds: by itself it gives it back after one second, so that a service whose work comes in bursts
/// has it zeroed anew for each (docs/adr/0036). And it takes memory in pages of 4 KiB, not of 2 MiB (docs/adr/0037).
pub const ENVIRONMENT: [(&str, &str); 2] = [("MIMALLOC_PURGE_DELAY", "10000"), ("MIMALLOC_ALLOW_THP", "0")];

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
    let image = ENVIRONMENT
        .iter()
        .fold(image, |image, (name, value)| image.env(name, value));
    Ok(named(image, "meridian", ""))
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
