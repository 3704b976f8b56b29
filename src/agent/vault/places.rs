//! How many streams may live at once, each with a local socket.

/// Files that streams leave open to others: the agent's own, about 20 beside its listeners and admin clients, and what it needs to find its way back
/// to a relay, which is to read its credentials and to look a name up.
const FILES_KEPT: usize = 48;

/// How many streams may live at once: as many as are allowed, or as the files that may be open leave room for.
/// `others` are its listeners and its admin clients.
pub(super) fn most(allowed: usize, files: usize, others: usize) -> usize {
    // With fewer there is nothing to divide: accepting fails, and is tried again.
    let room = files.saturating_sub(FILES_KEPT + others).max(1);
    if allowed > room {
        tracing::warn!(
            "limits.streams" = allowed,
            open_files = files,
            streams = room,
            "fewer streams may live at once than are allowed: each has a file open (ulimit -n, LimitNOFILE)"
        );
    }
    allowed.min(room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_leave_files_to_the_rest() {
        assert_eq!(most(8192, 20_000, 3), 8192);
        assert_eq!(most(8192, 1024, 3), 1024 - 3 - FILES_KEPT);
        assert_eq!(most(8192, 20, 3), 1);
        assert_eq!(most(8192, usize::MAX, 0), 8192);
    }
}
