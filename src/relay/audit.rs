//! The audit actor: writes decisions to the directory.
//!
//! | | |
//! |---|---|
//! | Owns | the task that writes; the open log is in the vault |
//! | Receives | the end of its writer task |
//! | Sends | nothing |
//! | Restart | permanent |
//! | Lost on crash | nothing: the queue is in the vault, and an event leaves it only once it is written |
//!
//! What is queued when the tree has stopped is written by [`finish`].

use std::convert::Infallible;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::directory::audit_log::{AuditLog, AuditLogError};
use crate::directory::embedded::Embedded;
use crate::supervise::slot::Slot;
use crate::supervise::task::{self, Owned, Panicked};
use crate::vault::Vault;

/// Events written at once, and so the most that are written twice after an attempt that failed half-way.
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
            let log = Embedded::from(&args.vault.config.now().directory).open_audit()?;
            *args.vault.audit_log.lock().unwrap_or_else(PoisonError::into_inner) = log;
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
    let mut pause = PAUSE.0;
    let mut reload = vault.reload.subscribe();
    loop {
        tokio::select! {
            // Only waited for: who writes takes them once it holds the log.
            waiting = vault.audit.peek(1) => drop(waiting),
            // Whoever has moved the file wants it to be let go.
            Ok(()) = reload.changed() => {}
        }
        let Err(error) = on_a_thread(&vault).await else {
            pause = PAUSE.0;
            continue;
        };
        let error = anyhow::Error::new(error);
        tracing::error!(error = format!("{error:#}"), retry_in = ?pause, "the audit cannot be written");
        vault.metrics.audit_write_failures.inc();
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Writes what is queued, once no actor does any more; tries again, as long as `within` lasts. What is left then is lost, and that is
/// said.
pub async fn finish(vault: &Arc<Vault>, within: Duration) {
    let all = async {
        while !vault.audit.is_empty() {
            if let Err(error) = on_a_thread(vault).await {
                let error = anyhow::Error::new(error);
                tracing::error!(error = format!("{error:#}"), "the audit cannot be written");
                vault.metrics.audit_write_failures.inc();
                tokio::time::sleep(PAUSE.0).await;
            }
        }
    };
    if tokio::time::timeout(within, all).await.is_err() {
        tracing::error!(
            lost = vault.audit.missing(),
            ?within,
            "the relay ends, and these decisions are not in the audit"
        );
    }
}

/// Writes the oldest batch. A disk may take its time; a thread of the runtime must not.
async fn on_a_thread(vault: &Arc<Vault>) -> Result<(), AuditLogError> {
    let written = Arc::clone(vault);
    match tokio::task::spawn_blocking(move || write_batch(&written)).await {
        Ok(written) => written,
        // Aborted with the runtime, or a panic, which is the caller's own.
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_aborted) => std::future::pending().await,
        },
    }
}

/// A batch leaves the queue before another writer can see it, whatever has become of the actor that asked for this one.
fn write_batch(vault: &Vault) -> Result<(), AuditLogError> {
    let mut place = vault.audit_log.lock().unwrap_or_else(PoisonError::into_inner);
    open_at_its_path(vault, &mut place)?;
    if let Some(batch) = vault.audit.peek(BATCH).now_or_never() {
        if let Some(Err(error)) = place.as_mut().map(|log| log.append(&batch.records)) {
            // It is opened again, unless it would not be found.
            drop(place.take_if(|log| log.is_in_place()));
            return Err(error);
        }
        vault.audit.recorded(&batch);
    }
    Ok(())
}

/// The file that is written is the one at its path. Where there is none and none can be made, that which was moved takes what comes.
fn open_at_its_path(vault: &Vault, place: &mut Option<AuditLog>) -> Result<(), AuditLogError> {
    let is_moved = place.as_ref().is_some_and(|log| !log.is_in_place());
    if place.is_some() && !is_moved {
        return Ok(());
    }
    match Embedded::from(&vault.config.now().directory).open_audit() {
        Ok(log) => {
            if is_moved {
                tracing::info!("the audit file is not at its path any more: a new one is begun");
            }
            *place = log;
            Ok(())
        }
        Err(error) if is_moved => {
            if let Some(before) = vault.audit_moved.due() {
                let error = anyhow::Error::new(error);
                tracing::error!(
                    error = format!("{error:#}"),
                    before,
                    "the audit file is not at its path any more, and no new one can be begun: decisions go to the old one"
                );
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}
