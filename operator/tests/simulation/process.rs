//! Processes: a role that can be killed at any moment, and is started again.

use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// One life of a role's process, or whoever else asks an API server.
#[derive(Clone)]
pub struct Process {
    pub role: &'static str,
    killed: CancellationToken,
}

impl Process {
    pub fn new(role: &'static str) -> Self {
        Self {
            role,
            killed: CancellationToken::new(),
        }
    }

    /// As by SIGKILL: it sends nothing any more; what it has sent is on its way.
    pub fn kill(&self) {
        self.killed.cancel();
    }
}

/// How soon the kubelet starts a container again.
const RESTARTS_AFTER: Duration = Duration::from_millis(500);

/// Runs a role, life after life, until `stop`, which it hears as SIGTERM. `began` hears of each life.
pub async fn keep<F>(
    role: &'static str,
    stop: CancellationToken,
    began: impl Fn(&Process),
    ended_by_itself: impl Fn(&str),
    run: impl Fn(Process, CancellationToken) -> F,
) where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    while !stop.is_cancelled() {
        let process = Process::new(role);
        began(&process);
        let mut life = tokio::spawn(run(process.clone(), stop.child_token()));
        tokio::select! {
            biased;
            () = process.killed.cancelled() => {
                life.abort();
                let _ = life.await;
            }
            ended = &mut life => match ended {
                Ok(Ok(())) => {}
                Ok(Err(cause)) => ended_by_itself(&cause),
                Err(panic) => ended_by_itself(&format!("it panicked: {panic}")),
            }
        }
        tokio::time::sleep(RESTARTS_AFTER).await;
    }
}
