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
    /// The code to pass on when this one arrived from a stream's other agent: an application's own code (0x100 or above)
    /// stays itself between agents that agreed, everything else becomes 0. Our own codes concern one hop only.
    #[must_use]
    pub fn passed_on(self, agreement: CodeAgreement) -> Self {
        if self >= Self::APPLICATION { self.for_peer(agreement) } else { Self::UNSPECIFIED }
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
