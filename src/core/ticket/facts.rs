//! What is inside a ticket, as bytes.
//!
//! | field | bytes |
//! |---|---|
//! | stream id | 8 |
//! | issued at, expires at | 8 each, signed |
//! | p2p mode, relay mode | 1 each, the codes of wire.md §8 |
//! | tenant | 1 length, then so many |
//! | consumer's UUID, provider's UUID | 36 each, as written in their URIs |
//! | target service | 1 length, then so many |
//! | method | 1 length, then so many |
//!
//! Nothing stands behind that. Both URIs are made of the one tenant, so a ticket across tenants cannot be written.

use super::{SealError, TicketFacts};
use crate::core::identity::{AgentUri, Tenant};
use crate::core::ids::StreamId;
use crate::core::open::METHOD_MAX_BYTES;
use crate::core::policy::{P2pMode, RelayMode};

const UUID_BYTES: usize = 36;
const TENANT_MAX_BYTES: usize = 63;
const TEXT_MAX_BYTES: usize = 255;
const _: () = assert!(METHOD_MAX_BYTES <= TEXT_MAX_BYTES, "a method's length has one byte");

/// The longest that [`encode`] gives.
pub(super) const MAX_BYTES: usize =
    3 * 8 + 2 + (1 + TENANT_MAX_BYTES) + 2 * UUID_BYTES + (1 + TEXT_MAX_BYTES) + (1 + TEXT_MAX_BYTES);

pub(super) fn encode(facts: &TicketFacts) -> Result<Vec<u8>, SealError> {
    if facts.consumer.tenant() != facts.provider.tenant() {
        return Err(SealError::TwoTenants);
    }
    let mut bytes = Vec::with_capacity(MAX_BYTES);
    bytes.extend(facts.stream_id.0.to_be_bytes());
    bytes.extend(facts.issued_at_unix_ms.to_be_bytes());
    bytes.extend(facts.expires_at_unix_ms.to_be_bytes());
    for code in [facts.p2p_mode.code(), facts.relay_mode.code()] {
        bytes.push(u8::try_from(code).map_err(|_| SealError::TooLong("mode"))?);
    }
    text(&mut bytes, "tenant", facts.tenant().as_str())?;
    // An AgentUri's last segment is a UUID: always 36 bytes.
    bytes.extend(facts.consumer.uuid().as_bytes());
    bytes.extend(facts.provider.uuid().as_bytes());
    text(&mut bytes, "service", &facts.target)?;
    text(&mut bytes, "method", &facts.method)?;
    Ok(bytes)
}

fn text(bytes: &mut Vec<u8>, what: &'static str, text: &str) -> Result<(), SealError> {
    bytes.push(u8::try_from(text.len()).map_err(|_| SealError::TooLong(what))?);
    bytes.extend(text.as_bytes());
    Ok(())
}

/// `None` for anything that [`encode`] does not write.
pub(super) fn decode(bytes: &[u8]) -> Option<TicketFacts> {
    let mut rest = bytes;
    let stream_id = StreamId(u64::from_be_bytes(array(&mut rest)?));
    let issued_at_unix_ms = i64::from_be_bytes(array(&mut rest)?);
    let expires_at_unix_ms = i64::from_be_bytes(array(&mut rest)?);
    let [p2p_mode, relay_mode] = array(&mut rest)?;
    let tenant: Tenant = read_text(&mut rest)?.parse().ok()?;
    let consumer = read_agent(&mut rest, &tenant)?;
    let provider = read_agent(&mut rest, &tenant)?;
    let (target, method) = (read_text(&mut rest)?.to_owned(), read_text(&mut rest)?.to_owned());
    let facts = TicketFacts {
        stream_id,
        consumer,
        provider,
        target,
        method,
        p2p_mode: P2pMode::from_code(p2p_mode.into())?,
        relay_mode: RelayMode::from_code(relay_mode.into())?,
        issued_at_unix_ms,
        expires_at_unix_ms,
    };
    rest.is_empty().then_some(facts)
}

fn array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk::<N>()?;
    *rest = left;
    Some(*taken)
}

fn read_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let (len, left) = rest.split_first()?;
    let (taken, left) = left.split_at_checked(usize::from(*len))?;
    *rest = left;
    std::str::from_utf8(taken).ok()
}

fn read_agent(rest: &mut &[u8], tenant: &Tenant) -> Option<AgentUri> {
    let uuid: [u8; UUID_BYTES] = array(rest)?;
    AgentUri::new(tenant, std::str::from_utf8(&uuid).ok()?).ok()
}
