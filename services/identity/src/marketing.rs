//! Marketing clients: one per tenant, with credentials mounted as files `<tenant>/client-id` and
//! `<tenant>/client-secret`. Read at each request, so that a rotated Secret works without a restart.

use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use meridian_policy::TenantId;
use zeroize::Zeroizing;

/// Largest credential file that is read.
const LARGEST: u64 = 1024;

/// The mounted credentials.
#[derive(Debug, Clone)]
pub struct MarketingClients {
    directory: Option<PathBuf>,
}

impl MarketingClients {
    /// Credentials in `directory`; without one, no client is known.
    pub fn new(directory: Option<PathBuf>) -> Self {
        Self { directory }
    }

    /// The tenant whose client this is. Compares with every tenant in full, and digests instead of texts, so that the
    /// time taken tells neither which tenant came close nor how close.
    pub async fn authenticate<'t>(
        &self,
        tenants: impl IntoIterator<Item = &'t TenantId>,
        client_id: &str,
        client_secret: &str,
    ) -> Option<TenantId> {
        let directory = self.directory.as_deref()?;
        let mut found = None;
        for tenant in tenants {
            let (id, secret) = tokio::join!(
                credential(directory, tenant, "client-id"),
                credential(directory, tenant, "client-secret")
            );
            let known = id.is_some() && secret.is_some();
            let same_id = same(id.as_deref().map_or(&[][..], |id| id), client_id.as_bytes());
            let same_secret = same(
                secret.as_deref().map_or(&[][..], |secret| secret),
                client_secret.as_bytes(),
            );
            if known & same_id & same_secret {
                found = Some(tenant.clone());
            }
        }
        found
    }
}

async fn credential(directory: &Path, tenant: &TenantId, name: &str) -> Option<Zeroizing<Vec<u8>>> {
    // A tenant id has no slashes and no dots, so it cannot leave the directory.
    let path = directory.join(tenant.as_str()).join(name);
    let size = tokio::fs::metadata(&path).await.ok()?.len();
    if size == 0 || size > LARGEST {
        return None;
    }
    let mut content = Zeroizing::new(tokio::fs::read(&path).await.ok()?);
    let kept = content.trim_ascii_end().len();
    content.truncate(kept);
    (!content.is_empty()).then_some(content)
}

fn same(a: &[u8], b: &[u8]) -> bool {
    verify_slices_are_equal(digest(&SHA256, a).as_ref(), digest(&SHA256, b).as_ref()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(tenants: &[(&str, &str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (tenant, id, secret) in tenants {
            let place = directory.path().join(tenant);
            std::fs::create_dir(&place).unwrap();
            std::fs::write(place.join("client-id"), id).unwrap();
            std::fs::write(place.join("client-secret"), secret).unwrap();
        }
        directory
    }

    #[tokio::test]
    async fn a_client_belongs_to_the_tenant_whose_files_it_matches() {
        let directory = mounted(&[("stride-eu", "crm-eu", "s1\n"), ("other-eu", "crm-other", "s2")]);
        let clients = MarketingClients::new(Some(directory.path().into()));
        let tenants: [TenantId; 3] = [
            "stride-eu".parse().unwrap(),
            "other-eu".parse().unwrap(),
            "without-files".parse().unwrap(),
        ];
        let ask = |id, secret| clients.authenticate(&tenants, id, secret);
        assert_eq!(ask("crm-eu", "s1").await, Some(tenants[0].clone()));
        assert_eq!(ask("crm-other", "s2").await, Some(tenants[1].clone()));
        for (id, secret) in [
            ("crm-eu", "s2"),
            ("crm-other", "s1"),
            ("crm-eu", ""),
            ("", ""),
            ("crm-eu", "s1 "),
        ] {
            assert_eq!(ask(id, secret).await, None, "{id} {secret}");
        }
    }

    #[tokio::test]
    async fn empty_credentials_and_a_missing_directory_let_nobody_in() {
        let directory = mounted(&[("stride-eu", "", "")]);
        let tenants: [TenantId; 1] = ["stride-eu".parse().unwrap()];
        let empty = MarketingClients::new(Some(directory.path().into()));
        assert_eq!(empty.authenticate(&tenants, "", "").await, None);
        assert_eq!(MarketingClients::new(None).authenticate(&tenants, "a", "b").await, None);
    }

    #[tokio::test]
    async fn a_rotated_secret_works_without_a_restart() {
        let directory = mounted(&[("stride-eu", "crm", "old")]);
        let clients = MarketingClients::new(Some(directory.path().into()));
        let tenants: [TenantId; 1] = ["stride-eu".parse().unwrap()];
        std::fs::write(directory.path().join("stride-eu/client-secret"), "new").unwrap();
        assert_eq!(clients.authenticate(&tenants, "crm", "old").await, None);
        assert_eq!(
            clients.authenticate(&tenants, "crm", "new").await,
            Some(tenants[0].clone())
        );
    }
}
