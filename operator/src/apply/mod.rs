//! Server-side apply: one field manager per purpose, forced, and no write where nothing would change.
//!
//! Before a write the planned object is compared with the observed one ([`difference`], pure). The digest of the last
//! applied manifest is kept as an annotation, so that a field which left the plan is noticed too: the digest differs, the
//! apply goes out, and the API server drops the field that this manager owned.
//!
//! An object of the same name that is not ours is never touched: [`ApplyError::Foreign`], unless a person has put
//! `meridian.sh/adopt: "true"` on it.

mod difference;
mod error;
mod purpose;
mod undeclared;

pub use difference::{difference, digest};
pub use error::ApplyError;
pub use purpose::Purpose;

use crate::election::Leadership;
use crate::manifest::{
    ADOPT_ANNOTATION, APPLIED_ANNOTATION, Kind, MANAGED_BY, MANAGED_BY_LABEL, Manifest, OWNER_UID_LABEL, ObjectKey,
    REGION_LABEL, TRACE_ANNOTATION,
};
use crate::metrics::{Metrics, Write};
use crate::trace;
use crate::watch::{Cache, Identity};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, ResourceExt};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tracing::Instrument;

/// How long one request to an API server may take. Shorter than the gap between losing a lease and its end.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

/// What an apply did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The object did not exist.
    Created,
    /// It existed and differed.
    Changed,
    /// It was as planned: no request was sent.
    Unchanged,
}

/// The parameters of a merge by that field manager.
#[must_use]
pub fn merge_by(manager: &str) -> PatchParams {
    PatchParams {
        field_manager: Some(manager.to_owned()),
        ..PatchParams::default()
    }
}

fn overtaken(key: &ObjectKey) -> ApplyError {
    ApplyError::Overtaken {
        key: Box::new(key.clone()),
    }
}

/// Whether the watch of what is ours tells of it too.
fn is_managed(object: &DynamicObject) -> bool {
    object.labels().get(MANAGED_BY_LABEL).is_some_and(|by| by == MANAGED_BY)
}

/// How often an object may be told a status between reading and writing it, in one write, before it is planned anew.
const STATUSES_BETWEEN: usize = 4;

/// What an object may be when it is written.
enum Over {
    /// Whatever is ours, or nothing.
    Anything,
    /// The same, and where it is there nothing of it has left the plan.
    Text,
    /// What it was when it was seen; none: not there.
    Seen(Option<Version>),
}

/// A version of an object.
#[derive(Debug, PartialEq)]
struct Version {
    uid: Option<String>,
    resource: String,
    generation: Option<i64>,
}

impl Version {
    fn of(object: &Value) -> Option<Self> {
        let metadata = &object["metadata"];
        Some(Self {
            uid: metadata["uid"].as_str().map(str::to_owned),
            resource: metadata["resourceVersion"].as_str()?.to_owned(),
            generation: metadata["generation"].as_i64(),
        })
    }

    fn of_live(object: &DynamicObject) -> Option<Self> {
        let metadata = &object.metadata;
        Some(Self {
            uid: metadata.uid.clone(),
            resource: metadata.resource_version.clone()?,
            generation: metadata.generation,
        })
    }

    /// Whether both are the same object with the same spec. Of a kind that does not count generations nobody can tell.
    fn asks_the_same_as(&self, other: &Self) -> bool {
        self.generation.is_some() && (&self.uid, self.generation) == (&other.uid, other.generation)
    }
}

/// Digest of a status that was told, and what the API server kept of it where that is not all.
type StatusTold = (String, Option<Value>);

/// Writes planned objects into one cluster.
#[derive(Clone)]
pub struct Applier {
    client: Client,
    cache: Cache,
    leadership: Leadership,
    metrics: Metrics,
    told: Arc<Mutex<BTreeMap<ObjectKey, StatusTold>>>,
    /// Per object: digest of the plan that it was last found to be as, and the observation that it was found in.
    as_planned: Arc<Mutex<BTreeMap<ObjectKey, (String, Identity)>>>,
}

impl Applier {
    /// `cache` must watch every kind that is applied and pruned through this.
    #[must_use]
    pub fn new(client: Client, cache: Cache, leadership: Leadership, metrics: Metrics) -> Self {
        Self {
            client,
            cache,
            leadership,
            metrics,
            told: Arc::default(),
            as_planned: Arc::default(),
        }
    }

    /// The observed objects.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The client of the cluster written to.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Brings one object to its plan. The manifest must carry [`OWNER_UID_LABEL`] or be recognisable by region label.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn apply(&self, purpose: Purpose, manifest: &Manifest) -> Result<Applied, ApplyError> {
        self.apply_to(purpose, manifest, Over::Anything).await
    }

    /// The same for an object that holds a long text and is nobody else's: where it is there already, it is merged over. An
    /// API server takes an apply apart as YAML and a merge as JSON, which of 200 KB is a quarter of the work
    /// (docs/adr/0035). A merge takes nothing away: each plan of such an object has the same fields.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn apply_long(&self, purpose: Purpose, manifest: &Manifest) -> Result<Applied, ApplyError> {
        self.apply_to(purpose, manifest, Over::Text).await
    }

    /// The same, only if what the object asks for is what the plan was made from: `seen`, or not there. For an object that
    /// counts its own versions: an answer that never came, or another leader's last write, must not have the same number as
    /// this. That its status was told meanwhile does not matter, and the next pass sees it.
    ///
    /// # Errors
    /// See [`ApplyError`]; [`ApplyError::Overtaken`] when it is another one by now.
    pub async fn apply_over(&self, purpose: Purpose, manifest: &Manifest, seen: &Value) -> Result<Applied, ApplyError> {
        self.apply_to(purpose, manifest, Over::Seen(Version::of(seen))).await
    }

    async fn apply_to(&self, purpose: Purpose, manifest: &Manifest, over: Over) -> Result<Applied, ApplyError> {
        let key = manifest.key();
        let digest = manifest.digest();
        if self.is_settled(manifest) {
            return Ok(Applied::Unchanged);
        }
        let live = match self.cache.get(key) {
            Some(live) => Some(live),
            // Ours are all in the cache (it watches by label): what is not there is new, or somebody else's.
            None => {
                let live = self.read(key).await?;
                if let (Over::Seen(_), Some(live)) = (&over, live.as_ref().filter(|live| is_managed(live))) {
                    self.cache.put(key.clone(), live.clone());
                    return Err(overtaken(key));
                }
                live.map(Arc::new)
            }
        };
        let outcome = foresee(live.as_deref(), manifest)?;
        if outcome == Applied::Unchanged {
            if let Some(live) = &live {
                self.found_as_planned(manifest, live);
            }
            return Ok(outcome);
        }
        let span = trace::write("apply", key.kind.kind);
        let mut body = manifest.clone().with_annotation(APPLIED_ANNOTATION, digest);
        if let (true, Some(traceparent)) = (purpose.is_told_a_region(), meridian_kit::trace::exported(&span)) {
            body = body.with_annotation(TRACE_ANNOTATION, &traceparent);
        }
        let merged = match (&over, outcome) {
            (Over::Text, Applied::Changed) => self.merge(purpose, key, &body).instrument(span.clone()).await?,
            _ => None,
        };
        let written = match merged {
            Some(written) => written,
            None => self.send(purpose, key, body, over).instrument(span).await?,
        };
        self.cache.put(key.clone(), written);
        tracing::info!(resource = %key, role = purpose.manager(), state = ?outcome, "applied");
        Ok(outcome)
    }

    /// Merges a plan over the object; nothing when that is gone.
    async fn merge(
        &self,
        purpose: Purpose,
        key: &ObjectKey,
        body: &Manifest,
    ) -> Result<Option<DynamicObject>, ApplyError> {
        let params = merge_by(purpose.manager());
        let (api, patch) = (self.api(key), Patch::Strategic(body.body()));
        let merged = self.write("merge", key, api.patch(&key.name, &params, &patch));
        match merged.await {
            Err(error) if error.is_not_found() => Ok(None),
            merged => merged.map(Some),
        }
    }

    /// Sends an object; again, over a version that differs from the named one in its status alone.
    async fn send(
        &self,
        purpose: Purpose,
        key: &ObjectKey,
        mut body: Manifest,
        mut over: Over,
    ) -> Result<DynamicObject, ApplyError> {
        let params = PatchParams::apply(purpose.manager()).force();
        for left in (0..STATUSES_BETWEEN).rev() {
            if let Over::Seen(Some(version)) = &over {
                body = body.with_version(&version.resource);
            }
            let patch = Patch::Apply(body.body());
            let written = self
                .write("apply", key, self.api(key).patch(&key.name, &params, &patch))
                .await;
            let (seen, error) = match (&over, written) {
                (Over::Seen(seen), Err(error)) if error.is_conflict() => (seen, error),
                (_, written) => return written,
            };
            let live = self.read(key).await?;
            let now = live.as_ref().and_then(Version::of_live);
            if let Some(live) = live {
                self.cache.put(key.clone(), live);
            }
            if now == *seen {
                // It is the version that was named: somebody refused for another reason.
                return Err(error);
            }
            match (seen, now) {
                (Some(seen), Some(now)) if left > 0 && now.asks_the_same_as(seen) => over = Over::Seen(Some(now)),
                _ => break,
            }
        }
        Err(overtaken(key))
    }

    /// Whether applying this would surely change nothing, as far as can be told without comparing: it was compared, and
    /// since then neither the plan nor what is observed is another.
    #[must_use]
    pub fn is_settled(&self, manifest: &Manifest) -> bool {
        let found = self.as_planned.lock().unwrap_or_else(PoisonError::into_inner);
        // An object without a version cannot be told from another observation of it.
        found.get(manifest.key()).is_some_and(|(digest, found)| {
            found.version.is_some() && digest == manifest.digest() && self.cache.is_still(manifest.key(), found)
        })
    }

    /// Whether applying this would change nothing, by comparison where that is not known yet.
    ///
    /// # Errors
    /// [`ApplyError::Foreign`].
    pub fn is_as_planned(&self, manifest: &Manifest) -> Result<bool, ApplyError> {
        if self.is_settled(manifest) {
            return Ok(true);
        }
        let live = self.cache.get(manifest.key());
        let same = foresee(live.as_deref(), manifest)? == Applied::Unchanged;
        if let (true, Some(live)) = (same, live) {
            self.found_as_planned(manifest, &live);
        }
        Ok(same)
    }

    fn found_as_planned(&self, manifest: &Manifest, live: &DynamicObject) {
        self.as_planned.lock().unwrap_or_else(PoisonError::into_inner).insert(
            manifest.key().clone(),
            (manifest.digest().to_owned(), Identity::of(live)),
        );
    }

    /// Writes the status subresource as its one field manager; no request when it says the same already.
    ///
    /// `observed_status` is the status as last seen, without parts that others write. What was told and how the API server
    /// kept it is remembered, so that a field which its schema does not know (an older CRD) is not told again and again.
    ///
    /// # Errors
    /// See [`ApplyError`]. A custom resource that is gone meanwhile is [`ApplyError::is_not_found`].
    pub async fn apply_status(
        &self,
        key: &ObjectKey,
        observed_status: &Value,
        mut status: Value,
    ) -> Result<Applied, ApplyError> {
        let wanted = digest(&status);
        let known = self
            .told
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned();
        let same = match known {
            Some((told, kept)) => {
                told == wanted && difference(kept.as_ref().unwrap_or(&status), observed_status).is_none()
            }
            None => difference(&status, observed_status).is_none() && difference(observed_status, &status).is_none(),
        };
        if same {
            return Ok(Applied::Unchanged);
        }
        let params = PatchParams::apply(Purpose::Status.manager()).force();
        let written = loop {
            let body = serde_json::json!({
                "apiVersion": key.kind.api_version(), "kind": key.kind.kind,
                "metadata": {"name": key.name, "namespace": key.namespace}, "status": status,
            });
            let patch = Patch::Apply(&body);
            let told = self
                .write("status", key, self.api(key).patch_status(&key.name, &params, &patch))
                .instrument(trace::write("status", key.kind.kind))
                .await;
            match told {
                // What an older definition does not know is left out, so that the rest is said.
                Err(error) if undeclared::leave_out(&mut status, &error) => {
                    tracing::warn!(resource = %key, error = %error, "status is told without a field");
                }
                told => break told?,
            }
        };
        let kept = restricted(&status, &written.data["status"]);
        let kept = (digest(&kept) != wanted).then_some(kept);
        self.told
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key.clone(), (wanted, kept));
        self.cache.put(key.clone(), written);
        Ok(Applied::Changed)
    }

    /// Makes an object that must not exist yet, and is never changed by a plan afterwards (credentials).
    ///
    /// # Errors
    /// See [`ApplyError`]; also when there is one of that name already, seen or not.
    pub async fn create(&self, purpose: Purpose, manifest: &Manifest) -> Result<(), ApplyError> {
        let key = manifest.key();
        let params = PostParams {
            field_manager: Some(purpose.manager().to_owned()),
            ..PostParams::default()
        };
        let object: DynamicObject = match serde_json::from_value(manifest.body().clone()) {
            Ok(object) => object,
            Err(error) => {
                let source = Box::new(kube::Error::SerdeError(error));
                return Err(ApplyError::Api {
                    verb: "create",
                    key: Box::new(key.clone()),
                    source,
                });
            }
        };
        let written = self
            .write("create", key, self.api(key).create(&params, &object))
            .await?;
        self.cache.put(key.clone(), written);
        tracing::info!(resource = %key, state = "created", "made");
        Ok(())
    }

    /// Deletes what carries our labels and this owner's UID, unless it is to be kept. Others' objects never match.
    ///
    /// # Errors
    /// The first deletion that failed; the others were still tried.
    pub async fn prune_unless(
        &self,
        owner_uid: &str,
        keep: impl Fn(&ObjectKey) -> bool,
    ) -> Result<Vec<ObjectKey>, ApplyError> {
        let (mut removed, mut failed) = (Vec::new(), None);
        for (key, owned) in self.cache.owned_by(owner_uid, |key| !keep(key)) {
            if owned.deleting {
                continue;
            }
            match self.delete(&key, owned.uid).await {
                Ok(()) => removed.push(key),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(removed), Err)
    }

    /// Deletes one object, only if it is still the one that was observed.
    ///
    /// # Errors
    /// See [`ApplyError`]; an object that is gone already is success.
    pub async fn delete(&self, key: &ObjectKey, uid: Option<String>) -> Result<(), ApplyError> {
        let params = DeleteParams::background().preconditions(Preconditions {
            uid,
            resource_version: None,
        });
        let api = self.api(key);
        self.as_planned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
        match self.write("delete", key, api.delete(&key.name, &params)).await {
            Ok(_) => {
                tracing::info!(resource = %key, state = "deleted", "removed");
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Reads one object past the cache; `None` when there is none.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn read(&self, key: &ObjectKey) -> Result<Option<DynamicObject>, ApplyError> {
        bounded("read", key, self.api(key).get_opt(&key.name)).await
    }

    /// Reads all objects of a kind in a namespace past the cache; none where the kind is not served.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn read_all(&self, kind: Kind, namespace: &str) -> Result<Vec<DynamicObject>, ApplyError> {
        let key = ObjectKey::namespaced(kind, namespace, "");
        let params = ListParams::default();
        match bounded("list", &key, self.api(&key).list(&params)).await {
            Ok(list) => Ok(list.items),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Runs a write of the caller's own under the same rules: leader only, bounded in time, counted.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn write<T>(
        &self,
        verb: &'static str,
        key: &ObjectKey,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ApplyError> {
        let Some(_writing) = self.leadership.begin_write() else {
            return Err(ApplyError::NotLeader {
                key: Box::new(key.clone()),
            });
        };
        let result = bounded(verb, key, request).await;
        self.metrics.write(&Write {
            kind: key.kind.kind,
            verb,
            failed: result.is_err(),
        });
        result
    }

    /// The dynamic API for an object's kind and namespace.
    #[must_use]
    pub fn api(&self, key: &ObjectKey) -> Api<DynamicObject> {
        let resource = key.kind.resource();
        match &key.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }
}

async fn bounded<T>(
    verb: &'static str,
    key: &ObjectKey,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ApplyError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(ApplyError::Api {
            verb,
            key: Box::new(key.clone()),
            source: Box::new(source),
        }),
        Err(_) => Err(ApplyError::Timeout {
            verb,
            key: Box::new(key.clone()),
        }),
    }
}

/// What applying a manifest would do to the object as it is. Pure.
///
/// # Errors
/// [`ApplyError::Foreign`].
pub fn foresee(live: Option<&DynamicObject>, manifest: &Manifest) -> Result<Applied, ApplyError> {
    let Some(live) = live else { return Ok(Applied::Created) };
    if !ours(live, manifest) {
        return Err(ApplyError::Foreign {
            key: Box::new(manifest.key().clone()),
        });
    }
    let applied = live.annotations().get(APPLIED_ANNOTATION);
    if applied.is_some_and(|applied| applied == manifest.digest())
        && difference(manifest.body(), &observed(live)).is_none()
    {
        Ok(Applied::Unchanged)
    } else {
        Ok(Applied::Changed)
    }
}

/// The fields of `kept` that `told` has, one level deep.
fn restricted(told: &Value, kept: &Value) -> Value {
    let fields = told.as_object().into_iter().flatten().map(|(name, _)| name);
    fields
        .filter_map(|name| Some((name.clone(), kept.get(name)?.clone())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Ours: managed by Meridian for the same owner or, after that owner was made anew, for the same region; or handed over.
fn ours(live: &DynamicObject, manifest: &Manifest) -> bool {
    let label = |key: &str| live.labels().get(key).map(String::as_str).unwrap_or_default();
    let same = |key: &str| !manifest.label(key).is_empty() && label(key) == manifest.label(key);
    let handed_over = live.annotations().get(ADOPT_ANNOTATION).is_some_and(|v| v == "true");
    handed_over || (label(MANAGED_BY_LABEL) == MANAGED_BY && (same(OWNER_UID_LABEL) || same(REGION_LABEL)))
}

/// The observed object as JSON; a DynamicObject always serialises, its keys are strings.
pub(crate) fn observed(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or(Value::Null)
}

/// The same without a copy where nobody else looks at the object: one that was kept packed is large and the caller's alone.
pub(crate) fn into_observed(object: Arc<DynamicObject>) -> Value {
    let object = match Arc::try_unwrap(object) {
        Ok(object) if object.data.is_object() => object,
        Ok(other) => return observed(&other),
        Err(shared) => return observed(&shared),
    };
    let (mut body, metadata) = (object.data, serde_json::to_value(object.metadata));
    body["metadata"] = metadata.unwrap_or(Value::Null);
    if let Some(types) = object.types {
        body["apiVersion"] = Value::String(types.api_version);
        body["kind"] = Value::String(types.kind);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn manifest() -> Manifest {
        let labels = json!({MANAGED_BY_LABEL: MANAGED_BY, OWNER_UID_LABEL: "u1", REGION_LABEL: "eu"});
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "b", "labels": labels}});
        Manifest::new(body).unwrap()
    }

    fn live(metadata: Value) -> DynamicObject {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})).unwrap()
    }

    #[test]
    fn an_object_without_our_labels_is_foreign_until_it_is_handed_over() {
        assert!(!ours(&live(json!({"name": "a"})), &manifest()));
        assert!(!ours(
            &live(json!({"name": "a", "labels": {REGION_LABEL: "eu"}})),
            &manifest()
        ));
        assert!(ours(
            &live(json!({"name": "a", "annotations": {ADOPT_ANNOTATION: "true"}})),
            &manifest()
        ));
    }

    #[test]
    fn an_owner_made_anew_takes_its_regions_objects_over_and_no_other_regions() {
        let of = |region: &str| {
            live(
                json!({"name": "a", "labels": {MANAGED_BY_LABEL: MANAGED_BY, OWNER_UID_LABEL: "u0", REGION_LABEL: region}}),
            )
        };
        assert!(ours(&of("eu"), &manifest()));
        assert!(!ours(&of("us"), &manifest()));
    }
}
