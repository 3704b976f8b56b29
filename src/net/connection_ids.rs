//! Connection ids that an endpoint can tell from noise, also those that an earlier one of the same secret gave out.
//!
//! An id is 8 random bytes and 4 bytes of their HMAC-SHA-256. Stateless reset tokens are made from ids (RFC 9000 §10.3.2), and anybody may
//! ask for those of ids that no connection has. With 64 random bits nobody has asked for the id of a connection to come; the other 32 see to
//! it that nearly nobody gets an answer, and that datagrams which are no QUIC get none.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quinn::ConnectionId;
use quinn_proto::{ConnectionIdGenerator, InvalidCid};
use rand::RngExt as _;
use ring::hmac;

const RANDOM: usize = 8;
const CHECK: usize = 4;
const LEN: usize = RANDOM + CHECK;

/// See the module's documentation.
#[derive(Clone)]
pub struct ConnectionIds(Arc<hmac::Key>);

impl fmt::Debug for ConnectionIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectionIds")
    }
}

impl ConnectionIds {
    /// `secret` must be random.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    fn of(&self, random: [u8; RANDOM]) -> [u8; LEN] {
        let mut id = [0; LEN];
        let tag = hmac::sign(&self.0, &random);
        id.iter_mut().zip(random.iter().chain(tag.as_ref())).for_each(|(byte, from)| *byte = *from);
        id
    }
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.of(rand::rng().random()))
    }

    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        let random = cid.first_chunk().ok_or(InvalidCid)?;
        let made = self.of(*random);
        // In the same time, whichever byte differs.
        let differs = made.iter().zip(cid.iter()).fold(0, |all, (made, shown)| all | (made ^ shown));
        if cid.len() == LEN && differs == 0 { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_known_to_whoever_has_the_secret_and_differ() {
        let mut ids = ConnectionIds::new(&[1; 32]);
        let made: HashSet<_> = (0..1_000).map(|_| ids.generate_cid()).collect();
        assert_eq!(made.len(), 1_000);
        let (same, other) = (ConnectionIds::new(&[1; 32]), ConnectionIds::new(&[2; 32]));
        for id in &made {
            assert_eq!(id.len(), ids.cid_len());
            assert!(same.validate(id).is_ok() && other.validate(id).is_err());
        }
    }

    #[test]
    fn an_id_that_differs_in_one_bit_is_none() {
        let mut ids = ConnectionIds::new(&[1; 32]);
        let id = ids.generate_cid();
        for bit in 0..LEN * 8 {
            let mut forged = id.to_vec();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(ids.validate(&ConnectionId::new(&forged)).is_err(), "bit {bit}");
        }
        assert!(ids.validate(&ConnectionId::new(&id[..LEN - 1])).is_err());
        assert!(ids.validate(&ConnectionId::new(&[0; RANDOM - 1])).is_err());
        assert!(ids.validate(&ConnectionId::new(&[])).is_err());
    }
}
