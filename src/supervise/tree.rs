//! A running tree, as who started it holds it: looked at, struck, waited for, stopped in bounded time.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::fault::{self, Fault};
use super::node::Node;
use super::one_for_one::{self, OneForOneArgs};
use super::report::{self, Report};
use super::spec::Exit;
use super::sweeper;
use super::task::Owned;

/// How long a whole tree gets to stop: more than the deadlines of its actors together.
const STOP_DEADLINE: Duration = Duration::from_secs(15);

/// Why a tree did not start: which child, and what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotStarted(String);

/// See the module's documentation.
#[derive(Debug)]
pub struct Tree {
    root: Arc<Node>,
    ended: Ended,
    sweeper: Option<Owned>,
}

impl Tree {
    /// Starts the root and what is below it. An actor that is busy with one message for longer than `hang` is killed, and
    /// `killed` is called.
    ///
    /// # Errors
    /// When a fixed child does not start; nothing runs then.
    pub async fn start(
        args: OneForOneArgs,
        hang: Duration,
        killed: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, NotStarted> {
        let root = Arc::clone(args.slot.node());
        let started = one_for_one::start_root(args).await;
        let ended = Ended::Later(started.map_err(|error| NotStarted(Exit::not_started(&error).into_why()))?);
        let sweeper = Some(sweeper::start(&root, hang, killed));
        Ok(Self { root, ended, sweeper })
    }

    /// The root actor's node.
    #[must_use]
    pub fn root(&self) -> &Arc<Node> {
        &self.root
    }

    /// The live tree.
    #[must_use]
    pub fn report(&self) -> Report {
        Report::of(&self.root)
    }

    /// Does `fault` to the actor that `selector` names.
    ///
    /// # Errors
    /// A sentence: no such actor, several, or it does not run.
    pub async fn inject(&self, selector: &str, fault: Fault) -> Result<(), String> {
        let node = report::find(&self.root, selector)?;
        fault::inject(&node, fault).await.map_err(|error| error.to_string())
    }

    /// Waits until the root has ended; the result says why. Cancel-safe: it may be asked again.
    pub async fn ended(&mut self) -> String {
        self.ended.wait().await.to_string()
    }

    /// Stops all, the last started first, each actor within its deadline; a tree that does not stop is killed.
    ///
    /// # Errors
    /// Why it had failed before, or failed meanwhile.
    pub async fn stop(&mut self) -> Result<(), String> {
        // A supervisor that stops its children is busy for as long as they take.
        self.sweeper = None;
        self.root.stop();
        match tokio::time::timeout(STOP_DEADLINE, self.ended.wait()).await {
            Ok(Exit::Stopped(_)) => Ok(()),
            Ok(failed) => Err(failed.to_string()),
            Err(_elapsed) => {
                tracing::error!(deadline = ?STOP_DEADLINE, "the tree does not stop: killed");
                self.root.kill();
                Ok(())
            }
        }
    }

    /// Kills the root, and with it everything.
    pub fn kill(&self) {
        self.root.kill();
    }
}

/// The end of the root's task, which may be waited for more than once.
#[derive(Debug)]
enum Ended {
    Later(JoinHandle<Exit>),
    Already(Exit),
}

impl Ended {
    async fn wait(&mut self) -> Exit {
        match self {
            Self::Later(task) => {
                let exit = task.await.unwrap_or_else(|error| Exit::Failed(format!("the root's task: {error}")));
                *self = Self::Already(exit.clone());
                exit
            }
            Self::Already(exit) => exit.clone(),
        }
    }
}
