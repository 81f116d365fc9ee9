//! Root file systems made of Debian packages, by debootstrap.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::cache::{Cache, Inputs, Key};
use crate::host;
use crate::paths::Paths;
use crate::progress::{self, Log};

/// A root file system: a release of Debian and the packages wanted beside the minimal ones.
#[derive(Debug)]
pub struct RootFs {
    /// Its name in the cache.
    pub name: &'static str,
    release: &'static str,
    packages: &'static str,
}

/// PostgreSQL 17.
pub const POSTGRES: RootFs = RootFs {
    name: "rootfs-postgres",
    release: "trixie",
    packages: "postgresql-17",
};

/// Java 21, for Kafka.
pub const JAVA: RootFs = RootFs {
    name: "rootfs-java",
    release: "trixie",
    packages: "openjdk-21-jre-headless",
};

/// What a Kubernetes node runs on: systemd and the tools of kubelet, kube-proxy and containerd. bookworm, because its
/// systemd is the last one that still boots where the host has control groups of version 1.
pub const NODE: RootFs = RootFs {
    name: "rootfs-node",
    release: "bookworm",
    packages: "systemd,iproute2,iptables,nftables,conntrack,kmod,mount,ethtool,libseccomp2,runc,ca-certificates,procps,\
               socat,util-linux,e2fsprogs,hostname,busybox-static",
};

/// The hash of what the root file system is made from.
pub fn key(wanted: &RootFs) -> Key {
    Inputs::new()
        .text("release", wanted.release)
        .text("packages", wanted.packages)
        .key()
}

/// The unpacked root file system; made now when the cache has none.
///
/// # Errors
/// When this user is not root (debootstrap changes owners and roots), or a package cannot be had.
pub fn path(paths: &Paths, cache: &Cache, wanted: &RootFs) -> Result<PathBuf> {
    if cache.is_whole(wanted.name, &key(wanted)) {
        return Ok(cache.path(wanted.name, &key(wanted)).join("root"));
    }
    if !host::is_root() {
        bail!(
            "a root file system with {} can only be made by root; run this as root once",
            wanted.packages
        );
    }
    host::ensure_packages(paths, &[("debootstrap", "debootstrap")])?;
    let packages = cache.folder("packages")?;
    let entry = cache.entry(wanted.name, &key(wanted), |dir| {
        let log = Log::fresh(paths, wanted.name)?;
        progress::step(&format!("debootstrap {}", wanted.name), Some(log.shown()), || {
            log.run(
                host::confined()
                    .args(["debootstrap", "--variant=minbase"])
                    .arg(format!("--cache-dir={}", packages.display()))
                    .arg(format!("--include={},ca-certificates", wanted.packages))
                    .arg(wanted.release)
                    .arg(dir.join("root"))
                    .arg(host::debian_mirror()?)
                    .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            )
        })
    })?;
    Ok(entry.join("root"))
}
