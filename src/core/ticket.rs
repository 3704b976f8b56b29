//! Resume tickets (wire.md §9, `resume-ticket`): what a relay seals for a stream's two agents, so that one which never saw
//! the stream learns from it whose it is.
//!
//! An agent cannot read its ticket, and cannot change a bit of it: it is sealed with XChaCha20-Poly1305 under the
//! [fleet's key](keys). Nonces are 24 random bytes, which never collide in practice; they are passed in, as the time is.
//!
//! | bytes | sealed ticket |
//! |---|---|
//! | 0 | version of this layout: 1 |
//! | 1–4 | key id |
//! | 5–6 | length of the sealed facts, without the tag |
//! | 7–30 | nonce |
//! | 31– | the facts, encrypted, and the tag of 16 bytes; bytes 0–6 are authenticated with them |
//!
//! Numbers are big-endian. `facts.rs` has the layout of what is inside.

use std::fmt;

use chacha20poly1305::aead::{Aead as _, Payload};

use super::identity::{AgentUri, Tenant};
use super::ids::StreamId;
use super::policy::{P2pMode, RelayMode};

mod facts;
pub mod keys;

use keys::{FleetKeys, KeyId};

/// The only layout so far.
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 7;
/// How long a nonce is.
pub const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const OVERHEAD_BYTES: usize = HEADER_BYTES + NONCE_BYTES + TAG_BYTES;

/// No sealed ticket is longer: 721 bytes, with the longest tenant, service and method that there are. One of usual names
/// has about 160.
pub const MAX_BYTES: usize = OVERHEAD_BYTES + facts::MAX_BYTES;

/// How far ahead the clock of the relay that issued a ticket may be, in milliseconds.
pub const SKEW_MS: i64 = 5 * 60 * 1_000;

/// What a ticket says of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TicketFacts {
    /// Which stream, among those of its agents' tenant.
    pub stream_id: StreamId,
    /// Who opened it.
    pub consumer: AgentUri,
    /// Who serves it: an agent of the same tenant.
    pub provider: AgentUri,
    /// The service asked for.
    pub target: String,
    /// As the consumer named it; may be empty.
    pub method: String,
    /// What both sides' rules said of a direct path.
    pub p2p_mode: P2pMode,
    /// How the relay carried it.
    pub relay_mode: RelayMode,
    /// When the ticket was sealed, in milliseconds since 1970.
    pub issued_at_unix_ms: i64,
    /// From when on it is worth nothing, in milliseconds since 1970.
    pub expires_at_unix_ms: i64,
}

impl TicketFacts {
    /// The tenant of both agents.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        self.consumer.tenant()
    }

    /// Whether this is the ticket of `stream_id`, and `agent` is one of the stream's two (architecture §5, invariant 3).
    ///
    /// # Errors
    /// [`TicketError::OtherStream`], [`TicketError::OtherTenant`], [`TicketError::NotAParty`].
    pub fn admits(&self, stream_id: StreamId, agent: &AgentUri) -> Result<(), TicketError> {
        if self.stream_id != stream_id {
            return Err(TicketError::OtherStream);
        }
        if self.tenant() != agent.tenant() {
            return Err(TicketError::OtherTenant);
        }
        if self.consumer != *agent && self.provider != *agent {
            return Err(TicketError::NotAParty);
        }
        Ok(())
    }
}

/// Why a ticket is worth nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TicketError {
    /// It is not as long as it says.
    Truncated,
    /// It has a layout that this program does not know.
    UnknownVersion,
    /// It is sealed under a key that is not among ours.
    UnknownKey,
    /// It was made or changed by somebody who does not have the key.
    Forged,
    /// Whoever sealed it wrote what cannot be read.
    BadContent,
    /// It was issued further in the future than [`SKEW_MS`].
    NotYetValid,
    /// Its time is over.
    Expired,
    /// It is that of another stream.
    OtherStream,
    /// Its stream is one of another tenant.
    OtherTenant,
    /// Its stream is between two other agents.
    NotAParty,
}

impl TicketError {
    /// Every one.
    pub const ALL: &[Self] = &[
        Self::Truncated,
        Self::UnknownVersion,
        Self::UnknownKey,
        Self::Forged,
        Self::BadContent,
        Self::NotYetValid,
        Self::Expired,
        Self::OtherStream,
        Self::OtherTenant,
        Self::NotAParty,
    ];

    /// Whether an agent that does nothing wrong may come with such a ticket: after keys were replaced or lost, or with the
    /// ticket of a relay whose clock or program is another. What is known otherwise still counts then.
    #[must_use]
    pub fn may_be_honest(self) -> bool {
        matches!(self, Self::UnknownVersion | Self::UnknownKey | Self::NotYetValid | Self::Expired)
    }

    /// In words.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Truncated => "the ticket is not whole",
            Self::UnknownVersion => "the ticket has a layout that is not known here",
            Self::UnknownKey => "the ticket is sealed under a key that is not known here",
            Self::Forged => "the ticket is forged",
            Self::BadContent => "the ticket holds what cannot be read",
            Self::NotYetValid => "the ticket is not valid yet",
            Self::Expired => "the ticket has expired",
            Self::OtherStream => "the ticket is that of another stream",
            Self::OtherTenant => "the ticket is that of another tenant",
            Self::NotAParty => "the ticket is that of two other agents",
        }
    }

    /// The name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Truncated => "ticket_truncated",
            Self::UnknownVersion => "ticket_unknown_version",
            Self::UnknownKey => "ticket_unknown_key",
            Self::Forged => "ticket_forged",
            Self::BadContent => "ticket_bad_content",
            Self::NotYetValid => "ticket_not_yet_valid",
            Self::Expired => "ticket_expired",
            Self::OtherStream => "ticket_other_stream",
            Self::OtherTenant => "ticket_other_tenant",
            Self::NotAParty => "ticket_not_a_party",
        }
    }
}

impl fmt::Display for TicketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for TicketError {}

/// Why there can be no ticket of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Service or method is longer than any may be.
    #[error("the {0} is too long for a ticket")]
    TooLong(&'static str),
    /// The two agents are not of one tenant.
    #[error("the two agents are not of one tenant")]
    TwoTenants,
    /// The cipher says so, which it does not for what is this short.
    #[error("it could not be encrypted")]
    Cipher,
}

/// Seals a ticket under the newest key. At most [`MAX_BYTES`]. `nonce` must be random.
///
/// # Errors
/// When there can be no ticket of such a stream.
pub fn seal(keys: &FleetKeys, facts: &TicketFacts, nonce: [u8; NONCE_BYTES]) -> Result<Vec<u8>, SealError> {
    let plain = facts::encode(facts)?;
    let key = keys.newest();
    let header = header(key.id(), plain.len())?;
    let sealed = key.cipher().encrypt(&nonce.into(), Payload { msg: &plain, aad: &header });
    let sealed = sealed.map_err(|_| SealError::Cipher)?;
    Ok([&header, &nonce[..], &sealed].concat())
}

/// Opens a ticket, and looks at its times as of `now_unix_ms`. Whether it is the right one is [`TicketFacts::admits`].
///
/// # Errors
/// Why it is worth nothing.
pub fn open(keys: &FleetKeys, ticket: &[u8], now_unix_ms: i64) -> Result<TicketFacts, TicketError> {
    let (header, rest) = ticket.split_first_chunk::<HEADER_BYTES>().ok_or(TicketError::Truncated)?;
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(TicketError::Truncated)?;
    let [version, id @ .., high, low] = *header;
    if version != VERSION {
        return Err(TicketError::UnknownVersion);
    }
    if usize::from(u16::from_be_bytes([high, low])) + TAG_BYTES != sealed.len() {
        return Err(TicketError::Truncated);
    }
    let key = keys.get(KeyId(u32::from_be_bytes(id))).ok_or(TicketError::UnknownKey)?;
    let plain = key.cipher().decrypt(&(*nonce).into(), Payload { msg: sealed, aad: header });
    let facts = facts::decode(&plain.map_err(|_| TicketError::Forged)?).ok_or(TicketError::BadContent)?;
    if facts.issued_at_unix_ms > now_unix_ms.saturating_add(SKEW_MS) {
        return Err(TicketError::NotYetValid);
    }
    if facts.expires_at_unix_ms <= now_unix_ms {
        return Err(TicketError::Expired);
    }
    Ok(facts)
}

fn header(id: KeyId, len: usize) -> Result<[u8; HEADER_BYTES], SealError> {
    let [high, low] = u16::try_from(len).map_err(|_| SealError::TooLong("content"))?.to_be_bytes();
    let [a, b, c, d] = id.0.to_be_bytes();
    Ok([VERSION, a, b, c, d, high, low])
}

#[cfg(test)]
mod tests;
