//! The audit actor: writes decisions to the directory.
//!
//! | | |
//! |---|---|
//! | Owns | the open audit log and the task that writes to it |
//! | Receives | the end of its writer task |
//! | Sends | nothing |
//! | Restart | permanent |
//! | Lost on crash | nothing: the queue is in the vault, and an event leaves it only once it is written; the one in flight may be written twice |

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::directory::audit_log::AuditLogError;
use crate::directory::embedded::Embedded;
use crate::supervise::slot::Slot;
use crate::supervise::task::{self, Owned, Panicked};
use crate::vault::Vault;

/// Events written at once, and so the most that are written twice after a crash.
const BATCH: usize = 512;

/// How long a writer that cannot write waits before it says so. So long that it never fails often enough to be given up, with
/// which the relay would end: a disk that is full must not stop it. A file that cannot even be opened is a mistake of whoever
/// started it, and is said at once.
const PAUSE: Duration = Duration::from_millis(1_200);

/// Messages of the audit actor.
#[derive(Debug)]
pub enum AuditMsg {
    /// The writer task ended, which it does only when it cannot write.
    WriterEnded(Result<AuditLogError, Panicked>),
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
        let file = args.vault.config.directory.audit.as_ref().map(|path| path.display().to_string());
        args.slot.node().describe(
            move || serde_json::json!({ "file": file, "waiting": vault.audit.len(), "dropped": vault.audit.dropped() }),
        );
        Ok(task::owned(&args.slot, write(args.vault), AuditMsg::WriterEnded))
    }

    async fn handle(
        &self,
        _myself: ActorRef<AuditMsg>,
        AuditMsg::WriterEnded(why): AuditMsg,
        _writer: &mut Owned,
    ) -> Result<(), ActorProcessingErr> {
        // Failing is the retry: the supervisor starts a new writer, with backoff.
        Err(match why {
            Ok(error) => error.into(),
            Err(panicked) => panicked.into(),
        })
    }
}

/// Writes what is queued, for ever. Without a file, events are taken off the queue and go nowhere.
async fn write(vault: Arc<Vault>) -> AuditLogError {
    let mut log = match Embedded::from(&vault.config.directory).open_audit() {
        Ok(log) => log,
        Err(error) => return error,
    };
    loop {
        let batch = vault.audit.peek(BATCH).await;
        if let Some(log) = &mut log
            && let Err(error) = log.append(&batch.records)
        {
            tokio::time::sleep(PAUSE).await;
            return error;
        }
        vault.audit.recorded(&batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervise::intensity::{Intensity, Limits, Next};

    #[test]
    fn a_writer_that_can_never_write_is_never_given_up() {
        let mut intensity = Intensity::new(Limits::default());
        let mut now = Duration::ZERO;
        for _ in 0..100 {
            now += PAUSE;
            match intensity.failed(now) {
                Next::RestartAfter(wait) => now += wait,
                Next::GiveUp => panic!("given up after {now:?}"),
            }
        }
    }
}
