//! The policy actor: reads the rules and publishes them, again whenever their file changes or somebody asks.
//!
//! | | |
//! |---|---|
//! | Owns | the task that watches the rules file; the one that looks at live streams after a change; the pause before rules that could not be used are read again; the wait for the next rule to expire |
//! | Receives | `RulesChanged`, `ReadAgain`, `RuleExpired`, and the ends of its tasks |
//! | Sends | `Denied` to the splices of streams that the rules do not allow any more; it publishes to the vault |
//! | Restart | permanent; a restart reads the rules again |
//! | Lost on crash | nothing: the last snapshot stays published |

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::decision::{self, Change};
use super::splices::splice::SpliceMsg;
use super::watch_files;
use crate::clock::{beat, now_unix_ms};
use crate::config::Problems;
use crate::config::relay::RelayConfig;
use crate::core::policy::Snapshot;
use crate::directory::embedded::Embedded;
use crate::supervise::slot::Slot;
use crate::supervise::task::{self, Owned, Panicked};
use crate::vault::Vault;

/// How often rules that cannot be used are read again.
const AGAIN: Duration = Duration::from_secs(10);

/// The longest sleep until a rule expires: by the wall clock, which may be set meanwhile.
const CLOCK: Duration = Duration::from_secs(60);

/// Messages of the policy actor.
#[derive(Debug)]
pub enum PolicyMsg {
    /// The rules file changed, or a reload was asked for.
    RulesChanged,
    /// A rule that was in force has expired.
    RuleExpired(Result<(), Panicked>),
    /// Every live stream was held against the rules.
    StreamsChecked(Result<(), Panicked>),
    /// It is time to read rules again that could not be read.
    ReadAgain(Result<(), Panicked>),
    /// The watching task ended, which it does only by a panic.
    WatchEnded(Result<std::convert::Infallible, Panicked>),
}

/// What the policy actor is started with.
#[derive(Debug, Clone)]
pub struct PolicyArgs {
    /// Its own address.
    pub slot: Slot<PolicyMsg>,
    /// Where the rules are published.
    pub vault: Arc<Vault>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Policy;

/// What the policy actor holds while it runs.
#[derive(Debug)]
pub struct PolicyState {
    slot: Slot<PolicyMsg>,
    vault: Arc<Vault>,
    check: Option<Owned>,
    /// While the newest rules cannot be used.
    again: Option<Owned>,
    /// While a rule is to expire.
    expiry: Option<Owned>,
    /// Whether it was said that the rules are too old.
    is_denying: bool,
    _watch: Owned,
}

impl Actor for Policy {
    type Msg = PolicyMsg;
    type State = PolicyState;
    type Arguments = PolicyArgs;

    async fn pre_start(
        &self,
        _myself: ActorRef<PolicyMsg>,
        args: PolicyArgs,
    ) -> Result<PolicyState, ActorProcessingErr> {
        let vault = Arc::clone(&args.vault);
        args.slot.node().describe(move || {
            let published = vault.policy.current();
            let at = published.at.map(|at| humantime::format_rfc3339_seconds(at).to_string());
            serde_json::json!({ "rules": published.snapshot.len(), "published_at": at })
        });
        // Before the rules are read: a change in between is seen.
        let slot = args.slot.clone();
        let rules = |config: &RelayConfig| config.directory.rules.iter().cloned().collect();
        let watch = watch_files::follow(Arc::clone(&args.vault), rules, move || slot.tell(PolicyMsg::RulesChanged));
        let watch = task::owned(&args.slot, watch, PolicyMsg::WatchEnded);
        if let Err(problems) = publish(&args.vault, Say::Always)
            && args.vault.policy.current().at.is_none()
        {
            // The first start: there is nothing to stay in force.
            return Err(problems.into());
        }
        let mut state = PolicyState {
            slot: args.slot,
            vault: args.vault,
            check: None,
            again: None,
            expiry: None,
            is_denying: false,
            _watch: watch,
        };
        state.look_again();
        // A change that was published by an incarnation that died of it.
        state.check_streams(Change::NewRules);
        state.await_expiry();
        Ok(state)
    }

    async fn handle(
        &self,
        _myself: ActorRef<PolicyMsg>,
        message: PolicyMsg,
        state: &mut PolicyState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PolicyMsg::RulesChanged => {
                state.read(Say::Always);
            }
            PolicyMsg::ReadAgain(waited) => {
                waited?;
                // Where the disk was at fault, or who may read the file, it looks as it did.
                state.read(Say::News);
            }
            PolicyMsg::RuleExpired(waited) => {
                waited?;
                state.check_streams(Change::Expiry);
                state.await_expiry();
            }
            PolicyMsg::StreamsChecked(checked) => {
                checked?;
                state.check = None;
            }
            PolicyMsg::WatchEnded(end) => match end? {},
        }
        Ok(())
    }
}

/// Whether it is said that rules cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Say {
    Always,
    /// Where it was not said before.
    News,
}

impl PolicyState {
    fn read(&mut self, say: Say) {
        // What is wrong is said there; the old rules stay in force.
        if publish(&self.vault, say).is_ok() {
            self.check_streams(Change::NewRules);
        }
        // Also where the old ones stay: whether streams are ended for it may have changed.
        self.await_expiry();
        self.look_again();
    }

    /// Rules that cannot be used are read again and again. Says so once when they are too old to go on under.
    fn look_again(&mut self) {
        self.again = self.vault.policy.current().outdated.map(|_| {
            let wait = tokio::time::sleep_until(beat(AGAIN));
            task::owned(&self.slot, wait, PolicyMsg::ReadAgain)
        });
        let is_denying = decision::are_too_old(&self.vault);
        if is_denying && !self.is_denying {
            tracing::error!("the rules in force are older than directory.max_staleness: what begins now is denied");
        }
        self.is_denying = is_denying;
    }

    /// Where no rule is to expire there is nothing to wait for: an idle relay sleeps.
    fn await_expiry(&mut self) {
        let next = self.vault.policy.current().snapshot.next_expiry(now_unix_ms());
        let next = next.filter(|_| self.vault.config.now().directory.continuous);
        self.expiry = next.map(|at| task::owned(&self.slot, wall_clock(at), PolicyMsg::RuleExpired));
    }

    /// Ends the live streams that the rules do not allow any more. A check that still runs begins anew.
    fn check_streams(&mut self, change: Change) {
        if self.vault.config.now().directory.continuous {
            let check = check_streams(Arc::clone(&self.vault), change);
            self.check = Some(task::owned(&self.slot, check, PolicyMsg::StreamsChecked));
        }
    }
}

/// Waits until the wall clock shows `unix_ms`, in milliseconds since 1970.
async fn wall_clock(unix_ms: i64) {
    while let Ok(left) = u64::try_from(unix_ms.saturating_sub(now_unix_ms()))
        && left > 0
    {
        tokio::time::sleep(Duration::from_millis(left).min(CLOCK)).await;
    }
}

async fn check_streams(vault: Arc<Vault>, change: Change) {
    for stream in vault.traffic.live() {
        // There may be a hundred thousand.
        tokio::task::consume_budget().await;
        if let Some(why) = decision::denied(&vault, &stream, change)
            && let Some(splice) = stream.splice.upgrade()
        {
            Slot::<SpliceMsg>::at(splice).tell(SpliceMsg::Denied(why));
        }
    }
}

/// Reads the rules and publishes them. Rules that cannot be read leave the old ones in force, with a warning that
/// `admin policy` shows too.
fn publish(vault: &Vault, say: Say) -> Result<(), Problems> {
    let read = Embedded::from(&vault.config.now().directory).load_rules(now_unix_ms());
    match read {
        Ok(rules) => {
            for warning in &rules.warnings {
                tracing::warn!(%warning, "rules");
            }
            let snapshot = Snapshot::build(rules.rules);
            tracing::info!(rules = snapshot.len(), "rules published");
            let warnings = rules.warnings.iter().map(ToString::to_string).collect();
            vault.policy.publish(snapshot, SystemTime::now(), warnings);
            Ok(())
        }
        Err(problems) => {
            if vault.policy.not_replaced(&problems) || say == Say::Always {
                tracing::error!(%problems, "the rules cannot be read: the old ones stay in force");
            }
            Err(problems)
        }
    }
}
