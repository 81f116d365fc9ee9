//! Background tasks whose death ends the process. A task that dies unseen leaves a pod that looks alive and does nothing.

use std::fmt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Why a role ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The role could not begin.
    #[error("the {role} role cannot start: {cause}")]
    Start {
        /// hub or region.
        role: &'static str,
        /// What is wrong and what to do.
        cause: String,
    },
    /// A task that should run for ever ended.
    #[error("task {task} ended: {cause}; the process ends so that it is started anew")]
    TaskEnded {
        /// Which.
        task: &'static str,
        /// With what.
        cause: String,
    },
    /// The role's lease was lost; whoever holds it now goes on.
    #[error("the leader lease was lost: {0}")]
    LeaseLost(String),
}

/// A set of named tasks with one shutdown.
pub struct Tasks {
    set: JoinSet<(&'static str, Result<(), String>)>,
    shutdown: CancellationToken,
}

impl Tasks {
    /// `shutdown` is cancelled by a signal, or by this set when a task ends.
    #[must_use]
    pub fn new(shutdown: CancellationToken) -> Self {
        Self {
            set: JoinSet::new(),
            shutdown,
        }
    }

    /// The token that tasks watch.
    #[must_use]
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Runs a task that should not end before shutdown.
    pub fn spawn<E: fmt::Display>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.set
            .spawn(async move { (name, task.await.map_err(|e| e.to_string())) });
    }

    /// Runs a task without a result of its own, until shutdown.
    pub fn spawn_until_shutdown(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.set.spawn(async move {
            let result = shutdown.run_until_cancelled(task).await;
            (name, result.map_or(Ok(()), |()| Err("it returned".to_owned())))
        });
    }

    /// Waits for the first task to end, then cancels and joins the others.
    ///
    /// # Errors
    /// When a task ended before shutdown was asked for, failed, or panicked.
    pub async fn run(mut self) -> Result<(), RunError> {
        let mut first: Result<(), RunError> = Ok(());
        while let Some(joined) = self.set.join_next().await {
            let ended = match joined {
                Ok((_, Ok(()))) if self.shutdown.is_cancelled() => None,
                Ok((task, Ok(()))) => Some(RunError::TaskEnded {
                    task,
                    cause: "it returned".to_owned(),
                }),
                Ok((task, Err(cause))) => Some(RunError::TaskEnded { task, cause }),
                Err(panic) => Some(RunError::TaskEnded {
                    task: "unknown",
                    cause: panic.to_string(),
                }),
            };
            if let Some(error) = ended {
                tracing::error!(error = %error, "stopping");
                first = first.and(Err(error));
            }
            self.shutdown.cancel();
        }
        first
    }
}

/// Cancels the token on SIGTERM or Ctrl-C.
///
/// # Errors
/// When the process may not install signal handlers.
pub fn cancel_on_signal(
    shutdown: CancellationToken,
) -> std::io::Result<impl Future<Output = Result<(), std::io::Error>> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = shutdown.cancelled() => {}
        }
        shutdown.cancel();
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_unasked_ends_the_others_and_is_named() {
        let mut tasks = Tasks::new(CancellationToken::new());
        tasks.spawn_until_shutdown("patient", std::future::pending());
        tasks.spawn("hasty", async { Ok::<(), String>(()) });
        let error = tasks.run().await.unwrap_err();
        assert!(error.to_string().starts_with("task hasty ended"), "{error}");
    }

    #[tokio::test]
    async fn a_panic_is_an_end_too() {
        let mut tasks = Tasks::new(CancellationToken::new());
        tasks.spawn_until_shutdown("panics", async { panic!("boom") });
        assert!(tasks.run().await.is_err());
    }

    #[tokio::test]
    async fn shutdown_is_no_error() {
        let shutdown = CancellationToken::new();
        let mut tasks = Tasks::new(shutdown.clone());
        tasks.spawn_until_shutdown("patient", std::future::pending());
        shutdown.cancel();
        assert!(tasks.run().await.is_ok());
    }
}
