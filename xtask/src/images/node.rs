//! The node image for kind, where no container registry can be reached: systemd and Kubernetes from Debian packages and
//! Go modules, with every image that a cluster starts with already inside.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::data::Data;
use super::oci::{self, Image, Layer};
use super::{PREFIX, files, named};
use crate::cache::{Cache, Inputs, Key, sha256};
use crate::docker::{docker, has_image};
use crate::host;
use crate::paths::Paths;
use crate::progress::{self, Log, output, succeeds};
use crate::rootfs;
use crate::tools;

/// The container in which the node image is put together.
pub const BUILDER: &str = "meridian-node-image";

/// Units of Debian's systemd that have no place in a container: consoles, device managers, the machine's own mounts.
const NEEDLESS_UNITS: &[&str] = &[
    "usr/lib/systemd/system/multi-user.target.wants",
    "usr/lib/systemd/system/local-fs.target.wants",
    "usr/lib/systemd/system/basic.target.wants",
    "usr/lib/systemd/system/sockets.target.wants/systemd-initctl.socket",
    "usr/lib/systemd/system/sockets.target.wants/systemd-udevd-control.socket",
    "usr/lib/systemd/system/sockets.target.wants/systemd-udevd-kernel.socket",
    "usr/lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service",
    "etc/systemd/system/multi-user.target.wants",
    "etc/systemd/system/sysinit.target.wants",
    "etc/systemd/system/timers.target.wants",
    "etc/systemd/system/getty.target.wants",
];

/// Files of `tests/kind/node`: where each goes, and its mode.
const FILES: &[(&str, &str, u32)] = &[
    ("containerd.toml", "etc/containerd/config.toml", 0o644),
    ("containerd.service", "etc/systemd/system/containerd.service", 0o644),
    ("kubelet.service", "etc/systemd/system/kubelet.service", 0o644),
    ("network.conflist", "etc/cni/net.d/10-node.conflist", 0o644),
    ("entrypoint", "usr/local/bin/entrypoint", 0o755),
    ("kubelet-cgroup", "usr/local/bin/kubelet-cgroup", 0o755),
    ("default-storage.yaml", "kind/manifests/default-storage.yaml", 0o644),
];

/// Programs of the node, and where they go.
const PROGRAMS: &[(&str, &str)] = &[
    ("kubelet", "usr/bin"),
    ("kubeadm", "usr/bin"),
    ("kubectl", "usr/bin"),
    ("containerd", "usr/local/bin"),
    ("containerd-shim-runc-v2", "usr/local/bin"),
    ("ctr", "usr/local/bin"),
    ("bridge", "opt/cni/bin"),
    ("host-local", "opt/cni/bin"),
    ("loopback", "opt/cni/bin"),
    ("portmap", "opt/cni/bin"),
    ("ptp", "opt/cni/bin"),
];

/// The tag of the node image in the engine; made now when the engine has none of this content.
///
/// # Errors
/// When a part cannot be built, or the engine cannot put it together.
pub fn tag(paths: &Paths, cache: &Cache, data: &Data) -> Result<String> {
    let root = rootfs::path(paths, cache, &rootfs::NODE)?;
    let inside = Inside::of(paths, cache, &root)?;
    let base = node(paths, cache, &root, &inside)?;
    let mut images = inside.all();
    images.extend([data.postgres.clone(), data.kafka.clone()]);
    let both: Vec<Image> = images.iter().chain([&base]).cloned().collect();
    let tag = format!("{PREFIX}/node:{}", oci::key(&both).short());
    if has_image(&tag) {
        return Ok(tag);
    }
    let _lock = cache.lock("node-image")?;
    if !has_image(&tag) {
        let log = Log::fresh(paths, "node-image")?;
        progress::step("putting the node image together", Some(log.shown()), || {
            let base_archive = oci::archive(cache, "archive-node", std::slice::from_ref(&base))?;
            let preloaded = oci::archive(cache, "archive-preloaded", &images)?;
            commit(&base.tag, &base_archive, &preloaded, &tag, &log)
        })?;
    }
    Ok(tag)
}

/// Removes the engine's node images but this one; one that a container still uses stays.
pub fn remove_older(tag: &str) {
    let listed = output(&mut docker(["images", "--format", "{{.Repository}}:{{.Tag}}"])).unwrap_or_default();
    for old in listed
        .lines()
        .filter(|name| name.starts_with(&format!("{PREFIX}/node")) && *name != tag)
    {
        succeeds(&mut docker(["rmi", old]));
    }
}

/// Starts the node's containerd in a container, gives it the images, and keeps the result as an image.
fn commit(base: &str, base_archive: &Path, preloaded: &Path, tag: &str, log: &Log) -> Result<()> {
    log.run(docker(["load", "--input"]).arg(base_archive))?;
    let name = BUILDER;
    succeeds(&mut docker(["rm", "--force", "--volumes", name]));
    log.run(&mut docker([
        "run",
        "--detach",
        "--privileged",
        "--name",
        name,
        "--entrypoint",
        "/usr/local/bin/containerd",
        base,
    ]))?;
    let made = import(name, preloaded, log).and_then(|()| {
        log.run(&mut docker(["stop", "--time", "20", name]))?;
        let entry = "ENTRYPOINT [\"/usr/local/bin/entrypoint\"]";
        log.run(&mut docker(["commit", "--change", entry, name, tag]))
    });
    succeeds(&mut docker(["rm", "--force", "--volumes", name]));
    made
}

/// Streams an archive of images into a container's containerd.
///
/// # Errors
/// When containerd does not answer or refuses the archive.
pub fn import(container: &str, archive: &Path, log: &Log) -> Result<()> {
    let ctr = ["exec", "--interactive", container, "ctr", "--namespace", "k8s.io"];
    let deadline = Instant::now() + Duration::from_secs(30);
    while !succeeds(docker(ctr).args(["images", "list", "--quiet"])) {
        if Instant::now() > deadline {
            bail!("containerd in {container} does not answer; see `docker logs {container}`");
        }
        thread::sleep(Duration::from_millis(200));
    }
    let file = File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
    let mut load = docker(ctr);
    load.args(["images", "import", "--no-unpack", "-"]);
    let status = progress::mortal(&load)
        .stdin(file)
        .stdout(log.append()?)
        .stderr(log.append()?)
        .status()
        .context("`docker` cannot be started: is it installed?")?;
    if !status.success() {
        bail!(
            "the images cannot be imported into {container}; the end of {}:\n{}",
            log.shown(),
            log.tail(15)
        );
    }
    Ok(())
}

/// The images that every cluster starts with.
struct Inside {
    kubernetes: Vec<Image>,
    provisioner: Image,
    helper: Image,
    /// The sandbox image's name, which containerd's configuration must repeat.
    pause: String,
}

impl Inside {
    fn of(paths: &Paths, cache: &Cache, node_root: &Path) -> Result<Self> {
        let mut kubernetes = Vec::new();
        let mut pause = None;
        for tag in kubeadm_images(paths, cache)? {
            let name = tag
                .rsplit('/')
                .next()
                .and_then(|last| last.split(':').next())
                .unwrap_or_default()
                .to_owned();
            let layers = match name.as_str() {
                "pause" => vec![pause_layer(paths, cache)?],
                "kube-proxy" => vec![packet_filter_layer(cache, node_root)?, tool_layer(paths, cache, &name)?],
                _ => vec![tool_layer(paths, cache, &name)?],
            };
            if name == "pause" {
                pause = Some(tag.clone());
            }
            // Its manifests name the program without a folder, so it is found by PATH.
            kubernetes.push(Image::new(tag, layers, &[&format!("/usr/local/bin/{name}")]));
        }
        let provisioner = tool_layer(paths, cache, "local-path-provisioner")?;
        let provisioner = Image::new(
            String::new(),
            vec![provisioner],
            &["/usr/local/bin/local-path-provisioner"],
        );
        let busybox = node_root.join("bin/busybox");
        let helper = Layer::cached(cache, "layer-busybox", &Inputs::new().file(&busybox)?.key(), |tar| {
            tar.put(&busybox, "bin/busybox", 0o755)?;
            ["sh", "mkdir", "rm", "chmod"]
                .iter()
                .try_for_each(|name| tar.link(&format!("bin/{name}"), "busybox"))
        })?;
        Ok(Self {
            kubernetes,
            provisioner: named(provisioner, "local-path-provisioner", ""),
            helper: named(Image::new(String::new(), vec![helper], &["/bin/sh"]), "busybox", ""),
            pause: pause.context("kubeadm lists no pause image")?,
        })
    }

    fn all(&self) -> Vec<Image> {
        self.kubernetes
            .iter()
            .chain([&self.provisioner, &self.helper])
            .cloned()
            .collect()
    }
}

/// The names under which kubeadm will look for the control plane's images.
fn kubeadm_images(paths: &Paths, cache: &Cache) -> Result<Vec<String>> {
    let version = tools::kubernetes_version(paths)?;
    let listed = output(Command::new(tools::path(paths, cache, "kubeadm")?).args([
        "config",
        "images",
        "list",
        "--kubernetes-version",
        &version,
    ]))?;
    Ok(listed.lines().map(str::to_owned).collect())
}

fn tool_layer(paths: &Paths, cache: &Cache, name: &str) -> Result<Layer> {
    let key = Inputs::new()
        .text("tool", tools::key(paths, tools::find(name)?)?.short())
        .key();
    Layer::cached(cache, &format!("layer-{name}"), &key, |tar| {
        tar.put(
            &tools::path(paths, cache, name)?,
            &format!("usr/local/bin/{name}"),
            0o755,
        )
    })
}

/// The process that holds a pod's namespaces open, linked statically.
fn pause_layer(paths: &Paths, cache: &Cache) -> Result<Layer> {
    let source = paths.kind().join("node/pause.c");
    Layer::cached(cache, "layer-pause", &Inputs::new().file(&source)?.key(), |tar| {
        host::ensure_packages(paths, &[("gcc", "gcc"), ("ld", "binutils")])?;
        let built = paths.log("pause")?.with_extension("bin");
        output(
            Command::new("gcc")
                .args(["-O2", "-static", "-s", "-o"])
                .arg(&built)
                .arg(&source),
        )?;
        tar.put(&built, "usr/local/bin/pause", 0o755)
    })
}

/// What kube-proxy calls: iptables, nft and conntrack of the node's root file system, with their libraries.
fn packet_filter_layer(cache: &Cache, root: &Path) -> Result<Layer> {
    let key = Inputs::new()
        .text("root", rootfs::key(&rootfs::NODE).short())
        .text("version", "3")
        .key();
    Layer::cached(cache, "layer-packet-filter", &key, |tar| {
        let programs = ["xtables-nft-multi", "xtables-legacy-multi", "nft", "conntrack"];
        let mut wanted: BTreeSet<PathBuf> = ["bin", "sbin", "lib", "lib64"].map(PathBuf::from).into();
        // Programs and the extensions that they load: each has libraries of its own.
        let mut linked: Vec<PathBuf> = programs.iter().map(|name| Path::new("/usr/sbin").join(name)).collect();
        for (path, about) in files::needed(root, &[])? {
            let text = path.to_string_lossy();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let filter = ["iptables", "ip6tables", "xtables", "nft", "conntrack"];
            let program =
                path.parent() == Some(Path::new("usr/sbin")) && filter.iter().any(|start| name.starts_with(start));
            let choice = text.starts_with("etc/alternatives/ip");
            let extension = text.contains("/xtables/");
            if extension && about.is_file() && text.ends_with(".so") {
                linked.push(Path::new("/").join(&path));
            }
            if !about.is_dir() && (program || choice || extension) {
                wanted.insert(path);
            }
        }
        for library in files::libraries(&linked, Some(root))? {
            wanted.extend(resolved(root, &library)?);
        }
        tar.add_from(root, &wanted.into_iter().collect::<Vec<_>>())
    })
}

/// A library and the file that it is a link to, relative to the root, below `usr` as Debian merges it.
fn resolved(root: &Path, library: &Path) -> Result<Vec<PathBuf>> {
    let inside = library.strip_prefix("/").unwrap_or(library);
    let merged = if inside.starts_with("usr") {
        inside.to_path_buf()
    } else {
        Path::new("usr").join(inside)
    };
    let file = root.join(&merged);
    let mut found = vec![merged];
    if file.is_symlink() {
        let real = file
            .canonicalize()
            .with_context(|| format!("cannot follow {}", file.display()))?;
        found.push(real.strip_prefix(root.canonicalize()?).unwrap_or(&real).to_path_buf());
    }
    Ok(found)
}

/// The node without the images that it starts with.
fn node(paths: &Paths, cache: &Cache, root: &Path, inside: &Inside) -> Result<Image> {
    let key = Inputs::new()
        .text("root", rootfs::key(&rootfs::NODE).short())
        .text("rules", include_str!("files.rs"))
        .text("units", &NEEDLESS_UNITS.join(" "))
        .key();
    let system = Layer::cached(cache, "layer-node-system", &key, |tar| {
        let all = files::needed(root, NEEDLESS_UNITS)?;
        tar.add_from(root, &all.into_keys().collect::<Vec<_>>())
    })?;
    let programs = Layer::cached(cache, "layer-node-programs", &programs_key(paths)?, |tar| {
        PROGRAMS.iter().try_for_each(|(name, folder)| {
            tar.put(&tools::path(paths, cache, name)?, &format!("{folder}/{name}"), 0o755)
        })
    })?;
    let mut inputs = Inputs::new().text("version", "2");
    let mut contents = Vec::new();
    for (source, target, mode) in FILES {
        let file = paths.kind().join("node").join(source);
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let text = text
            .replace("@PAUSE@", &inside.pause)
            .replace("@PROVISIONER@", &inside.provisioner.tag)
            .replace("@HELPER@", &inside.helper.tag);
        inputs = inputs
            .text(target, &sha256(text.as_bytes()))
            .text("mode", &mode.to_string());
        contents.push((*target, text, *mode));
    }
    let version = tools::kubernetes_version(paths)?;
    let settings = Layer::cached(
        cache,
        "layer-node-settings",
        &inputs.text("kubernetes", &version).key(),
        |tar| {
            for (target, text, mode) in &contents {
                tar.write(target, text, *mode)?;
            }
            tar.write("kind/version", &format!("{version}\n"), 0o644)?;
            tar.write(
                "etc/systemd/journald.conf.d/node.conf",
                "[Journal]\nReadKMsg=no\nSystemMaxUse=64M\n",
                0o644,
            )?;
            for unit in ["containerd", "kubelet"] {
                let wants = format!("etc/systemd/system/multi-user.target.wants/{unit}.service");
                tar.link(&wants, &format!("/etc/systemd/system/{unit}.service"))?;
            }
            tar.link("usr/sbin/init", "/lib/systemd/systemd")?;
            for folder in [
                "proc",
                "sys",
                "dev",
                "run",
                "opt",
                "etc/kubernetes/manifests",
                "var/log",
                "var/cache",
                "mnt",
            ] {
                tar.folder(folder, 0o755)?;
            }
            tar.folder("root", 0o700)?;
            ["tmp", "var/tmp"]
                .iter()
                .try_for_each(|folder| tar.folder(folder, 0o1777))
        },
    )?;
    let image = Image::new(
        String::new(),
        vec![system, programs, settings],
        &["/usr/local/bin/entrypoint"],
    )
    .env("container", "docker")
    .with("StopSignal", "SIGRTMIN+3".into());
    Ok(named(image, "node-base", ""))
}

fn programs_key(paths: &Paths) -> Result<Key> {
    let mut inputs = Inputs::new();
    for (name, folder) in PROGRAMS {
        inputs = inputs.text(folder, tools::key(paths, tools::find(name)?)?.short());
    }
    Ok(inputs.key())
}
