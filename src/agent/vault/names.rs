//! What the names of relays stood for when they were last looked up.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::types::HostPort;

/// So many names are remembered.
const NAMES: usize = 32;

/// See the module.
#[derive(Debug, Default)]
pub struct Names(Mutex<Vec<(HostPort, Vec<SocketAddr>)>>);

impl Names {
    /// A name was found to stand for these addresses.
    pub fn remember(&self, name: &HostPort, addresses: &[SocketAddr]) {
        let mut names = self.lock();
        names.retain(|(whose, _)| whose != name);
        if names.len() == NAMES {
            names.remove(0);
        }
        names.push((name.clone(), addresses.to_vec()));
    }

    /// What a name stood for when it was last found; empty if it never was.
    #[must_use]
    pub fn last(&self, name: &HostPort) -> Vec<SocketAddr> {
        self.lock().iter().find(|(whose, _)| whose == name).map(|(_, addresses)| addresses.clone()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(HostPort, Vec<SocketAddr>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_addresses_of_a_name_are_remembered_and_of_the_last_names_only() {
        let names = Names::default();
        let name = |n: usize| format!("relay{n}:7443").parse::<HostPort>().unwrap();
        let address = |n: u8| [SocketAddr::from(([10, 0, 0, n], 7443))];
        names.remember(&name(0), &address(1));
        names.remember(&name(0), &address(2));
        assert_eq!((names.last(&name(0)), names.last(&name(1))), (address(2).to_vec(), Vec::new()));
        (1..=NAMES).for_each(|n| names.remember(&name(n), &address(3)));
        assert!(names.last(&name(0)).is_empty() && !names.last(&name(1)).is_empty());
    }
}
