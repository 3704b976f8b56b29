//! Ends actors that hang: one task looks at all of them, and kills those whose handler has run for too long.
//!
//! It is no actor, so that nothing in the tree, the root included, can keep it from looking.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::beat;

use super::node::Node;
use super::recorder;
use super::task::{self, Owned};

/// Looks at the tree below `root`, it included, a few times within `deadline`, and kills every actor that has been busy
/// with one message for longer, which `killed` hears of each time. Such a kill counts as a failure. Ends with the result.
#[must_use = "the tree is looked at until this is dropped"]
pub fn start(root: &Arc<Node>, deadline: Duration, killed: impl Fn() + Send + Sync + 'static) -> Owned {
    let root = Arc::clone(root);
    task::run(async move {
        loop {
            tokio::time::sleep_until(beat(deadline / 2)).await;
            sweep(&root, deadline, &killed);
        }
    })
}

/// The deepest first: a supervisor that waits for a child that hangs does not hang itself. Whether anything was killed.
fn sweep(node: &Arc<Node>, deadline: Duration, killed: &impl Fn()) -> bool {
    let mut below = false;
    for child in node.children() {
        below |= sweep(&child, deadline, killed);
    }
    let busy = node.busy();
    if below || busy <= deadline {
        return below;
    }
    tracing::error!(actor = %node.label(), ?busy, "actor hangs: killed");
    node.kill();
    killed();
    // Only now: what it says of itself is its own code.
    recorder::dump(node, &format!("it hangs, busy with one message for {busy:?}"));
    true
}
