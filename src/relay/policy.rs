//! The policy actor: reads the rules and publishes them.
//!
//! | | |
//! |---|---|
//! | Owns | nothing that cannot be read again |
//! | Receives | nothing yet: it acts when it starts |
//! | Sends | nothing: it publishes to the vault |
//! | Restart | permanent; a restart reads the rules again |
//! | Lost on crash | nothing: the last snapshot stays published |

use std::sync::Arc;
use std::time::SystemTime;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::clock::now_unix_ms;
use crate::core::policy::Snapshot;
use crate::directory::embedded::Embedded;
use crate::supervise::slot::Slot;
use crate::vault::Vault;

/// Messages of the policy actor: there are none.
#[derive(Debug)]
pub enum PolicyMsg {}

/// What the policy actor is started with.
#[derive(Debug)]
pub struct PolicyArgs {
    /// Its own address.
    pub slot: Slot<PolicyMsg>,
    /// Where the rules are published.
    pub vault: Arc<Vault>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Policy;

impl Actor for Policy {
    type Msg = PolicyMsg;
    type State = ();
    type Arguments = PolicyArgs;

    async fn pre_start(&self, _myself: ActorRef<PolicyMsg>, args: PolicyArgs) -> Result<(), ActorProcessingErr> {
        let vault = Arc::clone(&args.vault);
        args.slot.node().describe(move || {
            let published = vault.policy.current();
            let at = published.at.map(|at| humantime::format_rfc3339_seconds(at).to_string());
            serde_json::json!({ "rules": published.snapshot.len(), "published_at": at })
        });
        publish(&args.vault)
    }
}

/// Reads the rules and publishes them. Rules that cannot be read fail the first start; later the old ones stay.
fn publish(vault: &Vault) -> Result<(), ActorProcessingErr> {
    let directory = Embedded::from(&vault.config.directory);
    match directory.load_rules(now_unix_ms()) {
        Ok(rules) => {
            for warning in &rules.warnings {
                tracing::warn!(%warning, "rules");
            }
            let snapshot = Snapshot::build(rules.rules);
            tracing::info!(rules = snapshot.len(), "rules published");
            vault.policy.publish(snapshot, SystemTime::now(), rules.warnings.iter().map(ToString::to_string).collect());
            Ok(())
        }
        Err(problems) if vault.policy.current().at.is_some() => {
            tracing::error!(%problems, "the rules cannot be read: the old ones stay in force");
            Ok(())
        }
        Err(problems) => Err(problems.into()),
    }
}
