//! The operator's own certificate in the region, as files that TLS reloads, and the region's public token keys.

use super::stack::secrets::Data;
use crate::reconcile::Queue;
use meridian_kit::client::ServiceClient;
use meridian_kit::tls::{PeerId, Tls};
use meridian_policy::RegionName;
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OnceCell, watch};
use tokio_util::sync::CancellationToken;

/// Files of the certificate, as kit reads them.
const FILES: [&str; 3] = ["ca.crt", "tls.crt", "tls.key"];

/// Why the certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the operator's certificate cannot be kept in {dir}: {cause}; mount a writable /tmp")]
pub struct IdentityError {
    dir: String,
    cause: std::io::Error,
}

/// The operator's certificate. Clones share it.
#[derive(Clone)]
pub struct Identity {
    dir: Arc<PathBuf>,
    region: Arc<watch::Sender<Option<RegionName>>>,
    loaded: Arc<OnceCell<Tls>>,
}

impl Identity {
    /// Keeps files in a folder of its own below `parent`, readable by this process's user alone.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn below(parent: &Path) -> Result<Self, IdentityError> {
        let dir = parent.join(format!("meridian-operator-{}", std::process::id()));
        let failed = |cause| IdentityError {
            dir: dir.display().to_string(),
            cause,
        };
        std::fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&dir)
            .map_err(failed)?;
        Ok(Self {
            dir: Arc::new(dir),
            region: Arc::new(watch::Sender::new(None)),
            loaded: Arc::default(),
        })
    }

    /// Writes a certificate where it differs from what is there. Each file is replaced whole.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn install(&self, region: &RegionName, data: &Data) -> Result<(), IdentityError> {
        let failed = |cause| IdentityError {
            dir: self.dir.display().to_string(),
            cause,
        };
        for file in FILES {
            let (path, content) = (
                self.dir.join(file),
                data.get(file).map(Vec::as_slice).unwrap_or_default(),
            );
            if std::fs::read(&path).is_ok_and(|known| known == content) {
                continue;
            }
            let next = self.dir.join(format!(".{file}.next"));
            let mut options = std::fs::OpenOptions::new();
            let mut handle = options
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&next)
                .map_err(failed)?;
            handle.write_all(content).map_err(failed)?;
            std::fs::rename(&next, &path).map_err(failed)?;
        }
        self.region.send_if_modified(|known| {
            let changed = known.as_ref() != Some(region);
            *known = Some(region.clone());
            changed
        });
        Ok(())
    }

    /// Waits for the first certificate and loads it; who asks later gets the same, which follows the files once the feed is
    /// served.
    ///
    /// # Errors
    /// When it cannot be used.
    pub async fn tls(&self) -> Result<Tls, meridian_kit::tls::TlsError> {
        self.loaded.get_or_try_init(|| self.load()).await.cloned()
    }

    async fn load(&self) -> Result<Tls, meridian_kit::tls::TlsError> {
        let mut installed = self.region.subscribe();
        // The sender lives in self: waiting ends only with the value.
        let region = installed
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|region| region.clone());
        match region {
            Some(region) => Tls::load(&self.dir, region),
            None => std::future::pending().await,
        }
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        if Arc::strong_count(&self.dir) == 1 {
            // Best effort: the folder is on a memory volume that goes with the pod.
            let _ = std::fs::remove_dir_all(self.dir.as_path());
        }
    }
}

/// The keys that sign the region's tokens, as last fetched from identity.
#[derive(Clone, Default)]
pub struct TokenKeys(Arc<watch::Sender<Option<Value>>>);

const FETCH_EVERY: Duration = Duration::from_secs(20);
const FETCH_SOON: Duration = Duration::from_secs(3);

impl TokenKeys {
    /// The key set (RFC 7517), if it was ever seen.
    #[must_use]
    pub fn get(&self) -> Option<Value> {
        self.0.borrow().clone()
    }

    /// What an earlier process wrote to status: better than nothing until identity answers.
    pub fn recall(&self, keys: &Value) {
        self.0.send_if_modified(|known| {
            let recalled = known.is_none() && keys.get("keys").is_some();
            if recalled {
                *known = Some(keys.clone());
            }
            recalled
        });
    }

    /// Keeps fetching; a change asks for a pass of the region's stack.
    pub async fn follow(self, tls: Tls, queue: Queue<String>, shutdown: CancellationToken) {
        let region = tls.region().clone();
        let url = format!(
            "https://identity.{}.svc:8443",
            super::stack::validate::namespace(&region)
        );
        let client = match ServiceClient::peer(&tls, &url, PeerId::new(region.clone(), "identity")) {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(error = %error, "identity cannot be asked for its keys");
                shutdown.cancelled().await;
                return;
            }
        };
        loop {
            let fetched = client.get("/.well-known/jwks.json").fetch::<Value>().await;
            let pause = match fetched.ok().and_then(|keys| public(&keys)) {
                Some(keys) => {
                    let changed = self.0.send_if_modified(|known| {
                        let changed = known.as_ref() != Some(&keys);
                        *known = Some(keys);
                        changed
                    });
                    if changed {
                        queue.now(region.to_string());
                    }
                    FETCH_EVERY
                }
                None => FETCH_SOON,
            };
            if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }
}

/// Only the public members, in order of key id; `None` when it is no key set. Whatever identity might answer, a private
/// member never gets into a status that leaves the region.
fn public(keys: &Value) -> Option<Value> {
    const PUBLIC: [&str; 7] = ["kty", "crv", "x", "y", "kid", "use", "alg"];
    let strip = |key: &Value| {
        let members = key
            .as_object()?
            .iter()
            .filter(|(name, _)| PUBLIC.contains(&name.as_str()));
        Some(Value::Object(members.map(|(k, v)| (k.clone(), v.clone())).collect()))
    };
    let mut keys: Vec<Value> = keys.get("keys")?.as_array()?.iter().filter_map(strip).collect();
    keys.sort_by_key(|key| key["kid"].to_string());
    Some(json!({"keys": keys}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_member_never_leaves_and_order_does_not_matter() {
        let set = json!({"keys": [{"kid": "b", "kty": "OKP", "x": "1", "d": "secret"}, {"kid": "a", "kty": "OKP", "x": "2"}]});
        let public = public(&set).unwrap();
        assert!(!public.to_string().contains("secret"));
        assert_eq!(public["keys"][0]["kid"], "a");
        assert_eq!(super::public(&json!({"error": "x"})), None);
    }

    #[test]
    fn a_certificate_is_kept_for_this_user_alone() {
        use std::os::unix::fs::PermissionsExt;
        let identity =
            Identity::below(&std::env::temp_dir().join(format!("identity-test-{}", std::process::id()))).unwrap();
        let data = Data::from(FILES.map(|file| (file.to_owned(), file.as_bytes().to_vec())));
        identity.install(&"eu".parse().unwrap(), &data).unwrap();
        let key = identity.dir.join("tls.key");
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            std::fs::metadata(identity.dir.as_path()).unwrap().permissions().mode() & 0o777,
            0o700
        );
        let dir = identity.dir.clone();
        drop(identity);
        drop(key);
        let _ = std::fs::remove_dir_all(dir.as_path());
    }
}
