//! A control plane without nodes: etcd, kube-apiserver and kube-controller-manager as processes. Controllers, admission
//! and RBAC work; pods stay pending.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::process::{Process, Stop, until};
use super::{free_port, random_word, write_private};
use crate::cache::Cache;
use crate::host;
use crate::paths::Paths;
use crate::progress::{Log, succeeds};
use crate::tools;

/// The EncryptionConfiguration, in docs/ and as it is used.
const ENCRYPTION: &str = "etcd-encryption.yaml";
/// What stands there for the key.
const KEY: &str = "BASE64-OF-32-RANDOM-BYTES";

/// Collects garbage a quarter as often as it would: half a dozen of them share a small machine, whose memory is ample.
const GARBAGE: (&str, &str) = ("GOGC", "400");

/// Controllers that have nothing to do without nodes, and would tell of it every few seconds.
const WITHOUT_NODES: [&str; 4] = [
    "persistentvolume-binder-controller",
    "persistentvolume-attach-detach-controller",
    "persistentvolume-expander-controller",
    "node-lifecycle-controller",
];

/// A control plane to prepare.
pub struct Wanted {
    /// Its name: of its keys in etcd, its files and its log.
    pub name: String,
    /// The variable that holds its kubeconfig.
    pub variable: &'static str,
    /// Whether kube-controller-manager works there. Without it, objects stay as they were written.
    pub controllers: bool,
}

/// The prepared processes: one etcd, and the control planes that share it.
pub struct ControlPlane {
    etcd: PathBuf,
    apiserver: PathBuf,
    controllers: PathBuf,
    kubectl: PathBuf,
    dir: PathBuf,
    etcd_port: u16,
    planes: Vec<Plane>,
    log: Log,
}

struct Plane {
    name: String,
    variable: &'static str,
    port: u16,
    controllers_port: Option<u16>,
    kubeconfig: PathBuf,
    log: Log,
}

impl ControlPlane {
    /// Builds what is missing, and makes certificates, tokens and kubeconfigs.
    ///
    /// # Errors
    /// When a tool cannot be built or a certificate cannot be made.
    pub fn prepare(paths: &Paths, cache: &Cache, dir: &Path, wanted: Vec<Wanted>) -> Result<Self> {
        host::ensure_packages(paths, &[("openssl", "openssl")])?;
        let tool = |name| tools::path(paths, cache, name);
        let log = Log::fresh(paths, "part-etcd")?;
        certificates(dir, &log)?;
        encryption(paths, dir)?;
        let mut planes = Vec::new();
        for Wanted {
            name,
            variable,
            controllers,
        } in wanted
        {
            let (port, token) = (free_port()?, random_word()?);
            write_private(
                &dir.join(format!("{name}.tokens")),
                &format!("{token},admin,admin,\"system:masters\"\n"),
            )?;
            let kubeconfig = dir.join(format!("{name}.kubeconfig"));
            write_private(&kubeconfig, &kubeconfig_text(&name, port, &token, &dir.join("ca.crt"))?)?;
            let log = Log::fresh(paths, &format!("part-apiserver-{name}"))?;
            planes.push(Plane {
                name,
                variable,
                port,
                controllers_port: controllers.then(free_port).transpose()?,
                kubeconfig,
                log,
            });
        }
        Ok(Self {
            etcd: tool("etcd")?,
            apiserver: tool("kube-apiserver")?,
            controllers: tool("kube-controller-manager")?,
            kubectl: tool("kubectl")?,
            dir: dir.to_path_buf(),
            etcd_port: free_port()?,
            planes,
            log,
        })
    }

    /// Starts etcd and the API servers.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start(&self) -> Result<Vec<Process>> {
        let peer = format!("http://127.0.0.1:{}", free_port()?);
        let client = self.etcd_address();
        let mut etcd = Command::new(&self.etcd);
        etcd.arg(format!("--data-dir={}", self.dir.join("etcd").display()))
            .args([
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
            ])
            .args([
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
            ])
            .arg(format!("--initial-cluster=default={peer}"))
            .args(["--unsafe-no-fsync", "--log-level=warn"])
            .env(GARBAGE.0, GARBAGE.1)
            // The default of 2 GiB is soon full of old versions when a benchmark changes large objects.
            .arg("--quota-backend-bytes=8589934592");
        let mut processes = vec![Process::start("etcd", &etcd, Stop::Terminate, &self.log)?];
        for plane in &self.planes {
            processes.push(Process::start(
                "kube-apiserver",
                &self.apiserver(plane),
                Stop::Terminate,
                &plane.log,
            )?);
        }
        Ok(processes)
    }

    /// Waits until each API server is ready, then starts its controllers and waits until they work: a controller manager
    /// that does not find its API server soon gives up. What is started goes before the others, which it depends on.
    ///
    /// # Errors
    /// When a process cannot be started, ends, or is not ready in time.
    pub fn wait(&self, processes: &mut Vec<Process>) -> Result<()> {
        for plane in &self.planes {
            let kubectl = |arguments: &[&str]| {
                let mut command = Command::new(&self.kubectl);
                command
                    .arg("--kubeconfig")
                    .arg(&plane.kubeconfig)
                    .arg("--request-timeout=5s")
                    .args(arguments);
                succeeds(&mut command)
            };
            let limit = Duration::from_secs(180);
            until("kube-apiserver is ready", limit, processes, || {
                kubectl(&["get", "--raw", "/readyz"])
            })?;
            let Some(port) = plane.controllers_port else {
                continue;
            };
            let controllers = self.controller_manager(plane, port);
            let name = "kube-controller-manager";
            processes.insert(0, Process::start(name, &controllers, Stop::Terminate, &plane.log)?);
            // The controllers have begun when the default namespace has its service account.
            until("the controllers work", limit, processes, || {
                kubectl(&["--namespace=default", "get", "serviceaccount", "default"])
            })?;
        }
        Ok(())
    }

    /// The kubeconfigs, by variable; and etcd's address, with the prefix of the first API server's keys as its path.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        let kubeconfig = |plane: &Plane| (plane.variable, plane.kubeconfig.display().to_string());
        let etcd = self
            .planes
            .first()
            .map(|plane| ("MERIDIAN_TEST_ETCD", format!("{}/{}", self.etcd_address(), plane.name)));
        self.planes.iter().map(kubeconfig).chain(etcd).collect()
    }

    fn etcd_address(&self) -> String {
        format!("http://127.0.0.1:{}", self.etcd_port)
    }

    fn apiserver(&self, plane: &Plane) -> Command {
        let file = |name: &str| self.dir.join(name).display().to_string();
        let mut command = Command::new(&self.apiserver);
        command
            .env(GARBAGE.0, GARBAGE.1)
            .args([
                format!("--etcd-servers={}", self.etcd_address()),
                format!("--etcd-prefix=/{}", plane.name),
            ])
            .args([
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                "--endpoint-reconciler-type=none",
            ])
            .arg(format!("--secure-port={}", plane.port))
            .args([
                format!("--tls-cert-file={}", file("server.crt")),
                format!("--tls-private-key-file={}", file("server.key")),
            ])
            .arg(format!("--cert-dir={}", self.dir.display()))
            .args([
                format!("--service-account-key-file={}", file("accounts.pub")),
                format!("--service-account-signing-key-file={}", file("accounts.key")),
            ])
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            // How it shows itself to servers of aggregated APIs, as kubeadm has it.
            .args([
                format!("--requestheader-client-ca-file={}", file("front-proxy-ca.crt")),
                format!("--proxy-client-cert-file={}", file("front-proxy-client.crt")),
                format!("--proxy-client-key-file={}", file("front-proxy-client.key")),
            ])
            .args([
                "--requestheader-allowed-names=front-proxy-client",
                "--requestheader-username-headers=X-Remote-User",
                "--requestheader-group-headers=X-Remote-Group",
                "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            ])
            .arg(format!("--token-auth-file={}", file(&format!("{}.tokens", plane.name))))
            .arg(format!("--encryption-provider-config={}", file(ENCRYPTION)))
            .args(["--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16"])
            .args(["--watch-cache=true", "--profiling=false", "--allow-privileged=true"]);
        command
    }

    fn controller_manager(&self, plane: &Plane, port: u16) -> Command {
        let file = |name: &str| self.dir.join(name).display().to_string();
        let mut command = Command::new(&self.controllers);
        command
            .arg(format!("--kubeconfig={}", plane.kubeconfig.display()))
            .arg(format!("--service-account-private-key-file={}", file("accounts.key")))
            .arg(format!("--root-ca-file={}", file("ca.crt")))
            .arg(format!("--cert-dir={}", file(&format!("{}-controllers", plane.name))))
            .args([
                "--use-service-account-credentials=true",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
            ])
            .arg(format!(
                "--controllers=*,{}",
                WITHOUT_NODES.map(|name| format!("-{name}")).join(",")
            ))
            .arg(format!("--secure-port={port}"));
        command
    }
}

/// What the API servers encrypt, as docs/etcd-encryption.md has it, with a key of this run's own.
fn encryption(paths: &Paths, dir: &Path) -> Result<()> {
    let path = paths.project.join("docs").join(ENCRYPTION);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    // 32 bytes.
    let key = BASE64.encode(random_word()?);
    if !text.contains(KEY) {
        bail!("{} has no {KEY}", path.display());
    }
    write_private(&dir.join(ENCRYPTION), &text.replace(KEY, &key))
}

/// A CA, a serving certificate of it, the CA and certificate by which aggregated APIs know the API server, and the key that signs service accounts' tokens.
fn certificates(dir: &Path, log: &Log) -> Result<()> {
    let openssl = |arguments: &[&str]| log.run(Command::new("openssl").current_dir(dir).args(arguments));
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ];
    let request = |more: &[&str]| openssl(&[&["req", "-x509"], &key[..], more].concat());
    request(&["-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test-ca"])
        .and_then(|()| {
            let names = "subjectAltName=IP:127.0.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes.default.svc";
            let leaf = ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", names];
            let signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-subj", "/CN=kube-apiserver"];
            request(&[&["-keyout", "server.key", "-out", "server.crt"], &leaf[..], &signed[..]].concat())
        })
        .and_then(|()| {
            let (key, certificate) = ("front-proxy-ca.key", "front-proxy-ca.crt");
            request(&["-keyout", key, "-out", certificate, "-subj", "/CN=front-proxy-ca"])?;
            let (own, shown) = ("front-proxy-client.key", "front-proxy-client.crt");
            let signed = ["-CA", certificate, "-CAkey", key, "-subj", "/CN=front-proxy-client"];
            let leaf = ["-addext", "basicConstraints=critical,CA:FALSE"];
            request(&[&["-keyout", own, "-out", shown], &leaf[..], &signed[..]].concat())
        })
        .and_then(|()| {
            openssl(&[
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-out",
                "accounts.key",
            ])
        })
        .and_then(|()| openssl(&["pkey", "-in", "accounts.key", "-pubout", "-out", "accounts.pub"]))
        .context("the API server's certificates cannot be made")
}

fn kubeconfig_text(name: &str, port: u16, token: &str, ca: &Path) -> Result<String> {
    let ca = BASE64.encode(fs::read(ca).with_context(|| format!("cannot read {}", ca.display()))?);
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {
            "server": format!("https://127.0.0.1:{port}"),
            "certificate-authority-data": ca,
        }}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "admin"}}],
    });
    // JSON is YAML.
    Ok(config.to_string())
}
