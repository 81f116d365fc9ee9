//! What this machine is and has: root or not, its Debian mirror, its packages, its capabilities.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::paths::Paths;
use crate::progress::{self, Log};

/// Whether this process is root.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// The program's path, when it is installed. The administrators' folders are searched too: they are often missing
/// from a user's `PATH`.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Whether something is on this machine: a program by its name, any other file by its whole path.
fn is_there(needed: &str) -> bool {
    if needed.starts_with('/') {
        return Path::new(needed).is_file();
    }
    program(needed).is_some()
}

/// Installs what is missing of `(program or file, Debian package)`.
///
/// # Errors
/// One sentence that names the packages, when this user may not install them or the machine has no apt.
pub fn ensure_packages(paths: &Paths, wanted: &[(&str, &str)]) -> Result<()> {
    let mut missing: Vec<&str> = wanted
        .iter()
        .filter(|(needed, _)| !is_there(needed))
        .map(|(_, package)| *package)
        .collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() || program("apt-get").is_none() {
        bail!(
            "missing on this machine: {0}; install it first (Debian: sudo apt-get install {0})",
            missing.join(" ")
        );
    }
    let log = Log::fresh(paths, "apt")?;
    progress::step(&format!("installing {}", missing.join(" ")), Some(log.shown()), || {
        // An installation that was interrupted stops every later one until it is finished.
        log.run(
            Command::new("dpkg")
                .args(["--configure", "-a"])
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )?;
        log.run(Command::new("apt-get").arg("update"))?;
        // The package's service is not wanted: whoever needs an engine starts one of its own and stops it again.
        log.run(
            Command::new("apt-get")
                .args(["install", "-y", "--no-install-recommends"])
                // The machine's own updates may be at it.
                .args(["-o", "DPkg::Lock::Timeout=300"])
                .args(&missing)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    })
}

/// The address of the Debian mirror that this machine itself installs from.
///
/// # Errors
/// When the machine's apt names none for Debian's main archive.
pub fn debian_mirror() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(listed) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(listed.flatten().map(|entry| entry.path()));
    }
    files.sort();
    files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .find_map(|text| mirror_in(&text))
        .context("apt on this machine names no Debian mirror: the images are built from Debian packages")
}

/// The first main-archive mirror in a sources file, of the one-line or of the deb822 form.
fn mirror_in(text: &str) -> Option<String> {
    let addresses = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| {
            let rest = line
                .strip_prefix("URIs:")
                .or_else(|| line.strip_prefix("deb "))
                .unwrap_or_default();
            rest.split_whitespace()
        });
    addresses
        .map(|address| address.trim_end_matches('/'))
        .find(|address| address.starts_with("http") && address.ends_with("/debian"))
        .map(str::to_owned)
}

/// Namespaces of its own for a command: what it mounts is gone when it is, and so are all its processes, also when it is
/// killed. debootstrap's dpkg would go on writing where the next run starts anew.
pub fn confined() -> Command {
    let mut command = private_mounts();
    command.args(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command
}

/// A mount namespace of its own for a command, so that what it mounts is gone when it is.
pub fn private_mounts() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--"]);
    command
}

/// Fails while something is mounted below a folder that is about to be removed.
///
/// # Errors
/// One sentence that names the mount.
pub fn refuse_mounts_below(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let inside = format!("{}/", dir.display());
    if let Some(mounted) = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .find(|at| at.starts_with(&inside))
    {
        bail!(
            "{mounted} is still mounted; unmount it before {} can be removed",
            dir.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{is_there, mirror_in};

    #[test]
    fn a_program_is_found_by_its_name_and_a_file_by_its_path() {
        assert!(is_there("sh") && is_there("/bin/sh"));
        assert!(!is_there("/bin/no-such-program") && !is_there("no-such-program"));
        assert!(!is_there("/bin"), "a folder is no file");
    }

    #[test]
    fn the_mirror_is_read_from_deb822_and_from_one_line_sources() {
        let deb822 = "Types: deb\n# URIs: http://old.example/debian\nURIs: http://mirror.example/debian\nSuites: x\n";
        assert_eq!(mirror_in(deb822).as_deref(), Some("http://mirror.example/debian"));
        let one_line = "deb [signed-by=/k.gpg] https://mirror.example/debian/ bookworm main\n";
        assert_eq!(mirror_in(one_line).as_deref(), Some("https://mirror.example/debian"));
    }

    #[test]
    fn the_security_archive_is_no_mirror_of_the_main_one() {
        assert_eq!(mirror_in("URIs: http://mirror.example/debian-security\n"), None);
    }
}
