//! The person's own kubeconfig: a client for the hub by its context, and for members by a context where one is named.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::PluginError;

/// How long connecting may take, and how long an answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How the hub and the members are reached.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// A kubeconfig; none means KUBECONFIG, then the one of the home folder.
    pub kubeconfig: Option<PathBuf>,
    /// The hub's context; none means the current one.
    pub context: Option<String>,
    /// The operator's namespace, on the hub and in the members.
    pub namespace: String,
    /// By name of the cluster, the person's own context for it. Members that are not named are reached as the hub does, by
    /// the kubeconfig in its Secret.
    pub members: BTreeMap<String, String>,
}

impl Reach {
    /// A client for the hub, and the name of the context that it is of.
    ///
    /// # Errors
    /// When there is no such kubeconfig or context, or no client can be made of it.
    pub async fn hub(&self) -> Result<(Client, String), PluginError> {
        let kubeconfig = self.read()?;
        let context = match self.context.clone().or_else(|| kubeconfig.current_context.clone()) {
            Some(context) if !context.is_empty() => context,
            _ => {
                return Err(PluginError::NoCurrentContext {
                    known: contexts(&kubeconfig),
                });
            }
        };
        Ok((client(kubeconfig, &context).await?, context))
    }

    /// A client for a member by the person's own context, if one is named for it.
    ///
    /// # Errors
    /// See [`Reach::hub`].
    pub async fn member(&self, cluster: &str) -> Result<Option<Client>, PluginError> {
        match self.members.get(cluster) {
            Some(context) => Ok(Some(client(self.read()?, context).await?)),
            None => Ok(None),
        }
    }

    fn read(&self) -> Result<Kubeconfig, PluginError> {
        let read = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        read.map_err(|error| PluginError::Kubeconfig(error.to_string()))
    }
}

fn contexts(kubeconfig: &Kubeconfig) -> Vec<String> {
    kubeconfig.contexts.iter().map(|context| context.name.clone()).collect()
}

async fn client(kubeconfig: Kubeconfig, context: &str) -> Result<Client, PluginError> {
    let known = contexts(&kubeconfig);
    if !known.iter().any(|name| name == context) {
        return Err(PluginError::NoContext {
            context: context.to_owned(),
            known,
        });
    }
    let options = KubeConfigOptions {
        context: Some(context.to_owned()),
        ..KubeConfigOptions::default()
    };
    let unusable = |cause: String| PluginError::Kubeconfig(format!("context {context}: {cause}"));
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|error| unusable(error.to_string()))?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(ANSWER_TIMEOUT);
    Client::try_from(config).map_err(|error| unusable(error.to_string()))
}
