//! Ends actors that hang: one task looks at all of them, and kills those whose handler has run for too long.
//!
//! It is no actor, so that nothing in the tree, the root included, can keep it from looking.

use std::sync::Arc;
use std::time::Duration;

use super::node::Node;
use super::task::{self, Owned};

/// Looks at the tree below `root`, it included, a few times within `deadline`, and kills every actor that has been busy
/// with one message for longer. Such a kill counts as a failure. Ends with the result.
#[must_use = "the tree is looked at until this is dropped"]
pub fn start(root: &Arc<Node>, deadline: Duration) -> Owned {
    let root = Arc::clone(root);
    task::run(async move {
        let mut beat = tokio::time::interval(deadline / 2);
        loop {
            beat.tick().await;
            sweep(&root, deadline);
        }
    })
}

fn sweep(node: &Arc<Node>, deadline: Duration) {
    let busy = node.busy();
    if busy > deadline {
        tracing::error!(actor = %node.label(), ?busy, "actor hangs: killed");
        node.kill();
        // What is below it dies with it.
        return;
    }
    for child in node.children() {
        sweep(&child, deadline);
    }
}
