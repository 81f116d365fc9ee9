//! What is asked of an API server, read off a request.

use axum::http::request::Parts;
use serde_json::Value;

use super::store::Key;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Version,
    List,
    /// From this version on.
    Watch(u64),
    Get,
    Create,
    Replace,
    Apply,
    Merge,
    Strategic,
    Delete,
}

impl Verb {
    pub fn writes(self) -> bool {
        !matches!(self, Self::Version | Self::List | Self::Watch(_) | Self::Get)
    }
}

/// A request. In a list or watch, an empty namespace or name stands for all.
#[derive(Clone, Debug)]
pub struct Ask {
    pub verb: Verb,
    pub key: Key,
    pub status: bool,
    pub manager: String,
    pub body: Value,
    labels: Vec<Wanted>,
}

/// What a label has to be.
#[derive(Clone, Debug)]
struct Wanted {
    label: String,
    values: Vec<String>,
}

impl Ask {
    pub fn of(parts: &Parts, body: &[u8]) -> Self {
        let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
        let body = serde_json::from_slice(body).unwrap_or_default();
        let (key, status) = place(path);
        let asked = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| decoded(value))
        };
        let kind = parts
            .headers
            .get("content-type")
            .and_then(|kind| kind.to_str().ok())
            .unwrap_or_default();
        let version = || {
            asked("resourceVersion")
                .and_then(|version| version.parse().ok())
                .unwrap_or(0)
        };
        let verb = match (parts.method.as_str(), path) {
            (_, "/version") => Verb::Version,
            ("GET", _) if asked("watch").is_some() => Verb::Watch(version()),
            ("GET", _) if key.name.is_empty() => Verb::List,
            ("GET", _) => Verb::Get,
            ("POST", _) => Verb::Create,
            ("PUT", _) => Verb::Replace,
            ("DELETE", _) => Verb::Delete,
            _ if kind.contains("apply-patch") => Verb::Apply,
            _ if kind.contains("strategic") => Verb::Strategic,
            _ => Verb::Merge,
        };
        let mut key = key;
        if let Some(name) =
            asked("fieldSelector").and_then(|fields| fields.strip_prefix("metadata.name=").map(str::to_owned))
        {
            key.name = name;
        }
        Self {
            verb,
            key,
            status,
            manager: asked("fieldManager").unwrap_or_else(|| "unknown".to_owned()),
            body,
            labels: labels(&asked("labelSelector").unwrap_or_default()),
        }
    }

    fn new(verb: Verb, resource: &str, namespace: &str, name: &str, body: Value) -> Self {
        Self {
            verb,
            key: Key {
                resource: resource.to_owned(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            },
            status: false,
            manager: "somebody".to_owned(),
            body,
            labels: Vec::new(),
        }
    }

    pub fn create(resource: &str, namespace: &str, body: Value) -> Self {
        Self::new(Verb::Create, resource, namespace, "", body)
    }

    pub fn apply(resource: &str, namespace: &str, name: &str, body: Value) -> Self {
        Self::new(Verb::Apply, resource, namespace, name, body)
    }

    pub fn merge(resource: &str, namespace: &str, name: &str, body: Value) -> Self {
        Self::new(Verb::Merge, resource, namespace, name, body)
    }

    pub fn merge_status(resource: &str, name: &str, body: Value) -> Self {
        Self {
            status: true,
            ..Self::new(Verb::Merge, resource, "", name, body)
        }
    }

    pub fn delete(resource: &str, namespace: &str, name: &str) -> Self {
        Self::new(Verb::Delete, resource, namespace, name, Value::Null)
    }

    /// Who owns what is written: the same manager in status is another one.
    pub fn owner(&self) -> String {
        let part = if self.status { "/status" } else { "" };
        let how = if self.verb == Verb::Apply { "" } else { " (update)" };
        format!("{}{part}{how}", self.manager)
    }

    pub fn covers(&self, key: &Key) -> bool {
        let same = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        key.resource == self.key.resource
            && same(&self.key.namespace, &key.namespace)
            && same(&self.key.name, &key.name)
    }

    pub fn selects(&self, object: &Value) -> bool {
        let found = |wanted: &Wanted| {
            object["metadata"]["labels"][wanted.label.as_str()]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        self.labels.iter().all(|wanted| wanted.values.contains(&found(wanted)))
    }
}

/// `a=b,c in (d,e)`.
fn labels(selector: &str) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    let mut rest = selector.trim();
    while !rest.is_empty() {
        let end = match rest.find(" in (") {
            Some(at) if rest.find(',').is_none_or(|comma| comma > at) => rest.find(')').map_or(rest.len(), |at| at + 1),
            _ => rest.find(',').unwrap_or(rest.len()),
        };
        let (term, after) = rest.split_at(end);
        rest = after.trim_start_matches(',').trim_start();
        let (label, values) = match term.split_once(" in (") {
            Some((label, values)) => (label, values.trim_end_matches(')').split(',').map(str::trim).collect()),
            None => term
                .split_once('=')
                .map_or((term, vec![""]), |(label, value)| (label, vec![value])),
        };
        wanted.push(Wanted {
            label: label.trim().to_owned(),
            values: values.into_iter().map(str::to_owned).collect(),
        });
    }
    wanted
}

fn place(path: &str) -> (Key, bool) {
    let mut parts = path.trim_start_matches('/').split('/').filter(|part| !part.is_empty());
    let group = match parts.next() {
        Some("apis") => parts.next().unwrap_or_default(),
        _ => "",
    };
    parts.next();
    let rest: Vec<&str> = parts.collect();
    let (namespace, rest) = match rest.as_slice() {
        ["namespaces", namespace, plural, ..] if *plural != "status" => (*namespace, &rest[2..]),
        _ => ("", rest.as_slice()),
    };
    let key = Key {
        resource: format!("{group}/{}", rest.first().copied().unwrap_or_default()),
        namespace: namespace.to_owned(),
        name: rest.get(1).copied().unwrap_or_default().to_owned(),
    };
    (key, rest.get(2) == Some(&"status"))
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_and_paths_are_read_as_the_operator_writes_them() {
        let wanted = labels("meridian.sh/region in (eu,eu-north),a=b");
        assert_eq!(wanted.len(), 2);
        assert_eq!(wanted[0].values, ["eu", "eu-north"]);
        let (key, status) = place("/apis/meridian.sh/v1alpha1/namespaces/meridian-eu/tenantplacements/a/status");
        assert_eq!(key.to_string(), "meridian.sh/tenantplacements meridian-eu/a");
        assert!(status);
        let (key, _) = place("/api/v1/namespaces/meridian-eu");
        assert_eq!(key.to_string(), "/namespaces /meridian-eu");
        assert_eq!(decoded("a%2Cb+c"), "a,b c");
    }
}
