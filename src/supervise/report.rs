//! The live tree as data, for the admin socket and for tests.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::node::{Node, Status};
use super::recorder::Recorded;
use crate::clock::unix_ms;

/// One actor and those below it, as `admin tree --json` prints them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Unique in the process, and the same across restarts.
    pub id: u64,
    /// The actor's kind.
    pub kind: String,
    /// What tells it from others of its kind; empty for singletons.
    pub name: String,
    /// Where it is in its life.
    pub status: Status,
    /// How often it was started again.
    pub restarts: u64,
    /// When the running incarnation started, in milliseconds since 1970; absent before the first start.
    pub started_at: Option<u64>,
    /// Why the incarnation before this one ended.
    pub last_exit: Option<String>,
    /// Messages that wait.
    pub mailbox: usize,
    /// For how long the message in hand has been handled, in milliseconds; 0 while idle.
    pub busy_ms: u64,
    /// What the actor says of itself.
    pub detail: serde_json::Value,
    /// In the order in which they were started.
    pub children: Vec<Report>,
}

impl Report {
    /// The tree from `node` down, as it stands now.
    #[must_use]
    pub fn of(node: &Arc<Node>) -> Self {
        Self { children: node.children().iter().map(Self::of).collect(), ..Self::of_one(node) }
    }

    /// `node` alone, without those below it.
    #[must_use]
    pub fn of_one(node: &Arc<Node>) -> Self {
        Self {
            id: node.id(),
            kind: node.kind().to_owned(),
            name: node.name().to_owned(),
            status: node.status(),
            restarts: node.restarts(),
            started_at: node.started_at().map(unix_ms),
            last_exit: node.last_exit(),
            mailbox: node.mailbox(),
            busy_ms: u64::try_from(node.busy().as_millis()).unwrap_or(u64::MAX),
            detail: node.detail(),
            children: Vec::new(),
        }
    }

    /// Every actor from here down, this one first.
    pub fn walk(&self) -> impl Iterator<Item = &Report> {
        let mut pending = vec![self];
        std::iter::from_fn(move || {
            let next = pending.pop()?;
            pending.extend(next.children.iter().rev());
            Some(next)
        })
    }
}

/// One actor in full, as `admin inspect --json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// It, and those below it.
    #[serde(flatten)]
    pub report: Report,
    /// How its earlier incarnations ended, the oldest first.
    pub exits: Vec<Recorded>,
    /// The last messages that it dealt with, the oldest first.
    pub messages: Vec<Recorded>,
    /// What is recorded of the stream that it carries, if it carries one, the oldest first.
    pub stream: Vec<Recorded>,
}

impl Inspection {
    /// What is known of `node` now.
    #[must_use]
    pub fn of(node: &Arc<Node>) -> Self {
        Self {
            report: Report::of(node),
            exits: node.recorder().ends(),
            messages: node.recorder().events(),
            stream: node.recorded_elsewhere(),
        }
    }
}

/// The node that `selector` names at or below `root`: an id, a `kind`, or `kind:name`.
///
/// # Errors
/// A sentence for the operator: nothing matches, or several do.
pub fn find(root: &Arc<Node>, selector: &str) -> Result<Arc<Node>, String> {
    let wanted_id = selector.parse::<u64>().ok();
    let mut pending = vec![Arc::clone(root)];
    let mut found: Vec<Arc<Node>> = Vec::new();
    while let Some(node) = pending.pop() {
        pending.extend(node.children().into_iter().rev());
        if wanted_id == Some(node.id()) || node.kind() == selector || node.label() == selector {
            found.push(node);
        }
    }
    match found.as_slice() {
        [one] => Ok(Arc::clone(one)),
        [] => Err(format!("no actor `{selector}`: give an id, a kind, or kind:name, as `tree` shows them")),
        several => Err(format!(
            "`{selector}` names {} actors ({}{}): give an id or kind:name",
            several.len(),
            several.iter().take(3).map(|node| format!("{}={}", node.id(), node.label())).collect::<Vec<_>>().join(", "),
            if several.len() > 3 { ", …" } else { "" },
        )),
    }
}
