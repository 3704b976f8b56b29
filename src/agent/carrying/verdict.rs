//! What a reset code means to a stream (wire.md §9).

use crate::core::reject::ResetCode;

/// What ends with a reset or a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The path alone: the stream goes on on another one.
    Path,
    /// The direction: the other agent, or its application, wants it so.
    Direction,
    /// The stream.
    Stream,
}

/// What a code says. Codes that say nothing, and codes that are not known, are the partner's own: a reset of a path is never
/// sent without a name to an agent that could do anything about it.
#[must_use]
pub fn verdict(code: ResetCode) -> Verdict {
    match code {
        ResetCode::RESUMABLE | ResetCode::MOVED | ResetCode::RETRY => Verdict::Path,
        ResetCode::DENIED | ResetCode::NOT_RESUMABLE | ResetCode::LIMIT | ResetCode::PROTOCOL => Verdict::Stream,
        _ => Verdict::Direction,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_ends_only_by_a_code_that_says_so() {
        let verdicts = [0x10, 0x11, 0x12].map(|code| verdict(ResetCode(code)));
        assert_eq!(verdicts, [Verdict::Path; 3]);
        assert_eq!([0x13, 0x14, 0x15, 0x16].map(|code| verdict(ResetCode(code))), [Verdict::Stream; 4]);
        assert_eq!([0, 0xff, 0x100, 500].map(|code| verdict(ResetCode(code))), [Verdict::Direction; 4]);
    }
}
