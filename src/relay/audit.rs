//! The audit actor: writes decisions to the directory.
//!
//! | | |
//! |---|---|
//! | Owns | the open audit log and the task that writes to it |
//! | Receives | the end of its writer task |
//! | Sends | nothing |
//! | Restart | permanent |
//! | Lost on crash | nothing: the queue is in the vault, and an event leaves it only once it is written; the one in flight may be written twice |

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::directory::audit_log::{AuditLog, AuditLogError};
use crate::directory::embedded::Embedded;
use crate::supervise::slot::Slot;
use crate::supervise::task::{self, Owned, Panicked};
use crate::vault::Vault;
use crate::vault::audit::Batch;

/// Events written at once, and so the most that are written twice after a crash.
const BATCH: usize = 512;

/// The first and the longest pause of a writer that cannot write. It tries for ever: a disk that is full must not stop
/// the relay.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// Messages of the audit actor.
#[derive(Debug)]
pub enum AuditMsg {
    /// The writer task ended, which it does only by a panic.
    WriterEnded(Result<Infallible, Panicked>),
}

/// What the audit actor is started with.
#[derive(Debug)]
pub struct AuditArgs {
    /// Its own address.
    pub slot: Slot<AuditMsg>,
    /// Where the queue is.
    pub vault: Arc<Vault>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Audit;

impl Actor for Audit {
    type Msg = AuditMsg;
    type State = Owned;
    type Arguments = AuditArgs;

    async fn pre_start(&self, _myself: ActorRef<AuditMsg>, args: AuditArgs) -> Result<Owned, ActorProcessingErr> {
        let vault = Arc::clone(&args.vault);
        let file = args.vault.config.now().directory.audit.as_ref().map(|path| path.display().to_string());
        args.slot.node().describe(
            move || serde_json::json!({ "file": file, "waiting": vault.audit.len(), "dropped": vault.audit.dropped() }),
        );
        if args.slot.node().started_at().is_none() {
            // A file that cannot be opened at the first start is a mistake of whoever started it, and is said at once.
            drop(Embedded::from(&args.vault.config.now().directory).open_audit()?);
        }
        Ok(task::owned(&args.slot, write(args.vault), AuditMsg::WriterEnded))
    }

    async fn handle(
        &self,
        _myself: ActorRef<AuditMsg>,
        AuditMsg::WriterEnded(end): AuditMsg,
        _writer: &mut Owned,
    ) -> Result<(), ActorProcessingErr> {
        match end? {}
    }
}

/// Writes what is queued, for ever. Without a file, events are taken off the queue and go nowhere.
async fn write(vault: Arc<Vault>) -> Infallible {
    let mut log = None;
    let mut pause = PAUSE.0;
    loop {
        let batch = Arc::new(vault.audit.peek(BATCH).await);
        let (directory, written) = (Embedded::from(&vault.config.now().directory), Arc::clone(&batch));
        // A disk may take its time; a thread of the runtime must not.
        let attempt = tokio::task::spawn_blocking(move || append(&directory, log, &written)).await;
        log = match attempt {
            Ok(Ok(log)) => {
                vault.audit.recorded(&batch);
                pause = PAUSE.0;
                log
            }
            Ok(Err(error)) => {
                let error = anyhow::Error::new(error);
                tracing::error!(error = format!("{error:#}"), retry_in = ?pause, "the audit cannot be written");
                vault.metrics.audit_write_failures.inc();
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
                None
            }
            // Aborted with the runtime, or a panic, which is this task's own.
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_aborted) => std::future::pending().await,
            },
        };
    }
}

/// Appends to `log`, opened first where it is not.
fn append(directory: &Embedded, log: Option<AuditLog>, batch: &Batch) -> Result<Option<AuditLog>, AuditLogError> {
    let mut log = match log {
        Some(log) => Some(log),
        None => directory.open_audit()?,
    };
    if let Some(log) = &mut log {
        log.append(&batch.records)?;
    }
    Ok(log)
}
