//! What an API server holds, and what one request does to it, at once and whole.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::fields::{self, Owners};
use super::request::{Ask, Verb};

/// Names an object: resource (`group/plural`), namespace, name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub resource: String,
    pub namespace: String,
    pub name: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.resource, self.namespace, self.name)
    }
}

struct Object {
    value: Arc<Value>,
    owners: Owners,
}

/// A change, as watches tell it.
#[derive(Clone)]
pub struct Event {
    pub version: u64,
    pub key: Key,
    pub before: Option<Arc<Value>>,
    pub after: Option<Arc<Value>>,
}

pub struct Store {
    version: u64,
    uids: u64,
    objects: BTreeMap<Key, Object>,
    log: VecDeque<Event>,
    /// Resources that are not served.
    pub missing: BTreeSet<String>,
}

/// What a request gets.
pub type Answer = Result<(u16, Value), (u16, &'static str, String)>;

fn refuse<T>(
    code: u16,
    reason: &'static str,
    message: impl std::fmt::Display,
) -> Result<T, (u16, &'static str, String)> {
    Err((code, reason, message.to_string()))
}

impl Store {
    pub fn new() -> Self {
        Self {
            version: 100,
            uids: 0,
            objects: BTreeMap::new(),
            log: VecDeque::new(),
            missing: BTreeSet::new(),
        }
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// As when etcd is gone: nothing is left but that versions go on, for watches that are too old.
    pub fn lose_everything(&mut self) {
        let keys: Vec<Key> = self.objects.keys().cloned().collect();
        for key in keys {
            self.remove(&key);
        }
        self.log.clear();
    }

    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let key = Key {
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        self.objects.get(&key).map(|object| object.value.clone())
    }

    pub fn all(&self, resource: &str) -> Vec<(Key, Arc<Value>)> {
        let of = self.objects.iter().filter(|(key, _)| key.resource == resource);
        of.map(|(key, object)| (key.clone(), object.value.clone())).collect()
    }

    /// The first event of a resource after a version; nothing when there is none yet, an error when it is forgotten.
    pub fn after(&self, resource: &str, version: u64) -> Result<Option<Event>, ()> {
        if self.log.front().is_some_and(|oldest| oldest.version > version + 1)
            || (self.log.is_empty() && version < self.version)
        {
            return Err(());
        }
        let mut events = self.log.iter();
        Ok(events
            .find(|event| event.version > version && event.key.resource == resource)
            .cloned())
    }

    /// Forgets events, so that older watches have to list again.
    pub fn compact(&mut self, keep: usize) {
        while self.log.len() > keep {
            self.log.pop_front();
        }
    }

    /// Does what is asked; gives the event of it, if it changed anything.
    pub fn answer(&mut self, ask: &Ask) -> (Answer, Option<Event>) {
        let before = self.version;
        let answer = self.decide(ask);
        let changed = self.log.back().filter(|event| event.version > before).cloned();
        (answer, changed)
    }

    fn decide(&mut self, ask: &Ask) -> Answer {
        if self.missing.contains(&ask.key.resource) {
            return refuse(404, "NotFound", "404 page not found");
        }
        match &ask.verb {
            Verb::Version => Ok((
                200,
                json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": "",
                "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}),
            )),
            Verb::List => Ok((200, self.list(ask))),
            Verb::Get => match self.objects.get(&ask.key) {
                Some(object) => Ok((200, object.value.as_ref().clone())),
                None => self.not_found(&ask.key),
            },
            Verb::Create => self.create(ask),
            Verb::Replace => self.change(ask, |object, _, body| *object = body.clone()),
            Verb::Merge => self.change(ask, |object, _, body| fields::merge(object, body)),
            Verb::Strategic => self.change(ask, |object, _, body| fields::merge_by_name(object, body)),
            Verb::Apply if !self.objects.contains_key(&ask.key) => {
                if ask.status {
                    return self.not_found(&ask.key);
                }
                self.create(ask)
            }
            Verb::Apply => {
                let manager = ask.owner();
                self.change(ask, move |object, owners, body| {
                    fields::apply(object, owners, &manager, body)
                })
            }
            Verb::Delete => self.delete(ask),
            Verb::Watch(_) => refuse(500, "InternalError", "a watch is no request of the store"),
        }
    }

    fn not_found<T>(&self, key: &Key) -> Result<T, (u16, &'static str, String)> {
        refuse(404, "NotFound", format!("{key} not found"))
    }

    fn list(&self, ask: &Ask) -> Value {
        let items: Vec<Value> = self
            .objects
            .iter()
            .filter(|(key, object)| ask.covers(key) && ask.selects(&object.value))
            .map(|(_, object)| object.value.as_ref().clone())
            .collect();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": self.version.to_string()}, "items": items})
    }

    fn create(&mut self, ask: &Ask) -> Answer {
        let mut key = ask.key.clone();
        if let Some(name) = ask.body["metadata"]["name"].as_str() {
            name.clone_into(&mut key.name);
        }
        if key.resource.ends_with("/events") {
            return Ok((201, ask.body.clone()));
        }
        if self.objects.contains_key(&key) {
            return refuse(409, "AlreadyExists", format!("{key} already exists"));
        }
        if !key.namespace.is_empty() && self.is_closed(&key.namespace) {
            return refuse(404, "NotFound", format!("namespace {} not found", key.namespace));
        }
        self.uids += 1;
        let (mut object, mut owners) = (ask.body.clone(), Owners::new());
        if ask.verb == Verb::Create {
            if let Some(map) = object.as_object_mut() {
                map.remove("status");
            }
            // A Secret may be written as text.
            fields::updated(&Value::Null, &object, &mut owners, &ask.owner());
        } else {
            fields::apply(&mut object, &mut owners, &ask.owner(), &ask.body);
        }
        encode(&mut object);
        object["metadata"]["name"] = json!(key.name);
        if !key.namespace.is_empty() {
            object["metadata"]["namespace"] = json!(key.namespace);
        }
        object["metadata"]["uid"] = json!(format!("uid-{}", self.uids));
        object["metadata"]["generation"] = json!(1);
        object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        let written = self.put(&key, object, owners);
        Ok((201, written.as_ref().clone()))
    }

    fn is_closed(&self, namespace: &str) -> bool {
        let found = self.get("/namespaces", "", namespace);
        found.is_none_or(|found| !found["metadata"]["deletionTimestamp"].is_null())
    }

    fn change(&mut self, ask: &Ask, change: impl FnOnce(&mut Value, &mut Owners, &Value)) -> Answer {
        let Some(known) = self.objects.get(&ask.key) else {
            return self.not_found(&ask.key);
        };
        let before = known.value.clone();
        let (mut object, mut owners) = (before.as_ref().clone(), known.owners.clone());
        let expected = &ask.body["metadata"]["resourceVersion"];
        if expected.is_string() && *expected != before["metadata"]["resourceVersion"] {
            return refuse(409, "Conflict", format!("{} has been modified", ask.key));
        }
        change(&mut object, &mut owners, &ask.body);
        encode(&mut object);
        // What a request cannot change.
        for fixed in [
            "name",
            "namespace",
            "uid",
            "resourceVersion",
            "generation",
            "creationTimestamp",
            "deletionTimestamp",
        ] {
            let was = before["metadata"].get(fixed).cloned();
            match (object["metadata"].as_object_mut(), was) {
                (Some(metadata), Some(was)) => drop(metadata.insert(fixed.to_owned(), was)),
                (Some(metadata), None) => drop(metadata.remove(fixed)),
                (None, _) => {}
            }
        }
        if ask.status {
            let status = object.get("status").cloned();
            let metadata = object["metadata"].clone();
            object = before.as_ref().clone();
            object["metadata"] = metadata;
            object["status"] = status.unwrap_or_default();
        } else if has_status(&ask.key.resource) {
            match before.get("status") {
                Some(status) => object["status"] = status.clone(),
                None => drop(object.as_object_mut().and_then(|map| map.remove("status"))),
            }
        }
        if ask.verb != Verb::Apply {
            fields::updated(&before, &object, &mut owners, &ask.owner());
        }
        if let Some(refusal) = decreases(&ask.key.resource, &before, &object) {
            return refuse(422, "Invalid", refusal);
        }
        let gone = !object["metadata"]["deletionTimestamp"].is_null()
            && object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        if gone {
            self.remove(&ask.key);
            return Ok((200, object));
        }
        if spec(&object) != spec(&before) {
            let generation = before["metadata"]["generation"].as_u64().unwrap_or_default();
            object["metadata"]["generation"] = json!(generation + 1);
        }
        if object == *before {
            if let Some(known) = self.objects.get_mut(&ask.key) {
                known.owners = owners;
            }
            return Ok((200, object));
        }
        let written = self.put(&ask.key, object, owners);
        Ok((200, written.as_ref().clone()))
    }

    fn delete(&mut self, ask: &Ask) -> Answer {
        let Some(known) = self.objects.get(&ask.key) else {
            return self.not_found(&ask.key);
        };
        let (mut object, owners) = (known.value.as_ref().clone(), known.owners.clone());
        let uid = &ask.body["preconditions"]["uid"];
        if uid.is_string() && *uid != object["metadata"]["uid"] {
            return refuse(409, "Conflict", format!("{} is another one", ask.key));
        }
        let held = object["metadata"]["finalizers"]
            .as_array()
            .is_some_and(|held| !held.is_empty());
        let is_namespace = ask.key.resource == "/namespaces";
        if held || is_namespace {
            if object["metadata"]["deletionTimestamp"].is_null() {
                object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:01Z");
                let generation = object["metadata"]["generation"].as_u64().unwrap_or_default();
                object["metadata"]["generation"] = json!(generation + 1);
                object = self.put(&ask.key, object, owners).as_ref().clone();
            }
            return Ok((200, object));
        }
        self.remove(&ask.key);
        Ok((
            200,
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}),
        ))
    }

    /// What a namespace controller does once a namespace is being deleted.
    pub fn purge_namespaces(&mut self) {
        let closing: Vec<String> = self
            .all("/namespaces")
            .into_iter()
            .filter(|(_, namespace)| !namespace["metadata"]["deletionTimestamp"].is_null())
            .map(|(key, _)| key.name)
            .collect();
        for name in closing {
            let inside: Vec<Key> = self
                .objects
                .keys()
                .filter(|key| key.namespace == name)
                .cloned()
                .collect();
            inside.iter().for_each(|key| self.remove(key));
            let key = Key {
                resource: "/namespaces".to_owned(),
                namespace: String::new(),
                name,
            };
            self.remove(&key);
        }
    }

    fn put(&mut self, key: &Key, mut object: Value, owners: Owners) -> Arc<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let value = Arc::new(object);
        let before = self.objects.insert(
            key.clone(),
            Object {
                value: value.clone(),
                owners,
            },
        );
        self.log.push_back(Event {
            version: self.version,
            key: key.clone(),
            before: before.map(|before| before.value),
            after: Some(value.clone()),
        });
        value
    }

    fn remove(&mut self, key: &Key) {
        let Some(before) = self.objects.remove(key) else { return };
        self.version += 1;
        // A watch tells of it with the version of its deletion.
        let mut last = before.value.as_ref().clone();
        last["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.log.push_back(Event {
            version: self.version,
            key: key.clone(),
            before: Some(Arc::new(last)),
            after: None,
        });
    }
}

fn spec(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(map) = object.as_object_mut() {
        map.remove("metadata");
        map.remove("status");
    }
    object
}

fn has_status(resource: &str) -> bool {
    resource.starts_with("meridian.sh/") || ["apps/deployments", "apps/statefulsets", "batch/jobs"].contains(&resource)
}

/// The transition rules of our definitions.
fn decreases(resource: &str, before: &Value, after: &Value) -> Option<String> {
    let fields: &[&str] = match resource {
        "meridian.sh/regionstacks" => &["revision"],
        "meridian.sh/tenantplacements" => &["revision", "epoch"],
        _ => return None,
    };
    let number = |object: &Value, field: &str| object["spec"][field].as_u64().unwrap_or_default();
    let lower = fields
        .iter()
        .find(|field| number(after, field) < number(before, field))?;
    Some(format!("spec.{lower} only grows"))
}

/// A Secret's `stringData` becomes its `data`.
fn encode(object: &mut Value) {
    use base64::Engine as _;
    let Some(text) = object.as_object_mut().and_then(|map| map.remove("stringData")) else {
        return;
    };
    for (name, value) in text.as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        object["data"][name.as_str()] = json!(base64::engine::general_purpose::STANDARD.encode(value));
    }
}
