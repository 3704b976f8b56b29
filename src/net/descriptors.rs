//! How many files the process may have open: each local socket is one. (QUIC needs one for all its connections.)
//!
//! What is there by default, 1024, is meant for programs that cannot count further; the hard limit is the one that an operator sets.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit as far as it goes, for the whole process and what it starts. Where the system does not let it, the limit stays.
pub fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => tracing::debug!(before = ?current, now = ?maximum, "more files may be open"),
        Err(error) => tracing::debug!(%error, limit = ?current, "the limit of open files cannot be raised"),
    }
}

/// How many files may be open, those that are included; `usize::MAX` where that is not limited.
#[must_use]
pub fn limit() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
