//! The frame codec: an 8-byte header, then a protobuf payload (wire.md §2).
//!
//! One table below holds every frame type. Reading from a stream is `net::framed`'s business: it must not take a byte
//! past the frame, nor allocate from a claimed length, so header and payload are decoded apart here.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::proto::orp as pb;

/// Bytes of a header.
pub const HEADER_LEN: usize = 8;
/// The version in every header.
pub const VERSION: u8 = 1;
/// The longest payload that a header may claim, in bytes. The configured limit is far lower, and it is that one which
/// bounds the memory a peer can make us use: decoding may take some 20 times the payload.
pub const MAX_PAYLOAD: u32 = 1 << 24;

const CODE_BITS: u32 = 11;
const CODE_MASK: u16 = (1 << CODE_BITS) - 1;
const VERSION_SHIFT: u32 = 13;

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The header's version is not [`VERSION`].
    #[error("frame version {0}, only {VERSION} is spoken here")]
    Version(u8),
    /// The header claims more than is allowed.
    #[error("a payload of {len} bytes is claimed, at most {limit} are allowed")]
    TooLarge {
        /// What the header claims, in bytes.
        len: u32,
        /// What is allowed, in bytes.
        limit: u32,
    },
    /// The payload is not the message that the type promises.
    #[error("the payload of {frame} cannot be decoded")]
    Payload {
        /// The frame's name.
        frame: &'static str,
        /// What protobuf says.
        source: prost::DecodeError,
    },
}

/// The first 8 bytes of a frame. Reserved bits and flags are sent as 0 and ignored when read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The frame type, 11 bits; not necessarily one that is known here.
    pub code: u16,
    /// Bytes of payload that follow.
    pub len: u32,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// [`FrameError::Version`], or [`FrameError::TooLarge`] above [`MAX_PAYLOAD`].
    pub fn decode(bytes: [u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let [b0, b1, _, _, l0, l1, l2, l3] = bytes;
        let head = u16::from_be_bytes([b0, b1]);
        let version = b0 >> (VERSION_SHIFT - 8);
        let len = u32::from_be_bytes([l0, l1, l2, l3]);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if len > MAX_PAYLOAD {
            let limit = MAX_PAYLOAD;
            return Err(FrameError::TooLarge { len, limit });
        }
        let code = head & CODE_MASK;
        Ok(Self { code, len })
    }

    /// Writes a header. Of `code` only the low 11 bits have room.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let head = (u16::from(VERSION) << VERSION_SHIFT) | (self.code & CODE_MASK);
        let [b0, b1] = head.to_be_bytes();
        let [l0, l1, l2, l3] = self.len.to_be_bytes();
        [b0, b1, 0, 0, l0, l1, l2, l3]
    }
}

macro_rules! frames {
    (
        messages { $($message:ident($payload:ty) = $message_code:literal, $message_name:literal;)* }
        empty { $($empty:ident = $empty_code:literal, $empty_name:literal;)* }
        reserved { $($reserved:ident = $reserved_code:literal, $reserved_name:literal;)* }
    ) => {
        /// Every frame type of wire.md §2 and §9, the reserved ones included.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum FrameType {
            $(#[doc = $message_name] $message = $message_code,)*
            $(#[doc = $empty_name] $empty = $empty_code,)*
            $(#[doc = concat!($reserved_name, ", reserved")] $reserved = $reserved_code,)*
        }

        impl FrameType {
            /// Every type, in the order of the table.
            pub const ALL: &[Self] = &[
                $(Self::$message,)* $(Self::$empty,)* $(Self::$reserved,)*
            ];

            /// The 11 bits on the wire.
            #[must_use]
            pub fn code(self) -> u16 {
                self as u16
            }

            /// The type with this code, if it is in the table.
            #[must_use]
            pub fn from_code(code: u16) -> Option<Self> {
                match code {
                    $($message_code => Some(Self::$message),)*
                    $($empty_code => Some(Self::$empty),)*
                    $($reserved_code => Some(Self::$reserved),)*
                    _ => None,
                }
            }

            /// The name in wire.md.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$message => $message_name,)*
                    $(Self::$empty => $empty_name,)*
                    $(Self::$reserved => $reserved_name,)*
                }
            }
        }

        /// A frame as it is read or written.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub enum Frame {
            $(#[doc = $message_name] $message($payload),)*
            $(#[doc = concat!($empty_name, "; a payload is ignored")] $empty,)*
            /// A type that wire.md reserves; its payload is dropped.
            Reserved(FrameType),
            /// A type that is not in the table; its payload is dropped.
            Unknown(u16),
        }

        impl Frame {
            /// The type, unless it is unknown.
            #[must_use]
            pub fn frame_type(&self) -> Option<FrameType> {
                match self {
                    $(Self::$message(_) => Some(FrameType::$message),)*
                    $(Self::$empty => Some(FrameType::$empty),)*
                    Self::Reserved(reserved) => Some(*reserved),
                    Self::Unknown(_) => None,
                }
            }

            /// Reads the payload that followed a header with this code.
            ///
            /// # Errors
            /// [`FrameError::Payload`] when it is not the type's message.
            pub fn decode(code: u16, payload: &[u8]) -> Result<Self, FrameError> {
                let Some(frame_type) = FrameType::from_code(code) else {
                    return Ok(Self::Unknown(code));
                };
                match frame_type {
                    $(FrameType::$message => message(frame_type, payload).map(Self::$message),)*
                    $(FrameType::$empty => Ok(Self::$empty),)*
                    $(FrameType::$reserved => Ok(Self::Reserved(frame_type)),)*
                }
            }

            /// Appends the frame, header and payload. Reserved and unknown frames, which this program never sends,
            /// get an empty payload: what they carried was dropped when they were read.
            pub fn encode_into(&self, out: &mut BytesMut) {
                match self {
                    $(Self::$message(message) => append(FrameType::$message.code(), message, out),)*
                    $(Self::$empty => append(FrameType::$empty.code(), &(), out),)*
                    Self::Reserved(reserved) => append(reserved.code(), &(), out),
                    Self::Unknown(code) => append(*code, &(), out),
                }
            }
        }
    };
}

frames! {
    messages {
        Hello(pb::Hello) = 0x001, "HELLO";
        HelloAck(pb::HelloAck) = 0x002, "HELLO_ACK";
        Register(pb::Register) = 0x003, "REGISTER";
        RegisterAck(pb::RegisterAck) = 0x004, "REGISTER_ACK";
        Deregister(pb::Deregister) = 0x007, "DEREGISTER";
        OpenStream(pb::OpenStream) = 0x010, "OPEN_STREAM";
        IncomingStream(pb::IncomingStream) = 0x011, "INCOMING_STREAM";
        StreamReject(pb::StreamReject) = 0x013, "STREAM_REJECT";
        GoAway(pb::GoAway) = 0x0FF, "GOAWAY";
        StreamEnd(pb::StreamEnd) = 0x103, "STREAM_END";
        StreamCheckpoint(pb::StreamCheckpoint) = 0x110, "STREAM_CHECKPOINT";
        StreamResume(pb::StreamResume) = 0x111, "STREAM_RESUME";
        ObservedAddrQuery(pb::ObservedAddrQuery) = 0x120, "OBSERVED_ADDR_QUERY";
        ObservedAddrResp(pb::ObservedAddrResp) = 0x121, "OBSERVED_ADDR_RESP";
        CandidateOffer(pb::CandidateOffer) = 0x122, "CANDIDATE_OFFER";
        CandidateAnswer(pb::CandidateAnswer) = 0x123, "CANDIDATE_ANSWER";
        MigrateToP2p(pb::MigrateToP2p) = 0x124, "MIGRATE_TO_P2P";
        MigrateToRelay(pb::MigrateToRelay) = 0x125, "MIGRATE_TO_RELAY";
        ForwardStream(pb::ForwardStream) = 0x140, "FORWARD_STREAM";
        PeerHello(pb::PeerHello) = 0x141, "PEER_HELLO";
        AllocGranted(pb::AllocGranted) = 0x151, "ALLOC_GRANTED";
        StreamReady(pb::StreamReady) = 0x152, "STREAM_READY";
        ForwardResume(pb::ForwardResume) = 0x153, "FORWARD_RESUME";
        Ticket(pb::Ticket) = 0x154, "TICKET";
        ResumeWanted(pb::ResumeWanted) = 0x155, "RESUME_WANTED";
    }
    empty {
        StreamAccept = 0x012, "STREAM_ACCEPT";
        Ping = 0x020, "PING";
        Pong = 0x021, "PONG";
    }
    reserved {
        Resolve = 0x005, "RESOLVE";
        ResolveResp = 0x006, "RESOLVE_RESP";
        PolicyUpdate = 0x030, "POLICY_UPDATE";
        MetricReport = 0x040, "METRIC_REPORT";
        StreamInit = 0x100, "STREAM_INIT";
        Data = 0x101, "DATA";
        Fin = 0x102, "FIN";
    }
}

impl Frame {
    /// The frame's bytes, header and payload.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode_into(&mut out);
        out.freeze()
    }

    /// The name in wire.md, or `unknown`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.frame_type().map_or("unknown", FrameType::name)
    }
}

fn message<M: Message + Default>(frame: FrameType, payload: &[u8]) -> Result<M, FrameError> {
    M::decode(payload).map_err(|source| FrameError::Payload { frame: frame.name(), source })
}

fn append(code: u16, message: &impl Message, out: &mut BytesMut) {
    let payload_len = message.encoded_len();
    // Our own messages are far below 4 GiB; a longer one would be refused by any reader for the length it claims.
    let len = u32::try_from(payload_len).unwrap_or(u32::MAX);
    out.reserve(HEADER_LEN + payload_len);
    out.put_slice(&Header { code, len }.encode());
    let written = message.encode(out);
    debug_assert!(written.is_ok(), "a BytesMut grows as needed");
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
