//! Every way in which a peer is told no: reject codes (wire.md §4) and the codes of resets and stops (wire.md §9).

use std::fmt;

use crate::core::ids::StreamId;
use crate::proto::orp as pb;

macro_rules! reject_codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal;)*) => {
        /// The code of a STREAM_REJECT. This is the one table: every refusal that a peer can see is one of these.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum RejectCode {
            $($(#[$doc])* $variant = $code,)*
        }

        impl RejectCode {
            /// Every code, ascending.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The number on the wire.
            #[must_use]
            pub fn code(self) -> u32 {
                self as u32
            }

            /// The code with this number, if it is in the table.
            #[must_use]
            pub fn from_code(code: u32) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The name in words, for logs and metrics.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

reject_codes! {
    /// The request itself is wrong: not the expected frame, or a malformed service name.
    BadRequest = 400, "bad request";
    /// A rule, or the absence of one, forbids it; either side's.
    Denied = 403, "denied";
    /// No provider of the service in the caller's tenant.
    NotFound = 404, "not found";
    /// The stream id is in use between two other agents.
    Conflict = 409, "conflict";
    /// The stream does not exist any more (the answer to RESUME_WANTED).
    Gone = 410, "gone";
    /// A limit of the configuration is reached.
    Limit = 429, "limit";
    /// No provider could be reached in time.
    BadGateway = 502, "bad gateway";
    /// The provider itself said no.
    ProviderRejected = 503, "provider rejected";
}

/// A refusal with its reason, as a STREAM_REJECT carries it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reject {
    /// What kind of refusal.
    pub code: RejectCode,
    /// Why, for the person who reads the other agent's log.
    pub reason: String,
}

impl Reject {
    /// A refusal.
    pub fn new(code: RejectCode, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { code, reason }
    }

    /// The frame's message. `stream_id` is 0 on the stream that is refused, and names that stream on the control stream
    /// (wire.md §2).
    #[must_use]
    pub fn to_message(&self, stream_id: StreamId) -> pb::StreamReject {
        pb::StreamReject { code: self.code.code(), reason: self.reason.clone(), stream_id: stream_id.0 }
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, reason } = self;
        write!(f, "{} {}: {reason}", code.code(), code.name())
    }
}

/// Whether both agents of a stream named `resume-code`, so that reset codes mean something between them (wire.md §9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CodeAgreement {
    /// Both named it.
    Both,
    /// At least one did not: every code is sent as 0.
    None,
}

/// The application error code of a reset, a STOP_SENDING or a connection close (wire.md §9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ResetCode(pub u64);

macro_rules! reset_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        impl ResetCode {
            $($(#[$doc])* pub const $name: Self = Self($code);)*

            /// The code's name, unless it is an application's own.
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

reset_codes! {
    /// Nothing is said; the only code that a legacy peer sends or is sent.
    UNSPECIFIED = 0x00;
    /// The path was cut: resume the stream.
    RESUMABLE = 0x10;
    /// The stream goes on elsewhere.
    MOVED = 0x11;
    /// Nothing was delivered: open again.
    RETRY = 0x12;
    /// A rule forbids it.
    DENIED = 0x13;
    /// The stream cannot be resumed.
    NOT_RESUMABLE = 0x14;
    /// A limit of the configuration is reached.
    LIMIT = 0x15;
    /// The peer broke the protocol.
    PROTOCOL = 0x16;
    /// The lowest code of the applications' own range; what our agent sends when its local socket was reset.
    APPLICATION = 0x100;
}

impl ResetCode {
    /// The code to pass on when this one arrived from a stream's other agent: between agents that agreed, an application's own
    /// code (0x100 or above) stays itself, and so do `RESUMABLE` and `MOVED`: an agent that leaves a path for another one must
    /// not look like an application that cuts its stream. Everything else becomes 0: it concerns one hop only.
    #[must_use]
    pub fn passed_on(self, agreement: CodeAgreement) -> Self {
        match self {
            Self::RESUMABLE | Self::MOVED => self.for_peer(agreement),
            code if code >= Self::APPLICATION => code.for_peer(agreement),
            _ => Self::UNSPECIFIED,
        }
    }

    /// The code to send when it is we who reset: itself if both agents agreed, else 0.
    #[must_use]
    pub fn for_peer(self, agreement: CodeAgreement) -> Self {
        match agreement {
            CodeAgreement::Both => self,
            CodeAgreement::None => Self::UNSPECIFIED,
        }
    }
}

/// `0x10 RESUMABLE`; an application's own code has no name: `0x1f4`.
impl fmt::Display for ResetCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{:#04x} {name}", self.0),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_refusals_holds_the_codes_of_the_wire() {
        let codes: Vec<u32> = RejectCode::ALL.iter().map(|code| code.code()).collect();
        assert_eq!(codes, [400, 403, 404, 409, 410, 429, 502, 503]);
        for code in RejectCode::ALL {
            assert_eq!(RejectCode::from_code(code.code()), Some(*code));
        }
        assert_eq!(RejectCode::from_code(200), None);
    }

    #[test]
    fn a_refusal_reads_code_name_and_reason_and_becomes_a_frame() {
        let reject = Reject::new(RejectCode::NotFound, "no provider of svc");
        assert_eq!(reject.to_string(), "404 not found: no provider of svc");
        let message = reject.to_message(StreamId(7));
        assert_eq!((message.code, message.stream_id), (404, 7));
        assert_eq!(message.reason, reject.reason);
    }

    #[test]
    fn reset_codes_are_those_of_the_wire() {
        let named = |code: u64| ResetCode(code).name();
        assert_eq!(named(0x00), Some("UNSPECIFIED"));
        assert_eq!(named(0x10), Some("RESUMABLE"));
        assert_eq!(named(0x11), Some("MOVED"));
        assert_eq!(named(0x12), Some("RETRY"));
        assert_eq!(named(0x13), Some("DENIED"));
        assert_eq!(named(0x14), Some("NOT_RESUMABLE"));
        assert_eq!(named(0x15), Some("LIMIT"));
        assert_eq!(named(0x16), Some("PROTOCOL"));
        assert_eq!(named(0x17), None);
        assert_eq!(ResetCode::RESUMABLE.to_string(), "0x10 RESUMABLE");
        assert_eq!(ResetCode::UNSPECIFIED.to_string(), "0x00 UNSPECIFIED");
        assert_eq!(ResetCode(500).to_string(), "0x1f4");
    }

    #[test]
    fn an_applications_code_and_that_of_a_path_are_passed_on_between_agents_that_agreed_and_no_other() {
        use CodeAgreement::{Both, None};
        for (code, agreement, passed) in [
            (0x100, Both, 0x100),
            (u64::MAX, Both, u64::MAX),
            (0xff, Both, 0),
            (0x10, Both, 0x10),
            (0x11, Both, 0x11),
            (0x12, Both, 0),
            (0x100, None, 0),
            (0x10, None, 0),
            (0, Both, 0),
        ] {
            let code = ResetCode(code).passed_on(agreement);
            assert_eq!(code, ResetCode(passed));
        }
    }

    #[test]
    fn our_own_code_is_sent_to_agents_that_agreed_and_0_to_others() {
        let code = ResetCode::RESUMABLE;
        assert_eq!(code.for_peer(CodeAgreement::Both), code);
        assert_eq!(code.for_peer(CodeAgreement::None), ResetCode::UNSPECIFIED);
    }
}
