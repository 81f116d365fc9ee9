//! Nothing comes into the platform past the catalogue. Tests of the single services hold what they have against it; this
//! reads the sources of all of them, as rustfmt leaves them, and finds the service without such a test, the event, label,
//! header or log field that no test has seen.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use meridian_kit::log;
use meridian_policy::catalogue::{Catalogue, FieldKind, class_of};

/// Labels that are text, and what bounds their values.
const TEXT_LABELS: &[(&str, &str, &str)] = &[
    ("kit", "route", "a template of the router"),
    ("kit", "group", "a consumer group of ours"),
    ("kit", "topic", "a topic of ours"),
    ("replicator", "edge", "an edge of the compiled policy"),
    ("replicator", "rule", "a rule of the policy, or what was missing"),
    ("operator", "member", "a member cluster, forgotten when it goes"),
    ("operator", "rule", "a rule of the policy"),
    (
        "operator",
        "region",
        "a region with an incident, forgotten when that goes",
    ),
];

/// Where headers are named.
const HEADERS: [&str; 2] = ["kit/src/headers.rs", "gateway/src/domain/headers.rs"];
/// Where Kafka records get theirs.
const RECORDS: &str = "kit/src/kafka/producer.rs";
/// Ways to name a header elsewhere.
const NAMING_A_HEADER: [&str; 8] = [
    "HeaderName::from_",
    "header::",
    ".header(\"",
    "_header(\"",
    "headers.get(\"",
    "headers.contains_key(\"",
    "headers().get(\"",
    "headers_mut().insert(\"",
];

/// A part of the platform with a file in the catalogue.
struct Part {
    name: String,
    dir: PathBuf,
    /// What runs: path from `services/` or the project, and text without its tests.
    sources: Vec<(String, String)>,
    /// All of its text.
    whole: String,
}

impl Part {
    fn read(dir: &Path) -> Self {
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let mut part = Self {
            sources: Vec::new(),
            whole: String::new(),
            dir: dir.to_owned(),
            name,
        };
        for folder in ["src", "tests"] {
            part.read_folder(&dir.join(folder));
        }
        part
    }

    fn read_folder(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.read_folder(&path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                self.whole.push_str(&text);
                let shown = path.strip_prefix(self.dir.parent().unwrap()).unwrap();
                let shown = shown.to_str().unwrap().to_owned();
                let of_tests = ["/tests/", "/testing/", "/tests.rs"];
                if !of_tests.iter().any(|tests| shown.contains(tests)) {
                    self.sources.push((shown, without_tests(&text).to_owned()));
                }
            }
        }
    }

    fn has(&self, text: &str) -> bool {
        self.sources.iter().any(|(_, source)| source.contains(text))
    }
}

/// A file up to its tests, which are its last module.
fn without_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default()
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("services/kit lies two levels down")
        .to_owned()
}

/// Every service, the kit, the operator and the binary.
fn platform() -> Vec<Part> {
    let folders = fs::read_dir(project().join("services")).unwrap();
    let mut dirs: Vec<PathBuf> = folders
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("Cargo.toml").exists())
        .collect();
    dirs.push(project().join("operator"));
    dirs.sort();
    dirs.iter().map(|dir| Part::read(dir)).collect()
}

#[test]
fn catalogue_files() {
    let mut files: Vec<String> = fs::read_dir(project().join("policies/catalogue"))
        .unwrap()
        .filter_map(|entry| Some(entry.unwrap().file_name().to_str()?.strip_suffix(".yaml")?.to_owned()))
        .collect();
    files.sort();
    // The binary has nothing of its own.
    let parts = platform()
        .into_iter()
        .map(|part| part.name)
        .filter(|name| name != "meridian");
    let mut parts: Vec<String> = parts.collect();
    parts.sort();
    assert_eq!(
        files, parts,
        "each part of the platform has a file in policies/catalogue/"
    );
}

#[test]
fn catalogue_tests_are_there() {
    for part in platform() {
        let name = &part.name;
        let tells = part.has("Event::sealed") || Catalogue::embedded().told_by(name).next().is_some();
        let needed = [
            ("columns", part.dir.join("migrations").is_dir()),
            ("event_fields", tells && name != "kit"),
            ("metric_labels", part.has("EncodeLabelSet")),
        ];
        for (test, needed) in needed {
            let there = part.whole.contains(&format!("fn catalogue_{test}()"));
            assert!(
                there || !needed,
                "{name} needs a test catalogue_{test}; see services/kit/src/testing/catalogue.rs"
            );
        }
    }
}

#[test]
fn catalogue_event_types() {
    for part in platform() {
        for (path, source) in &part.sources {
            let types = source.split("\"sh.meridian.").skip(1);
            for rest in types.filter_map(|rest| rest.split('"').next()) {
                let event = format!("sh.meridian.{rest}");
                let teller = Catalogue::embedded().teller(&event);
                assert!(
                    teller.is_some(),
                    "{path}: no service lists the event {event} in policies/catalogue/"
                );
            }
        }
    }
}

#[test]
fn catalogue_headers_are_named_in_one_place() {
    for part in platform() {
        for (path, source) in part
            .sources
            .iter()
            .filter(|(path, _)| !HEADERS.contains(&path.as_str()))
        {
            let on_records = source.contains("message::Header") || source.contains("OwnedHeaders");
            assert!(
                !on_records || path == RECORDS,
                "{path} puts headers on records: {RECORDS} does that"
            );
            for naming in NAMING_A_HEADER {
                assert!(
                    !source.contains(naming),
                    "{path} names a header by '{naming}': name it in services/kit/src/headers.rs and take it from there"
                );
            }
        }
    }
}

/// The fields of the types that derive `EncodeLabelSet`, each with its type.
fn label_fields(source: &str) -> Vec<(&str, &str)> {
    let derived = source.split("#[derive(").skip(1);
    let sets = derived.filter(|rest| {
        rest.split(")]")
            .next()
            .is_some_and(|list| list.contains("EncodeLabelSet"))
    });
    sets.flat_map(|rest| {
        let body = rest.split_once("struct ").expect("labels are a struct").1;
        let body = body.split_once("{\n").expect("with named fields").1;
        body.split("\n}").next().unwrap_or_default().lines()
    })
    .map(str::trim)
    .filter(|line| !line.starts_with("//") && !line.is_empty())
    .map(|line| {
        let (name, kind) = line.split_once(": ").expect("a field on one line");
        (name.rsplit(' ').next().unwrap_or(name), kind.trim_end_matches(','))
    })
    .collect()
}

#[test]
fn catalogue_labels_are_bounded() {
    let mut seen = 0;
    for part in platform() {
        let name = part.name.as_str();
        for (path, source) in &part.sources {
            for by_hand in ["impl EncodeLabelSet", "Family<Vec<", "Family<["] {
                assert!(
                    !source.contains(by_hand),
                    "{path}: labels are a struct that derives EncodeLabelSet"
                );
            }
            for (label, kind) in label_fields(source) {
                seen += 1;
                let owners = [name, "kit"];
                let listed = owners
                    .iter()
                    .any(|owner| class_of(FieldKind::MetricLabel, owner, label).is_some());
                assert!(
                    listed,
                    "{path}: the label {label} is not in policies/catalogue/{name}.yaml"
                );
                let bounded = match kind {
                    "&'static str" | "bool" | "u16" | "i32" => true,
                    "String" => TEXT_LABELS
                        .iter()
                        .any(|(part, text, _)| (*part, *text) == (name, label)),
                    of_ours => part.has("EncodeLabelValue") && part.has(&format!("enum {of_ours} {{")),
                };
                assert!(
                    bounded,
                    "{path}: what bounds the values of the label {label}? Make it an enum"
                );
            }
        }
    }
    assert!(
        seen > 10,
        "the labels of kit, consent, replicator, telemetry and operator are found"
    );
}

/// The arguments of a macro whose opening parenthesis was taken off.
fn arguments(text: &str) -> Vec<&str> {
    let (mut depth, mut quoted, mut escaped, mut begin) = (0_u32, false, false, 0);
    let mut found = Vec::new();
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth > 0 => depth -= 1,
            ',' if depth == 0 => {
                found.push(text[begin..at].trim());
                begin = at + 1;
            }
            ')' => {
                found.push(text[begin..at].trim());
                break;
            }
            _ => {}
        }
    }
    found
}

/// The fields that a source logs or puts on spans.
fn logged_fields(source: &str) -> BTreeSet<&str> {
    let mut fields = BTreeSet::new();
    for called in source.split("tracing::").skip(1) {
        let Some((name, rest)) = called.split_once("!(") else {
            continue;
        };
        if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
            continue;
        }
        for argument in arguments(rest) {
            if argument.starts_with('"') {
                // The sentence of an event is its last; the name of a span comes first.
                if name.ends_with("_span") {
                    continue;
                }
                break;
            }
            let bare = argument.trim_start_matches(['%', '?']);
            let end = bare.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'));
            fields.insert(bare.split_at(end.unwrap_or(bare.len())).0);
        }
    }
    fields.remove("");
    fields
}

#[test]
fn catalogue_what_is_logged_is_allowed() {
    let allowed: BTreeSet<&str> = log::ALLOWED.iter().chain(log::OF_SPANS).copied().collect();
    let mut logged = BTreeSet::new();
    let platform = platform();
    for (path, source) in platform.iter().flat_map(|part| &part.sources) {
        let fields = logged_fields(source);
        for field in &fields {
            assert!(
                allowed.contains(field),
                "{path} logs the field {field}, which is not on the allow-list and would be dropped"
            );
        }
        logged.extend(fields);
    }
    let unused: Vec<&&str> = allowed.difference(&logged).collect();
    assert!(
        unused.is_empty(),
        "nobody logs {unused:?}: take them off the allow-list and out of the catalogue"
    );
}

#[test]
fn what_is_logged_is_read_off_the_source() {
    let source = r#"
        tracing::warn!(tenant = %scope.tenant(), error = %Chain(error, "x, y"), count, "a sentence, with {count}");
        let span = tracing::info_span!("request", otel.kind = "server", route);
        tracing::info!(%error, delay_ms = millis(delay, 1), "again"); tracing::info!("nothing");
    "#;
    let fields: Vec<&str> = logged_fields(source).into_iter().collect();
    assert_eq!(fields, ["count", "delay_ms", "error", "otel.kind", "route", "tenant"]);
}

#[test]
fn labels_are_read_off_the_source() {
    let source = "#[derive(Clone, EncodeLabelSet)]\npub struct Labels {\n    /// Why.\n    pub reason: Reason,\n    edge: String,\n}\n\
                  #[derive(Clone)]\nstruct Other {\n    x: u8,\n}\n";
    assert_eq!(label_fields(source), [("reason", "Reason"), ("edge", "String")]);
}
