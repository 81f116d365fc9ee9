//! What is, as opposed to what is planned: a cache of observed objects fed by watches.
//!
//! A reconcile reads from here and asks no API server. Every change is handed to `on_change`, which puts the object that
//! depends on it into a [`crate::reconcile::Queue`]; so drift is seen in the time of a watch event.

use crate::manifest::{Kind, MANAGED_BY, MANAGED_BY_LABEL, OWNER_UID_LABEL, ObjectKey};
use crate::packed::Packed;
use futures::{StreamExt, TryStreamExt, future::BoxFuture};
use kube::api::{Api, DynamicObject, ListParams, TypeMeta};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Observed objects by key. Cheap to clone; all clones see the same objects.
#[derive(Clone)]
pub struct Cache {
    objects: Arc<Mutex<Objects>>,
    synced: Arc<watch::Sender<BTreeSet<Kind>>>,
    packs: &'static [Kind],
}

#[derive(Clone, Default)]
struct Objects {
    all: BTreeMap<ObjectKey, Stored>,
    /// Those of `all` that are being deleted: few, and asked for at every change of a member.
    deleting: BTreeSet<ObjectKey>,
    gone: Gone,
}

/// UIDs of the objects that went last. The answer to a write of ours may be heard after the watch has told that the object is
/// gone, and must not bring it back: no watch would take it away again.
#[derive(Clone, Default)]
struct Gone {
    uids: HashSet<String>,
    /// The oldest first.
    order: VecDeque<String>,
}

impl Gone {
    /// More than can go while one answer is on its way.
    const KEPT: usize = 4096;

    fn insert(&mut self, uid: &str) {
        if !self.uids.insert(uid.to_owned()) {
            return;
        }
        self.order.push_back(uid.to_owned());
        if self.order.len() > Self::KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.uids.remove(&oldest);
        }
    }

    fn has(&self, object: &DynamicObject) -> bool {
        object.metadata.uid.as_ref().is_some_and(|uid| self.uids.contains(uid))
    }

    /// A watch tells of it again: it was not known for a while, and not gone.
    fn is_back(&mut self, object: &DynamicObject) {
        if let Some(uid) = &object.metadata.uid
            && self.uids.remove(uid)
        {
            self.order.retain(|gone| gone != uid);
        }
    }
}

impl Objects {
    fn insert(&mut self, key: ObjectKey, stored: Stored) {
        if stored.identity.deleting {
            self.deleting.insert(key.clone());
        } else {
            self.deleting.remove(&key);
        }
        self.all.insert(key, stored);
    }

    fn remove(&mut self, key: &ObjectKey) {
        self.deleting.remove(key);
        self.all.remove(key);
    }
}

/// An object as it is kept, and what is asked of many objects at once.
#[derive(Clone)]
struct Stored {
    content: Content,
    identity: Identity,
    /// UID of the owner that our labels name.
    owner: Option<String>,
    /// The latest version of it that a watch has told.
    watched: Option<u128>,
}

#[derive(Clone)]
enum Content {
    Whole(Arc<DynamicObject>),
    Packed(Arc<Packed>),
}

impl Content {
    fn object(self, kind: Kind) -> Option<Arc<DynamicObject>> {
        match self {
            Self::Whole(object) => Some(object),
            Self::Packed(packed) => packed.unpack(types(kind)).map(Arc::new),
        }
    }
}

/// Which observation of which object something is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Of the object.
    pub uid: Option<String>,
    /// Of the observation.
    pub version: Option<String>,
    /// Whether the object is being deleted.
    pub deleting: bool,
}

impl Identity {
    /// Of an object as observed.
    #[must_use]
    pub fn of(object: &DynamicObject) -> Self {
        Self {
            uid: object.metadata.uid.clone(),
            version: object.metadata.resource_version.clone(),
            deleting: object.metadata.deletion_timestamp.is_some(),
        }
    }
}

impl Stored {
    fn new(object: &Arc<DynamicObject>, packs: bool) -> Self {
        let label = |key: &str| object.labels().get(key).map(String::as_str);
        let ours = label(MANAGED_BY_LABEL) == Some(MANAGED_BY);
        let owner = label(OWNER_UID_LABEL).filter(|_| ours).map(ToOwned::to_owned);
        let packed = packs.then(|| Packed::of(object)).flatten();
        Self {
            content: packed.map_or_else(
                || Content::Whole(object.clone()),
                |packed| Content::Packed(Arc::new(packed)),
            ),
            identity: Identity::of(object),
            owner,
            watched: None,
        }
    }

    fn version(&self) -> Option<u128> {
        version(self.identity.version.as_deref())
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            objects: Arc::default(),
            synced: Arc::new(watch::Sender::new(BTreeSet::new())),
            packs: &[],
        }
    }
}

impl Cache {
    /// A cache that keeps objects of these kinds packed: those that are many or large, and looked at seldom.
    #[must_use]
    pub fn packing(kinds: &'static [Kind]) -> Self {
        Self {
            packs: kinds,
            ..Self::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, Objects> {
        // A panic while holding the lock cannot leave half a change: neither map calls anything that panics.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One object as last observed.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<DynamicObject>> {
        let content = self.lock().all.get(key)?.content.clone();
        content.object(key.kind)
    }

    /// Which observation of it is the last one.
    #[must_use]
    pub fn identity(&self, key: &ObjectKey) -> Option<Identity> {
        self.lock().all.get(key).map(|stored| stored.identity.clone())
    }

    /// One object, parsed into its type; `None` when it is not there or does not parse.
    #[must_use]
    pub fn typed<T: serde::de::DeserializeOwned>(&self, key: &ObjectKey) -> Option<T> {
        serde_json::from_value(crate::apply::observed(self.get(key)?.as_ref())).ok()
    }

    /// All objects of a kind, in order of namespace and name.
    #[must_use]
    pub fn of_kind(&self, kind: Kind) -> Vec<(ObjectKey, Arc<DynamicObject>)> {
        // Unpacked after the lock: others must not wait for that.
        let kept: Vec<_> = {
            let objects = self.lock();
            let of_kind = objects.all.iter().filter(|(key, _)| key.kind == kind);
            of_kind
                .map(|(key, stored)| (key.clone(), stored.content.clone()))
                .collect()
        };
        kept.into_iter()
            .filter_map(|(key, content)| Some((key, content.object(kind)?)))
            .collect()
    }

    /// Which observation of each object of a kind is the last one, in order of namespace and name.
    #[must_use]
    pub fn identities_of(&self, kind: Kind) -> Vec<(ObjectKey, Identity)> {
        let objects = self.lock();
        let of_kind = objects.all.iter().filter(|(key, _)| key.kind == kind);
        of_kind
            .map(|(key, stored)| (key.clone(), stored.identity.clone()))
            .collect()
    }

    /// Keys of all objects of a kind, in order of namespace and name.
    #[must_use]
    pub fn keys_of(&self, kind: Kind) -> Vec<ObjectKey> {
        let objects = self.lock();
        objects.all.keys().filter(|key| key.kind == kind).cloned().collect()
    }

    /// Keys of the objects of a kind that somebody has deleted and that are still there.
    #[must_use]
    pub fn deleting(&self, kind: Kind) -> Vec<ObjectKey> {
        let objects = self.lock();
        objects
            .deleting
            .iter()
            .filter(|key| key.kind == kind)
            .cloned()
            .collect()
    }

    /// Whether this is the last observation of it.
    #[must_use]
    pub fn is_still(&self, key: &ObjectKey, identity: &Identity) -> bool {
        let objects = self.lock();
        objects.all.get(key).is_some_and(|stored| stored.identity == *identity)
    }

    /// The objects labelled as managed by Meridian for the owner with this UID, of those that are `wanted`.
    #[must_use]
    pub fn owned_by(&self, uid: &str, wanted: impl Fn(&ObjectKey) -> bool) -> Vec<(ObjectKey, Identity)> {
        self.lock()
            .all
            .iter()
            .filter(|(key, stored)| !uid.is_empty() && stored.owner.as_deref() == Some(uid) && wanted(key))
            .map(|(k, stored)| (k.clone(), stored.identity.clone()))
            .collect()
    }

    /// Records what a write returned, so that the next reconcile sees it even before the watch does.
    pub fn put(&self, key: ObjectKey, object: DynamicObject) {
        self.observe(key, object, false);
    }

    /// Records an observation; gives it back, and whether it was known: as what a write of our own returned, or from this
    /// watch. What a write returned may hold what somebody else wrote a moment before, which only the watch tells.
    fn observe(&self, key: ObjectKey, mut object: DynamicObject, watched: bool) -> (Arc<DynamicObject>, bool) {
        object.metadata.managed_fields = None;
        // Items of a list come without their type; a plan names it.
        object.types = Some(types(key.kind));
        let object = Arc::new(object);
        if self.has(&key, &object, watched) {
            return (object, true);
        }
        let mut stored = Stored::new(&object, self.packs.contains(&key.kind));
        let version = stored.version();
        let mut objects = self.lock();
        if watched {
            objects.gone.is_back(&object);
        } else if objects.gone.has(&object) {
            return (object, true);
        }
        let Some(last) = objects.all.get_mut(&key) else {
            stored.watched = version.filter(|_| watched);
            objects.insert(key, stored);
            return (object, false);
        };
        let same = stored.identity.version.is_some() && last.identity == stored.identity;
        let told = version.is_some() && last.watched >= version;
        // Since Kubernetes 1.35 resource versions of one resource are comparable numbers; anything else is taken as newer.
        let older = version.is_some() && last.version() > version;
        if watched {
            last.watched = last.watched.max(version);
        }
        if !older {
            stored.watched = last.watched;
            objects.insert(key, stored);
        }
        (object, same || told)
    }

    /// Whether this very observation is kept already; then it need not be packed once more.
    fn has(&self, key: &ObjectKey, object: &DynamicObject, watched: bool) -> bool {
        let identity = Identity::of(object);
        let mut objects = self.lock();
        let Some(last) = objects.all.get_mut(key) else {
            return false;
        };
        let same = identity.version.is_some() && last.identity == identity;
        if same && watched {
            last.watched = last.watched.max(version(identity.version.as_deref()));
        }
        same
    }

    fn remove(&self, key: &ObjectKey, uid: Option<&str>) {
        let mut objects = self.lock();
        let known = objects.all.get(key).and_then(|known| known.identity.uid.clone());
        if let Some(uid) = uid.or(known.as_deref()) {
            objects.gone.insert(uid);
        }
        // A delete event that comes after the object was made anew must not hide the new one.
        if uid.is_none() || known.as_deref() == uid {
            objects.remove(key);
        }
    }

    fn mark_synced(&self, kind: Kind) {
        self.synced.send_if_modified(|kinds| kinds.insert(kind));
    }

    /// Knows nothing of a kind any more; whether it did.
    fn forget(&self, kind: Kind) -> bool {
        let known = self.synced.send_if_modified(|kinds| kinds.remove(&kind));
        for key in self.keys_of(kind) {
            self.remove(&key, None);
        }
        known
    }

    /// Whether the first listing of all these kinds is in.
    #[must_use]
    pub fn is_synced(&self, kinds: &[Kind]) -> bool {
        let synced = self.synced.borrow();
        kinds.iter().all(|kind| synced.contains(kind))
    }

    /// Another cache with the same objects: what is put into one is not seen in the other.
    #[must_use]
    pub fn copied(&self) -> Self {
        Self {
            objects: Arc::new(Mutex::new(self.lock().clone())),
            synced: Arc::new(watch::Sender::new(self.synced.borrow().clone())),
            packs: self.packs,
        }
    }

    /// Takes a whole listing of a kind.
    pub fn take(&self, kind: Kind, objects: impl IntoIterator<Item = DynamicObject>) {
        for object in objects {
            if let Some(key) = ObjectKey::of(kind, &object) {
                self.put(key, object);
            }
        }
        self.mark_synced(kind);
    }

    /// Waits for the first listing of all these kinds. A plan made before that would prune by ignorance.
    pub async fn synced(&self, kinds: &[Kind]) {
        let mut synced = self.synced.subscribe();
        // The sender lives in self, so waiting ends only with the condition.
        let _ = synced
            .wait_for(|known| kinds.iter().all(|kind| known.contains(kind)))
            .await;
    }
}

fn version(text: Option<&str>) -> Option<u128> {
    text?.parse().ok()
}

fn types(kind: Kind) -> TypeMeta {
    TypeMeta {
        api_version: kind.api_version(),
        kind: kind.kind.to_owned(),
    }
}

/// What to watch of a kind.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The kind.
    pub kind: Kind,
    /// Only in this namespace.
    pub namespace: Option<String>,
    /// Label selector; empty for all.
    pub labels: String,
    /// The kind may not be there, and come later: then nothing of it is known, instead of what was.
    pub optional: bool,
}

impl Selection {
    /// Objects of a kind that carry our label, in every namespace.
    #[must_use]
    pub fn managed(kind: Kind) -> Self {
        Self {
            kind,
            namespace: None,
            labels: format!("{MANAGED_BY_LABEL}={MANAGED_BY}"),
            optional: false,
        }
    }

    /// The same, of a kind that not every cluster has.
    #[must_use]
    pub fn optional(self) -> Self {
        Self { optional: true, ..self }
    }

    /// All objects of a kind.
    #[must_use]
    pub fn all(kind: Kind) -> Self {
        Self {
            kind,
            namespace: None,
            labels: String::new(),
            optional: false,
        }
    }
}

/// Lists all objects of a kind into a cache, once.
///
/// # Errors
/// What the API server answered.
pub async fn list(client: &Client, kind: Kind, cache: &Cache) -> Result<(), kube::Error> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind.resource());
    cache.take(kind, api.list(&ListParams::default()).await?);
    Ok(())
}

/// What a watch tells of an object.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// It came, or is another than it was.
    Seen(&'a DynamicObject),
    /// It is as a write of our own has left it.
    Known(&'a DynamicObject),
    /// It went.
    Gone,
}

impl<'a> Change<'a> {
    /// The object, while there is one.
    #[must_use]
    pub const fn object(self) -> Option<&'a DynamicObject> {
        match self {
            Self::Seen(object) | Self::Known(object) => Some(object),
            Self::Gone => None,
        }
    }

    /// Whether it says nothing that was not known.
    #[must_use]
    pub const fn is_known(self) -> bool {
        matches!(self, Self::Known(_))
    }
}

/// Called with each key of which a watch tells something.
pub type OnChange = Arc<dyn Fn(&ObjectKey, Change<'_>) + Send + Sync>;

/// Follows one selection into the cache until cancelled. Failures are retried with back-off and logged; the cache keeps
/// what it knew. A CRD that is missing at start is such a failure: the watch begins when it appears.
#[must_use]
pub fn follow(client: Client, selection: Selection, cache: Cache, on_change: OnChange) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let kind = selection.kind;
        let resource = kind.resource();
        let api: Api<DynamicObject> = match &selection.namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        let mut config = watcher::Config::default();
        if !selection.labels.is_empty() {
            config = config.labels(&selection.labels);
        }
        let mut listed = BTreeSet::new();
        let mut events = watcher(api, config).default_backoff().into_stream().boxed();
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => absorb(event, kind, &selection, &cache, &on_change, &mut listed),
                Err(error) if selection.optional && is_not_served(&error) => {
                    if cache.forget(kind) {
                        tracing::warn!(resource = kind.kind, "is no longer served in this cluster");
                    }
                }
                Err(error) => tracing::warn!(resource = kind.kind, error = %error, "watch failed; it is tried again"),
            }
        }
    })
}

fn is_not_served(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(source)
        | watcher::Error::WatchStartFailed(source)
        | watcher::Error::WatchFailed(source) => {
            matches!(source, kube::Error::Api(status) if status.code == 404)
        }
        watcher::Error::WatchError(status) => status.code == 404,
        watcher::Error::NoResourceVersion => false,
    }
}

fn absorb(
    event: watcher::Event<DynamicObject>,
    kind: Kind,
    selection: &Selection,
    cache: &Cache,
    on_change: &OnChange,
    listed: &mut BTreeSet<ObjectKey>,
) {
    match event {
        watcher::Event::Init => listed.clear(),
        watcher::Event::InitApply(object) => {
            if let Some(key) = ObjectKey::of(kind, &object) {
                listed.insert(key.clone());
                // What came between the last event and this listing was told by nobody.
                let (object, _) = cache.observe(key.clone(), object, true);
                on_change(&key, Change::Seen(&object));
            }
        }
        watcher::Event::Apply(object) => {
            if let Some(key) = ObjectKey::of(kind, &object) {
                listed.insert(key.clone());
                let (object, known) = cache.observe(key.clone(), object, true);
                let change = if known { Change::Known } else { Change::Seen };
                on_change(&key, change(&object));
            }
        }
        watcher::Event::Delete(object) => {
            if let Some(key) = ObjectKey::of(kind, &object) {
                listed.remove(&key);
                cache.remove(&key, object.metadata.uid.as_deref());
                on_change(&key, Change::Gone);
            }
        }
        watcher::Event::InitDone => {
            let gone: Vec<_> = cache
                .keys_of(kind)
                .into_iter()
                .filter(|key| {
                    !listed.contains(key) && (selection.namespace.is_none() || key.namespace == selection.namespace)
                })
                .collect();
            for key in gone {
                cache.remove(&key, None);
                on_change(&key, Change::Gone);
            }
            cache.mark_synced(kind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::CONFIG_MAP;
    use serde_json::json;

    fn config(name: &str, uid: &str, version: &str) -> DynamicObject {
        let labels = json!({MANAGED_BY_LABEL: MANAGED_BY, OWNER_UID_LABEL: "owner"});
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "uid": uid, "resourceVersion": version, "labels": labels}})).unwrap()
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::namespaced(CONFIG_MAP, "n", name)
    }

    #[test]
    fn an_older_watch_event_does_not_hide_what_we_just_wrote() {
        let cache = Cache::default();
        cache.put(key("a"), config("a", "u", "10"));
        cache.put(key("a"), config("a", "u", "9"));
        assert_eq!(
            cache.get(&key("a")).unwrap().metadata.resource_version.as_deref(),
            Some("10")
        );
    }

    #[test]
    fn an_answer_that_is_heard_after_the_object_went_does_not_bring_it_back() {
        let (cache, nobody): (_, OnChange) = (Cache::default(), Arc::new(|_, _| {}));
        let mut listed = BTreeSet::new();
        let mut tell = |event| {
            absorb(
                event,
                CONFIG_MAP,
                &Selection::all(CONFIG_MAP),
                &cache,
                &nobody,
                &mut listed,
            )
        };
        tell(watcher::Event::Apply(config("a", "u", "10")));
        tell(watcher::Event::Delete(config("a", "u", "12")));
        cache.put(key("a"), config("a", "u", "11"));
        assert!(cache.get(&key("a")).is_none());
        // Nor one of an object that was never seen.
        tell(watcher::Event::Delete(config("b", "v", "14")));
        cache.put(key("b"), config("b", "v", "13"));
        assert!(cache.get(&key("b")).is_none());

        cache.put(key("a"), config("a", "new", "15"));
        assert!(cache.get(&key("a")).is_some(), "made anew");
        tell(watcher::Event::Apply(config("b", "v", "14")));
        cache.put(key("b"), config("b", "v", "16"));
        let version = cache.get(&key("b")).unwrap().metadata.resource_version.clone();
        assert_eq!(version.as_deref(), Some("16"), "it was there all the time");
    }

    #[test]
    fn a_packed_cache_gives_what_a_whole_one_gives() {
        let (whole, packed) = (Cache::default(), Cache::packing(&[CONFIG_MAP]));
        for cache in [&whole, &packed] {
            cache.put(key("a"), config("a", "u", "10"));
            cache.put(key("a"), config("a", "u", "9"));
        }
        assert_eq!(packed.get(&key("a")), whole.get(&key("a")));
        assert_eq!(packed.of_kind(CONFIG_MAP), whole.of_kind(CONFIG_MAP));
        assert_eq!(packed.keys_of(CONFIG_MAP), [key("a")]);
        assert_eq!(packed.owned_by("owner", |_| true), whole.owned_by("owner", |_| true));
        assert_eq!(packed.identity(&key("a")).unwrap().version.as_deref(), Some("10"));
    }

    #[test]
    fn a_late_delete_event_does_not_hide_an_object_made_anew() {
        let cache = Cache::default();
        cache.put(key("a"), config("a", "new", "10"));
        cache.remove(&key("a"), Some("old"));
        assert!(cache.get(&key("a")).is_some());
        cache.remove(&key("a"), Some("new"));
        assert!(cache.get(&key("a")).is_none());
    }

    #[test]
    fn what_we_wrote_ourselves_is_known_when_the_watch_tells_of_it_and_what_others_wrote_is_not() {
        let (cache, selection) = (Cache::default(), Selection::managed(CONFIG_MAP));
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = told.clone();
        let on_change: OnChange = Arc::new(move |_, change| heard.lock().unwrap().push(change.is_known()));
        let tell = |event| absorb(event, CONFIG_MAP, &selection, &cache, &on_change, &mut BTreeSet::new());
        tell(watcher::Event::Apply(config("a", "u", "10")));
        // Somebody writes version 11, and our write, which returns version 12, has that in it.
        cache.put(key("a"), config("a", "u", "12"));
        for version in ["11", "12", "13"] {
            tell(watcher::Event::Apply(config("a", "u", version)));
        }
        assert_eq!(*told.lock().unwrap(), [false, false, true, false]);
        // A listing may stand for events that nobody has told.
        cache.put(key("a"), config("a", "u", "15"));
        tell(watcher::Event::InitApply(config("a", "u", "15")));
        assert_eq!(told.lock().unwrap().last(), Some(&false));
    }

    #[test]
    fn a_kind_that_is_no_longer_served_is_forgotten_once() {
        let cache = Cache::default();
        cache.take(CONFIG_MAP, [config("a", "u", "1")]);
        assert!(cache.forget(CONFIG_MAP) && !cache.forget(CONFIG_MAP));
        assert!(cache.get(&key("a")).is_none() && !cache.is_synced(&[CONFIG_MAP]));
    }

    #[test]
    fn what_a_relisting_no_longer_holds_is_forgotten_and_told() {
        let (cache, selection) = (Cache::default(), Selection::managed(CONFIG_MAP));
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = told.clone();
        let on_change: OnChange = Arc::new(move |key, change| {
            heard
                .lock()
                .unwrap()
                .push((key.name.clone(), change.object().is_some()))
        });
        let mut listed = BTreeSet::new();
        cache.put(key("gone"), config("gone", "u", "1"));
        for event in [
            watcher::Event::Init,
            watcher::Event::InitApply(config("a", "u", "2")),
            watcher::Event::InitDone,
        ] {
            absorb(event, CONFIG_MAP, &selection, &cache, &on_change, &mut listed);
        }
        assert_eq!(
            *told.lock().unwrap(),
            vec![("a".to_owned(), true), ("gone".to_owned(), false)]
        );
        assert!(cache.is_synced(&[CONFIG_MAP]));
        assert_eq!(cache.owned_by("owner", |_| true).len(), 1);
        assert!(cache.owned_by("owner", |_| false).is_empty());
        assert!(cache.owned_by("", |_| true).is_empty());
    }
}
