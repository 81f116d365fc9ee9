//! The programs of a Kubernetes cluster, built from Go modules whose versions and checksums are committed in
//! `tests/kind/go`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, Inputs, Key};
use crate::host;
use crate::paths::Paths;
use crate::progress::{self, Log};

/// A program built from a Go module.
#[derive(Debug)]
pub struct Tool {
    /// Its name, which is also that of the file.
    pub name: &'static str,
    /// The folder in `tests/kind/go` whose go.mod pins it.
    module: &'static str,
    package: &'static str,
    tags: &'static str,
    /// The linker variable that takes the version of the module that the package lies in.
    version_in: Option<&'static str>,
}

const fn tool(name: &'static str, module: &'static str, package: &'static str) -> Tool {
    Tool {
        name,
        module,
        package,
        tags: "",
        version_in: None,
    }
}

const fn kubernetes(name: &'static str, package: &'static str) -> Tool {
    Tool {
        name,
        module: "kubernetes",
        package,
        tags: "",
        version_in: Some("k8s.io/component-base/version.gitVersion"),
    }
}

const fn containerd(name: &'static str, package: &'static str) -> Tool {
    Tool {
        name,
        module: "containerd",
        package,
        tags: "no_btrfs,no_devmapper,no_zfs,no_aufs",
        version_in: Some("github.com/containerd/containerd/v2/version.Version"),
    }
}

/// Compilers and linkers collect their garbage a quarter as often as they would, as long as each has less than this: it is a
/// fifth of a build.
const GARBAGE: [(&str, &str); 2] = [("GOGC", "400"), ("GOMEMLIMIT", "2GiB")];

/// Every tool, those first that others wait for.
pub const TOOLS: &[Tool] = &[
    tool("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
    kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    kubernetes(
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
    ),
    kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    kubernetes("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    kubernetes("kubeadm", "k8s.io/kubernetes/cmd/kubeadm"),
    kubernetes("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    tool("kind", "kind", "sigs.k8s.io/kind"),
    tool(
        "bridge",
        "cni",
        "github.com/containernetworking/plugins/plugins/main/bridge",
    ),
    tool(
        "host-local",
        "cni",
        "github.com/containernetworking/plugins/plugins/ipam/host-local",
    ),
    tool(
        "loopback",
        "cni",
        "github.com/containernetworking/plugins/plugins/main/loopback",
    ),
    tool(
        "portmap",
        "cni",
        "github.com/containernetworking/plugins/plugins/meta/portmap",
    ),
    tool("ptp", "cni", "github.com/containernetworking/plugins/plugins/main/ptp"),
    containerd("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
    containerd(
        "containerd-shim-runc-v2",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
    ),
    containerd("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
    tool("coredns", "coredns", "github.com/coredns/coredns"),
    tool("helm", "helm", "helm.sh/helm/v4/cmd/helm"),
    tool(
        "local-path-provisioner",
        "local-path-provisioner",
        "github.com/rancher/local-path-provisioner",
    ),
];

/// The tools that work from outside the clusters; the rest goes into the node image.
pub const CLIENTS: &[&str] = &["kubectl", "kind", "helm"];

/// Finds a tool by its name.
///
/// # Errors
/// One sentence with the names there are.
pub fn find(name: &str) -> Result<&'static Tool> {
    TOOLS.iter().find(|tool| tool.name == name).with_context(|| {
        let names: Vec<&str> = TOOLS.iter().map(|tool| tool.name).collect();
        format!("no tool is called `{name}`; there are: {}", names.join(", "))
    })
}

/// The built program; built now when the cache has none of these inputs.
///
/// # Errors
/// When Go is missing or too old, the module cannot be downloaded, or it does not build.
pub fn path(paths: &Paths, cache: &Cache, name: &str) -> Result<PathBuf> {
    let tool = find(name)?;
    let folder = cache.entry(tool.name, &key(paths, tool)?, |dir| {
        if host::program("go").is_none() {
            bail!("`go` is missing: {name} is built from its Go module; install Go 1.26 or newer");
        }
        // One build at a time: each one already uses every core.
        let _turn = cache.lock("go-build")?;
        let log = Log::fresh(paths, &format!("go-{name}"))?;
        progress::step(&format!("building {name}"), Some(log.shown()), || {
            log.run(
                Command::new("go")
                    .current_dir(paths.kind().join("go").join(tool.module))
                    .args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly"])
                    .arg(format!("-tags={}", tool.tags))
                    .arg(format!("-ldflags={}", linker_flags(paths, tool)?))
                    .arg("-o")
                    .arg(dir.join(name))
                    .arg(tool.package)
                    .env("CGO_ENABLED", "0")
                    .env("GOWORK", "off")
                    .envs(GARBAGE),
            )
        })
    })?;
    Ok(folder.join(name))
}

/// The built program, when the cache has it.
///
/// # Errors
/// When its go.mod or go.sum cannot be read.
pub fn built(paths: &Paths, cache: &Cache, name: &str) -> Result<Option<PathBuf>> {
    let tool = find(name)?;
    let key = key(paths, tool)?;
    Ok(cache
        .is_whole(tool.name, &key)
        .then(|| cache.path(tool.name, &key).join(name)))
}

/// The hash of what a tool is built from.
///
/// # Errors
/// When its go.mod or go.sum cannot be read.
pub fn key(paths: &Paths, tool: &Tool) -> Result<Key> {
    let module = paths.kind().join("go").join(tool.module);
    Ok(Inputs::new()
        .file(&module.join("go.mod"))?
        .file(&module.join("go.sum"))?
        .text("package", tool.package)
        .text("tags", tool.tags)
        .text("flags", &linker_flags(paths, tool)?)
        .key())
}

/// The version of Kubernetes that go.mod pins, such as `v1.36.3`.
///
/// # Errors
/// When go.mod cannot be read or names none.
pub fn kubernetes_version(paths: &Paths) -> Result<String> {
    version(paths, find("kubeadm")?)
}

fn linker_flags(paths: &Paths, tool: &Tool) -> Result<String> {
    let Some(variable) = tool.version_in else {
        return Ok("-s -w".to_owned());
    };
    let version = version(paths, tool)?;
    let mut flags = format!("-s -w -X {variable}={version}");
    if tool.module == "kubernetes" {
        // kubeadm and the version endpoint read these two beside the full version.
        let mut numbers = version.trim_start_matches('v').split('.');
        for name in ["gitMajor", "gitMinor"] {
            let number = numbers.next().unwrap_or_default();
            flags.push_str(&format!(" -X k8s.io/component-base/version.{name}={number}"));
        }
    }
    Ok(flags)
}

/// The version of the required module that is the longest prefix of the tool's package.
fn version(paths: &Paths, tool: &Tool) -> Result<String> {
    pinned_in(paths, tool.module, tool.package)
}

/// The version of the module of `package` that `tests/kind/go/FOLDER/go.mod` requires.
///
/// # Errors
/// When it cannot be read, or requires none.
pub fn pinned_in(paths: &Paths, folder: &str, package: &str) -> Result<String> {
    let file = paths.kind().join("go").join(folder).join("go.mod");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    pinned(&text, package).with_context(|| format!("{} requires no module of {package}", file.display()))
}

fn pinned(go_mod: &str, package: &str) -> Option<String> {
    go_mod
        .lines()
        .filter_map(|line| {
            let mut words = line.trim().trim_start_matches("require ").split_whitespace();
            Some((words.next()?, words.next()?))
        })
        .filter(|(module, version)| {
            let below = package
                .strip_prefix(module)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            below && version.starts_with('v')
        })
        .max_by_key(|(module, _)| module.len())
        .map(|(_, version)| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_that_of_the_module_which_the_package_lies_in() {
        let go_mod = "require k8s.io/kubernetes v1.36.3\nrequire (\n\tk8s.io/kube v0.1.0 // indirect\n)\n";
        assert_eq!(
            pinned(go_mod, "k8s.io/kubernetes/cmd/kubelet").as_deref(),
            Some("v1.36.3")
        );
        assert_eq!(pinned(go_mod, "sigs.k8s.io/kind"), None);
    }

    #[test]
    fn an_unknown_tool_is_answered_with_the_names_there_are() {
        let said = find("kubect").unwrap_err().to_string();
        assert!(said.contains("`kubect`") && said.contains("kubectl"), "{said}");
    }
}
