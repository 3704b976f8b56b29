//! Requests about actors: answered alike by a relay and by an agent.

use std::sync::Arc;

use super::protocol::{Reply, Request, Struck};
use crate::supervise::fault::{self, Fault};
use crate::supervise::node::Node;
use crate::supervise::report::{self, Inspection, Report};

/// Whether an operator may strike actors (`admin.fault_injection`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injection {
    /// `kill`, `panic` and `hang` are served.
    Allowed,
    /// They are refused.
    Refused,
}

impl From<bool> for Injection {
    fn from(allowed: bool) -> Self {
        if allowed { Self::Allowed } else { Self::Refused }
    }
}

/// The answer to a request about actors of the tree below `root`.
///
/// # Errors
/// The request itself, when it is about something else.
pub async fn answer(root: &Arc<Node>, injection: Injection, request: Request) -> Result<Reply, Request> {
    Ok(match request {
        Request::Tree => Reply::done(&Report::of(root)),
        Request::Inspect { actor } => match report::find(root, &actor) {
            Ok(node) => Reply::done(&Inspection::of(&node)),
            Err(why) => Reply::Refused(why),
        },
        Request::Kill { actor } => strike(root, injection, &actor, Fault::Kill).await,
        Request::Panic { actor } => strike(root, injection, &actor, Fault::Panic).await,
        Request::Hang { actor } => strike(root, injection, &actor, Fault::Hang).await,
        other => return Err(other),
    })
}

async fn strike(root: &Arc<Node>, injection: Injection, selector: &str, fault: Fault) -> Reply {
    if injection == Injection::Refused {
        return Reply::Refused("fault injection is off: set admin.fault_injection = true".to_owned());
    }
    let node = match report::find(root, selector) {
        Ok(node) => node,
        Err(why) => return Reply::Refused(why),
    };
    let struck = Struck { id: node.id(), actor: node.label() };
    tracing::warn!(actor = %struck.actor, id = struck.id, ?fault, "fault injected by an operator");
    match fault::inject(&node, fault).await {
        Ok(()) => Reply::done(&struck),
        Err(error) => Reply::Refused(error.to_string()),
    }
}
