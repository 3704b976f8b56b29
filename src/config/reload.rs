//! What of a newly read configuration a running relay can take over.

use super::document::is_within;
use super::relay::RelayConfig;
use super::{Problem, Problems};

/// What is fixed once the relay runs: who it is, what is bound or opened at the start, and what sizes something that lives
/// as long as the process. Everything else takes effect with a reload.
pub const NEEDS_RESTART: [&str; 16] = [
    "id",
    "region",
    "listen",
    "ready_file",
    "advertise",
    "directory.audit",
    "directory.audit_max_bytes",
    "directory.audit_keep",
    "admin.socket",
    "http.listen",
    "log.format",
    "limits.handler",
    "limits.registry_call",
    "limits.audit_queue",
    "limits.control_queue",
    "quic",
];

/// The keys whose values differ from those in use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// In force from now on.
    pub applied: Vec<String>,
    /// In force after a restart only; until then the old values stay.
    pub needs_restart: Vec<String>,
}

/// The configuration that a relay which runs with `running` goes on with when it is given `loaded`.
///
/// # Errors
/// When a configuration cannot be written as TOML, which none that was read can be.
pub fn take_over(running: &RelayConfig, loaded: &RelayConfig) -> Result<(RelayConfig, Changes), Problems> {
    let table = |config: &RelayConfig| toml::Table::try_from(config).map_err(|error| odd(&error.to_string()));
    let (old, mut new) = (table(running)?, table(loaded)?);
    let mut changes = Changes::default();
    merge(&mut new, &old, "", &mut changes);
    let config = new.try_into().map_err(|error: toml::de::Error| odd(error.message()))?;
    Ok((config, changes))
}

fn merge(new: &mut toml::Table, old: &toml::Table, prefix: &str, changes: &mut Changes) {
    for (key, value) in new.iter_mut() {
        let Some(was) = old.get(key) else { continue };
        let key = format!("{prefix}{key}");
        match (value, was) {
            (toml::Value::Table(value), toml::Value::Table(was)) => merge(value, was, &format!("{key}."), changes),
            (value, was) if value == was => {}
            (value, was) if NEEDS_RESTART.iter().any(|fixed| is_within(&key, fixed)) => {
                *value = was.clone();
                changes.needs_restart.push(key);
            }
            _ => changes.applied.push(key),
        }
    }
}

fn odd(what: &str) -> Problems {
    Problem::new("the configuration", what).into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_can_change_changes_and_the_rest_is_named_and_stays() {
        let running = RelayConfig { id: "r1".into(), region: "acme".into(), ..RelayConfig::default() };
        let mut loaded = running.clone();
        loaded.limits.open = Duration::from_secs(20);
        loaded.limits.streams = 7;
        loaded.log.level = "debug".into();
        loaded.directory.rules = Some("other.toml".into());
        loaded.listen = ([127, 0, 0, 1], 1).into();
        loaded.admin.socket = Some("/run/other".into());
        let (config, changes) = take_over(&running, &loaded).unwrap();
        assert_eq!(changes.applied, ["directory.rules", "limits.open", "limits.streams", "log.level"]);
        assert_eq!(changes.needs_restart, ["admin.socket", "listen"]);
        loaded.listen = running.listen;
        loaded.admin.socket = None;
        assert_eq!(config, loaded);
    }

    #[test]
    fn every_key_that_needs_a_restart_is_one() {
        let table = toml::Table::try_from(RelayConfig::default()).unwrap();
        for key in NEEDS_RESTART {
            let mut path = key.split('.');
            let first = path.next().and_then(|key| table.get(key));
            assert!(path.fold(first, |value, key| value?.get(key)).is_some(), "{key}");
        }
    }
}
