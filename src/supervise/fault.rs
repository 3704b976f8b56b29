//! Kill, panic, hang and stop, on purpose: for an operator's hand and for the fault-injection tests.
//!
//! A panic or a hang has to happen *inside* the actor, whatever its messages are. So a probe is linked under it:
//! the probe's start arrives on the victim's supervision port, where [`Watched`](super::watched) strikes.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::incarnation::Incarnation;
use super::node::Node;

/// What to do to an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// Drop its handler where it awaits; nothing of it runs again.
    Kill = 1,
    /// Panic in its handler.
    Panic = 2,
    /// Never return from its handler.
    Hang = 3,
    /// Stop in order: a supervisor stops its children first. What is permanent comes back.
    Stop = 4,
}

impl Fault {
    pub(super) fn from_u8(value: u8) -> Option<Self> {
        [Self::Kill, Self::Panic, Self::Hang, Self::Stop].into_iter().find(|fault| *fault as u8 == value)
    }
}

/// Why a fault could not be injected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FaultError {
    /// The actor is between two lives, or gone.
    #[error("{0} is not running")]
    NotRunning(String),
    /// It ended while the fault was being injected.
    #[error("{0} ended before the fault reached it")]
    Ended(String),
}

/// Injects `fault`. The exit that follows does not count toward restart intensity.
///
/// # Errors
/// When the actor does not run.
pub async fn inject(node: &Arc<Node>, fault: Fault) -> Result<(), FaultError> {
    let current = node.current().ok_or_else(|| FaultError::NotRunning(node.label()))?;
    if current.is_over() {
        return Err(FaultError::Ended(node.label()));
    }
    let was_spared = current.spare();
    match fault {
        Fault::Kill => {
            current.cell().kill();
            return Ok(());
        }
        Fault::Stop => {
            node.stop();
            return Ok(());
        }
        Fault::Panic | Fault::Hang => {}
    }
    current.set_fault(fault);
    // The probe's own outcome says nothing: it dies with its victim, often before its start is reported.
    match Actor::spawn_linked(None, Probe, (), current.cell().clone()).await {
        Ok(_) => Ok(()),
        Err(_) => {
            if !was_spared {
                current.spare_no_more();
            }
            Err(FaultError::Ended(node.label()))
        }
    }
}

pub(super) fn is_probe(event: &SupervisionEvent) -> bool {
    event.actor_cell().is_some_and(|cell| cell.is_message_type_of::<ProbeMsg>() == Some(true))
}

#[allow(clippy::panic, reason = "this is the injected panic")]
pub(super) async fn strike(incarnation: &Incarnation) -> Result<(), ActorProcessingErr> {
    match incarnation.take_fault() {
        Some(Fault::Panic) => panic!("injected panic"),
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Kill | Fault::Stop) | None => Ok(()),
    }
}

struct Probe;
enum ProbeMsg {}

impl Actor for Probe {
    type Msg = ProbeMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _myself: ActorRef<ProbeMsg>, _args: ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn post_start(&self, myself: ActorRef<ProbeMsg>, _state: &mut ()) -> Result<(), ActorProcessingErr> {
        myself.stop(None);
        Ok(())
    }
}
