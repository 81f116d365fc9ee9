//! A broker of a region as the operator lays it down: its own properties, its own certificates, the image's own entry
//! script. Only addresses and folders are those of this machine.
#![allow(dead_code, reason = "each test uses its part")]

use jiff::Timestamp;
use meridian_kit::kafka::{Access, Acl, Broker as Address, Kafka};
use meridian_kit::testing::{free_address, pause, required};
use meridian_kit::tls::Tls;
use meridian_operator::region::kafka::correct;
use meridian_operator::region::stack::plan::{access, components, kafka};
use meridian_operator::region::stack::secrets::{Authority, Wanted};
use meridian_operator::region::stack::validate::{self, Images, Stack};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The longest that a test waits for something that should happen.
const PATIENCE: Duration = Duration::from_secs(120);

/// How the broker is called here.
const HOST: &str = "localhost";

/// A stack of region eu; in clear for services of a release before, or not.
pub fn stack(in_clear: bool) -> Stack {
    let policy = json!({
        "region": "eu", "jurisdiction": "eu", "revision": 1,
        "public_url": "https://eu.meridian.localhost:8443", "issuer": "https://eu.meridian.localhost:8443",
        "countries_served": ["DE"], "homes": [], "directory": [], "peers": [], "exports": [], "imports": [], "retention": {},
    });
    let object = json!({"metadata": {"name": "eu", "uid": "u"}, "spec": {
        "region": "eu", "revision": 1, "publicHost": "eu.meridian.localhost",
        "publicUrl": "https://eu.meridian.localhost:8443", "policy": policy,
    }});
    let images = Images {
        meridian: "meridian:1".to_owned(),
        postgres: "postgres:17".to_owned(),
        kafka: "kafka:4.1".to_owned(),
    };
    let request = validate::validate(&object, &images).unwrap();
    let policy = validate::policy(&object["spec"]).unwrap();
    Stack {
        kafka_in_clear: in_clear,
        ..request.with(policy, None)
    }
}

pub fn authority() -> Authority {
    Authority::new(&"eu".parse().unwrap(), Timestamp::now()).unwrap()
}

/// A region's broker and everything that belongs to it; it ends with the test, also with one that is killed.
pub struct Region {
    pub authority: Authority,
    dir: tempfile::TempDir,
    port: u16,
    controller: u16,
    clear: u16,
    process: Option<Child>,
}

impl Region {
    /// A region with certificates and no broker yet.
    pub fn new() -> Self {
        meridian_kit::tls::install_crypto_provider();
        let authority = authority();
        let mut ports = BTreeSet::new();
        while ports.len() < 3 {
            ports.insert(free_address().port());
        }
        let [port, controller, clear] = ports.into_iter().collect::<Vec<_>>().try_into().unwrap();
        let region = Self {
            dir: tempfile::tempdir().unwrap(),
            port,
            controller,
            clear,
            process: None,
            authority,
        };
        region.issue(region.authority.certificate());
        region
    }

    /// Has the region's CA issue every certificate; each holder trusts `bundle`.
    pub fn issue(&self, bundle: &str) {
        for mut wanted in components::certificates(&stack(false)) {
            if wanted.secret == "tls-kafka" {
                wanted.dns.push(HOST.to_owned());
            }
            self.issue_one(&self.authority, &wanted, bundle, &wanted.secret);
        }
    }

    /// Puts a certificate into a folder of its own.
    pub fn issue_one(&self, authority: &Authority, wanted: &Wanted, bundle: &str, folder: &str) {
        let dir = self.dir.path().join(folder);
        fs::create_dir_all(&dir).unwrap();
        for (file, content) in authority.issue(wanted, bundle, Timestamp::now()).unwrap() {
            fs::write(dir.join(file), content).unwrap();
        }
    }

    /// Has every holder trust another bundle, and keep its certificate.
    pub fn trust(&self, bundle: &str) {
        for wanted in components::certificates(&stack(false)) {
            fs::write(self.dir.path().join(&wanted.secret).join("ca.crt"), bundle).unwrap();
        }
    }

    /// Starts the broker with the operator's properties.
    pub fn start(&mut self, stack: &Stack) {
        let config = kafka::config(stack);
        self.start_with(config["data"]["server.properties"].as_str().unwrap());
    }

    /// Starts the broker with these properties, put to this machine's addresses and folders.
    pub fn start_with(&mut self, properties: &str) {
        self.stop();
        let file = self.written("server.properties", properties);
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/kind/kafka/entrypoint");
        // Whoever starts it holds its standard input: when that closes, also because the test died, the broker is killed.
        let watched = "sh \"$0\" & broker=$!; cat; kill -9 $broker; wait $broker";
        let child = Command::new("sh")
            .args(["-c", watched])
            .arg(script)
            .env("KAFKA_CONFIG", &file)
            .env("KAFKA_LIBS", required("MERIDIAN_TEST_KAFKA_JARS"))
            .env("KAFKA_CLUSTER_ID", "bWVyaWRpYW4tdGVzdHMtMQ")
            .env("KAFKA_HEAP_OPTS", "-Xms64m -Xmx320m")
            .env("KAFKA_OPTS", required("MERIDIAN_TEST_KAFKA_CLASSES"))
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(child);
    }

    /// Properties, put to this machine's addresses and folders, as a file.
    fn written(&self, name: &str, properties: &str) -> PathBuf {
        let here = |folder: &str| self.dir.path().join(folder).display().to_string();
        let properties = properties
            .replace("kafka.meridian-eu.svc:", &format!("{HOST}:"))
            .replace(":9094", &format!(":{}", self.port))
            .replace(":9093", &format!(":{}", self.controller))
            .replace(":9092", &format!(":{}", self.clear))
            .replace("/var/run/meridian/tls", &here("tls-kafka"))
            .replace("/var/lib/kafka/data", &here("data"));
        let file = self.dir.path().join(name);
        fs::write(&file, properties).unwrap();
        file
    }

    /// Runs one of Kafka's own tools with what the operator lays down for them beside the broker.
    pub fn tool(&self, class: &str, option: &str, arguments: &[&str], input: &str) -> String {
        let config = kafka::config(&stack(false));
        let file = self.written("tools.properties", config["data"]["tools.properties"].as_str().unwrap());
        let mut child = Command::new("java")
            .args(required("MERIDIAN_TEST_KAFKA_CLASSES").split_whitespace())
            .args(["-Xmx64m", "-XX:TieredStopAtLevel=1", "-cp"])
            .arg(format!("{}/*", required("MERIDIAN_TEST_KAFKA_JARS")))
            .args([class, "--bootstrap-server", &format!("localhost:{}", self.port), option])
            .arg(file)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{class}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Kills the broker, as a node that goes down does.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.process.take() {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }

    /// Waits until the broker takes the operator.
    pub async fn up(&self) {
        let (tls, address, began) = (self.tls("tls-region-operator"), self.address(), Instant::now());
        let ask = || async { Access::connect(&tls, &address).await?.list().await };
        while let Err(error) = ask().await {
            assert!(began.elapsed() < PATIENCE, "{error}\n{}", self.told());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until who may do what is as planned.
    pub async fn ready(&self) {
        self.up().await;
        let tls = self.tls("tls-region-operator");
        correct(&tls, &self.address()).await.unwrap();
        self.until_listed(&access::acls()).await;
    }

    /// Waits until the broker goes by exactly these lists: it takes them over from its controller.
    pub async fn until_listed(&self, acls: &BTreeSet<Acl>) {
        let (tls, began) = (self.tls("tls-region-operator"), Instant::now());
        let mut lists = Access::connect(&tls, &self.address()).await.unwrap();
        loop {
            let listed = lists.list().await.unwrap();
            if listed == *acls {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{listed:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn address(&self) -> Address {
        Address {
            host: HOST.to_owned(),
            port: self.port,
        }
    }

    /// The same broker, by what its certificate does not name.
    pub fn unnamed_address(&self) -> Address {
        Address {
            host: "127.0.0.1".to_owned(),
            ..self.address()
        }
    }

    /// A folder of certificates.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where services of a release before find it.
    pub fn in_clear(&self) -> String {
        format!("127.0.0.1:{}", self.clear)
    }

    /// What is in a folder of certificates.
    pub fn tls(&self, folder: &str) -> Tls {
        Tls::load(&self.folder(folder), "eu".parse().unwrap()).unwrap()
    }

    /// A component's clients.
    pub fn kafka(&self, component: &'static str) -> Kafka {
        let tls = self.tls(&format!("tls-{component}"));
        Kafka::mutual(&tls, &[self.address()], "", component)
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("kafka.log")
    }

    /// Waits until the brokers of this region have logged this so many times.
    pub async fn until_logged(&self, said: &str, times: usize) {
        let (log, began) = (self.log(), Instant::now());
        while fs::read_to_string(&log).unwrap_or_default().matches(said).count() < times {
            assert!(began.elapsed() < PATIENCE, "{}", self.told());
            pause(began).await;
        }
    }

    /// The end of what the broker has logged.
    pub fn told(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        log.lines()
            .rev()
            .take(40)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
            .join("\n")
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.stop();
    }
}
