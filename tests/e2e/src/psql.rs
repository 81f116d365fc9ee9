//! psql beside a region's databases: one for each database, as long as the proofs run. To start one costs fifty times what a
//! question does, and conditions are asked for again and again.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::kubectl::Kubectl;

/// The longest that an answer takes.
const ANSWERS: Duration = Duration::from_secs(60);
/// What is printed after each answer.
const END: &str = "-- that was the answer --";
/// The password stays in the pod, which has it as a file.
const PSQL: &str = "PGPASSWORD=\"$(cat \"$POSTGRES_PASSWORD_FILE\")\" exec psql -h /tmp -U postgres \"$@\"";

/// A region's databases, as their superuser.
#[derive(Default)]
pub struct Psql(Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Option<Session>>>>>);

/// A psql that waits for a question.
struct Session {
    child: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Psql {
    /// The lines of the answer, columns parted by `|`. The statements are not one transaction.
    ///
    /// # Errors
    /// What PostgreSQL says, or that it cannot be asked.
    pub async fn ask(&self, kubectl: &Kubectl, namespace: &str, database: &str, sql: &str) -> Result<String> {
        let waiting = {
            let mut databases = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            databases.entry(database.to_owned()).or_default().clone()
        };
        let mut waiting = waiting.lock().await;
        // Taken out: one whose answer nobody read to its end is not asked again.
        let mut session = match waiting.take().and_then(Session::alive) {
            Some(session) => session,
            None => Session::begin(kubectl, namespace, database)?,
        };
        let asked = tokio::time::timeout(ANSWERS, session.ask(sql)).await;
        let answer = asked.with_context(|| format!("no answer within {} s", ANSWERS.as_secs()))??;
        *waiting = Some(session);
        Ok(answer)
    }
}

impl Session {
    fn begin(kubectl: &Kubectl, namespace: &str, database: &str) -> Result<Self> {
        let beside = [
            "exec",
            "-i",
            "postgres-0",
            "-c",
            "postgres",
            "--",
            "sh",
            "-c",
            PSQL,
            "psql",
        ];
        let mut child = kubectl
            .command()
            .args(["-n", namespace])
            .args(beside)
            .args(["-d", database, "-XAtq", "-v", "ON_ERROR_STOP=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("kubectl cannot be started")?;
        let questions = child.stdin.take().context("psql's input")?;
        let answers = child.stdout.take().context("psql's output")?;
        Ok(Self {
            child,
            questions,
            answers: BufReader::new(answers).lines(),
        })
    }

    /// None when it has ended, as with the pod that it was in.
    fn alive(mut self) -> Option<Self> {
        matches!(self.child.try_wait(), Ok(None)).then_some(self)
    }

    async fn ask(&mut self, sql: &str) -> Result<String> {
        let question = format!("{sql}\n;\n\\echo {END}\n");
        // A psql that has ended says why below.
        let _ = self.questions.write_all(question.as_bytes()).await;
        let mut answer = String::new();
        while let Some(line) = self.answers.next_line().await.context("psql's output")? {
            if line == END {
                return Ok(answer);
            }
            answer.push_str(&line);
            answer.push('\n');
        }
        let mut complaint = String::new();
        if let Some(mut said) = self.child.stderr.take() {
            said.read_to_string(&mut complaint).await.context("psql's complaint")?;
        }
        bail!("psql: {}", complaint.trim())
    }
}
