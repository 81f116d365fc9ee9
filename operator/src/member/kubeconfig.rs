//! Which kubeconfigs are accepted. A kubeconfig may run programs, read files, go through proxies and skip verification;
//! one from a Secret that somebody else writes must do none of it.

use kube::config::{AuthInfo, Cluster, Kubeconfig};

/// The rule that a kubeconfig breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KubeconfigError {
    /// It is no kubeconfig. The parser's words are left out: they may quote a credential.
    #[error("it is not a kubeconfig in YAML or JSON")]
    Unreadable,
    /// It does not hold exactly one of something.
    #[error("it must hold exactly one {0}")]
    NotOne(&'static str),
    /// It has a field that is not allowed.
    #[error("`{field}` is not allowed: {instead}")]
    Forbidden {
        /// The field as the kubeconfig writes it.
        field: &'static str,
        /// What to use instead.
        instead: &'static str,
    },
    /// It lacks something.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// The server is not https.
    #[error("`server` must be an https:// address")]
    NotHttps,
    /// It has a field that this version does not know, which could mean anything.
    #[error("unknown field in `{0}`; remove it")]
    Unknown(&'static str),
}

/// Parses a kubeconfig and refuses every feature that is not: one https server, its CA inline, one inline credential.
///
/// # Errors
/// See [`KubeconfigError`].
pub fn harden(text: &str) -> Result<Kubeconfig, KubeconfigError> {
    let config = Kubeconfig::from_yaml(text).map_err(|_| KubeconfigError::Unreadable)?;
    if config.clusters.len() != 1 {
        return Err(KubeconfigError::NotOne("cluster"));
    }
    if config.auth_infos.len() != 1 {
        return Err(KubeconfigError::NotOne("user"));
    }
    if config.contexts.len() != 1 {
        return Err(KubeconfigError::NotOne("context"));
    }
    if !config.other.is_empty() {
        return Err(KubeconfigError::Unknown("kubeconfig"));
    }
    cluster(
        config
            .clusters
            .first()
            .and_then(|c| c.cluster.as_ref())
            .ok_or(KubeconfigError::Missing("cluster"))?,
    )?;
    user(
        config
            .auth_infos
            .first()
            .and_then(|u| u.auth_info.as_ref())
            .ok_or(KubeconfigError::Missing("user"))?,
    )?;
    let current = config.contexts.first().map(|c| c.name.clone());
    Ok(Kubeconfig {
        current_context: current,
        ..config
    })
}

fn forbid(present: bool, field: &'static str, instead: &'static str) -> Result<(), KubeconfigError> {
    if present {
        Err(KubeconfigError::Forbidden { field, instead })
    } else {
        Ok(())
    }
}

fn cluster(cluster: &Cluster) -> Result<(), KubeconfigError> {
    forbid(
        cluster.insecure_skip_tls_verify == Some(true),
        "insecure-skip-tls-verify",
        "put the CA into certificate-authority-data",
    )?;
    forbid(
        cluster.certificate_authority.is_some(),
        "certificate-authority",
        "put the CA into certificate-authority-data",
    )?;
    forbid(cluster.proxy_url.is_some(), "proxy-url", "members are reached directly")?;
    forbid(
        cluster.extensions.as_ref().is_some_and(|e| !e.is_empty()),
        "extensions",
        "leave them out",
    )?;
    if !cluster.other.is_empty() {
        return Err(KubeconfigError::Unknown("cluster"));
    }
    if cluster
        .certificate_authority_data
        .as_deref()
        .unwrap_or_default()
        .is_empty()
    {
        return Err(KubeconfigError::Missing("certificate-authority-data"));
    }
    let server = cluster.server.as_deref().ok_or(KubeconfigError::Missing("server"))?;
    if server.starts_with("https://") {
        Ok(())
    } else {
        Err(KubeconfigError::NotHttps)
    }
}

fn user(user: &AuthInfo) -> Result<(), KubeconfigError> {
    let inline = "put a token, or client-certificate-data with client-key-data, into it";
    forbid(user.exec.is_some(), "exec", inline)?;
    forbid(user.auth_provider.is_some(), "auth-provider", inline)?;
    forbid(user.token_file.is_some(), "tokenFile", inline)?;
    forbid(user.client_certificate.is_some(), "client-certificate", inline)?;
    forbid(user.client_key.is_some(), "client-key", inline)?;
    forbid(user.username.is_some() || user.password.is_some(), "username", inline)?;
    let acts_as = user.impersonate.is_some() || user.impersonate_groups.is_some() || user.impersonate_uid.is_some();
    forbid(
        acts_as || user.impersonate_user_extra.is_some(),
        "as",
        "give the member a credential of the hub role itself",
    )?;
    if !user.other.is_empty() {
        return Err(KubeconfigError::Unknown("user"));
    }
    let certificate = user.client_certificate_data.is_some() && user.client_key_data.is_some();
    if certificate || user.token.is_some() {
        Ok(())
    } else {
        Err(KubeconfigError::Missing("token"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(cluster: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: m\n  cluster: {{{cluster}}}\nusers:\n- name: u\n  user: {{{user}}}\ncontexts:\n- name: c\n  context: {{cluster: m, user: u}}\n"
        )
    }

    const CLUSTER: &str = "server: 'https://m:6443', certificate-authority-data: QQ==";
    const USER: &str = "token: t";

    #[test]
    fn one_https_server_with_an_inline_ca_and_credential_is_accepted_and_its_context_chosen() {
        assert_eq!(
            harden(&with(CLUSTER, USER)).unwrap().current_context.as_deref(),
            Some("c")
        );
    }

    #[test]
    fn everything_that_runs_reads_or_skips_is_refused_by_name() {
        let users = [
            ("exec: {command: sh}", "exec"),
            ("auth-provider: {name: gcp}", "auth-provider"),
            ("tokenFile: /t", "tokenFile"),
            ("client-certificate: /c", "client-certificate"),
            ("client-key: /k", "client-key"),
            ("username: a, password: b", "username"),
            ("token: t, as: admin", "as"),
        ];
        let clusters = [
            ("insecure-skip-tls-verify: true", "insecure-skip-tls-verify"),
            ("proxy-url: 'http://p'", "proxy-url"),
            ("certificate-authority: /ca", "certificate-authority"),
        ];
        let named = |text: &str| match harden(text) {
            Err(KubeconfigError::Forbidden { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        for (user, field) in users {
            assert_eq!(named(&with(CLUSTER, user)), field);
        }
        for (cluster, field) in clusters {
            assert_eq!(named(&with(&format!("{CLUSTER}, {cluster}"), USER)), field);
        }
    }

    #[test]
    fn what_is_missing_plain_or_unknown_is_refused() {
        assert_eq!(
            harden(&with("server: 'http://m', certificate-authority-data: QQ==", USER)).err(),
            Some(KubeconfigError::NotHttps)
        );
        assert_eq!(
            harden(&with("server: 'https://m'", USER)).err(),
            Some(KubeconfigError::Missing("certificate-authority-data"))
        );
        assert_eq!(
            harden(&with(CLUSTER, "")).err(),
            Some(KubeconfigError::Missing("token"))
        );
        assert_eq!(
            harden(&with(CLUSTER, "token: t, sshKey: x")).err(),
            Some(KubeconfigError::Unknown("user"))
        );
        assert_eq!(harden("not: [a kubeconfig").err(), Some(KubeconfigError::Unreadable));
        assert_eq!(harden("{}").err(), Some(KubeconfigError::NotOne("cluster")));
    }
}
