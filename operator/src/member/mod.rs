//! A client for a member cluster, from a kubeconfig that could do nothing but name a server and show a credential.

mod kubeconfig;

pub use kubeconfig::{KubeconfigError, harden};

use kube::{Client, Config, config::KubeConfigOptions};
use std::time::Duration;

/// How long connecting to a member may take; an unreachable member must not hold up its region's pass for longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no client for a member.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// The kubeconfig is refused.
    #[error("the kubeconfig of member {member} is refused: {source}")]
    Refused {
        /// Whose.
        member: String,
        /// By which rule.
        source: KubeconfigError,
    },
    /// The client could not be built of it.
    #[error("no client can be made for member {member}: {cause}")]
    Client {
        /// Whose.
        member: String,
        /// What is wrong.
        cause: String,
    },
}

/// Makes a client from the text of a kubeconfig Secret. Nothing is read from files, environment or helper programs.
///
/// # Errors
/// See [`MemberError`].
pub async fn connect(member: &str, kubeconfig: &str) -> Result<Client, MemberError> {
    let refused = |source| MemberError::Refused {
        member: member.to_owned(),
        source,
    };
    let client = |cause: String| MemberError::Client {
        member: member.to_owned(),
        cause,
    };
    let kubeconfig = harden(kubeconfig).map_err(refused)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|e| client(e.to_string()))?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.proxy_url = None;
    Client::try_from(config).map_err(|e| client(e.to_string()))
}
