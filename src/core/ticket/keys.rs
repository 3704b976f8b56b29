//! The keys of a fleet: the relays that can read one another's tickets have a file in common.
//!
//! One key a line, the newest first: its id, 8 hexadecimal digits, and the key, 64 of them. Empty lines and what follows a
//! `#` count for nothing. The newest key seals; every key in the file opens. To replace a key without refusing anybody: add
//! the new one as the *last* line at every relay, then move it to the top at every relay, and take the old line away once
//! the newest ticket under it has expired (`resume.ticket_life` later). A line that is taken away counts no more at once.

use std::fmt::{self, Write as _};

use chacha20poly1305::aead::KeyInit as _;
use chacha20poly1305::{Key, XChaCha20Poly1305};
use ring::hmac;

/// How long a key is.
pub const KEY_BYTES: usize = 32;
/// How many keys a fleet has at most; two are enough to replace one by another.
pub const KEYS_MAX: usize = 16;
const ID_DIGITS: usize = 8;

/// Which key a ticket is sealed under. No secret; unique among the keys of a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub u32);

/// As in the file.
impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// One key of a fleet. It is shown without its secret.
#[derive(Clone)]
pub struct FleetKey {
    id: KeyId,
    cipher: XChaCha20Poly1305,
    /// For other secrets than that of the tickets.
    root: hmac::Key,
}

impl FleetKey {
    /// `secret` must be random.
    #[must_use]
    pub fn new(id: KeyId, secret: &[u8; KEY_BYTES]) -> Self {
        let cipher = XChaCha20Poly1305::new(&Key::from(*secret));
        Self { id, cipher, root: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }

    /// A secret for `purpose` that is another one for everybody who has this key, and does not tell it (HMAC-SHA-256, as
    /// RFC 5869 §2.3 expands). Always the same.
    #[must_use]
    pub fn derive(&self, purpose: &str, whose: &str) -> [u8; KEY_BYTES] {
        let mut context = hmac::Context::with_key(&self.root);
        context.update(purpose.as_bytes());
        context.update(&[0]);
        context.update(whose.as_bytes());
        context.update(&[1]);
        let mut secret = [0; KEY_BYTES];
        secret.copy_from_slice(context.sign().as_ref());
        secret
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    pub(super) fn cipher(&self) -> &XChaCha20Poly1305 {
        &self.cipher
    }

    /// A line of a key file, without its end.
    #[must_use]
    pub fn line(id: KeyId, secret: &[u8; KEY_BYTES]) -> String {
        let mut line = format!("{id} ");
        for byte in secret {
            // A string takes whatever is written to it.
            write!(line, "{byte:02x}").ok();
        }
        line
    }
}

impl fmt::Debug for FleetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FleetKey({})", self.id)
    }
}

/// The keys of a fleet; see the module. Never empty.
#[derive(Debug, Clone)]
pub struct FleetKeys {
    newest: FleetKey,
    older: Vec<FleetKey>,
}

/// What is wrong with a key file, and where. What stands there is not told: it may be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct KeyFileError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: KeyFileProblem,
}

/// What may be wrong with a line of a key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileProblem {
    /// It is not made of two words.
    #[error("it is not `<id> <key>`")]
    Words,
    /// The id is not as it should be.
    #[error("the id is not made of 8 hexadecimal digits")]
    Id,
    /// The key is not as it should be.
    #[error("the key is not made of 64 hexadecimal digits")]
    Key,
    /// The id stands on an earlier line, too.
    #[error("the key id {0} stands there twice")]
    Twice(KeyId),
    /// There are too many keys.
    #[error("more than {KEYS_MAX} keys")]
    TooMany,
    /// There is no key at all.
    #[error("there is no key")]
    None,
}

impl FleetKeys {
    /// A fleet with one key.
    #[must_use]
    pub fn of(key: FleetKey) -> Self {
        Self { newest: key, older: Vec::new() }
    }

    /// The keys in a file's text.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let mut keys: Vec<FleetKey> = Vec::new();
        let mut lines = 0;
        for (line, text) in (1..).zip(text.lines()) {
            lines = line;
            let wrong = |what| KeyFileError { line, what };
            let text = text.split_once('#').map_or(text, |(before, _)| before).trim();
            if text.is_empty() {
                continue;
            }
            let key = key(text).map_err(wrong)?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(wrong(KeyFileProblem::Twice(key.id)));
            }
            if keys.len() == KEYS_MAX {
                return Err(wrong(KeyFileProblem::TooMany));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(KeyFileError { line: lines.max(1), what: KeyFileProblem::None });
        }
        let older = keys.split_off(1);
        let newest = keys.pop().ok_or(KeyFileError { line: 1, what: KeyFileProblem::None })?;
        Ok(Self { newest, older })
    }

    /// The key that seals.
    #[must_use]
    pub fn newest(&self) -> &FleetKey {
        &self.newest
    }

    /// The key with this id.
    #[must_use]
    pub fn get(&self, id: KeyId) -> Option<&FleetKey> {
        self.all().find(|key| key.id == id)
    }

    /// The ids of all keys, the newest first.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.all().map(FleetKey::id)
    }

    fn all(&self) -> impl Iterator<Item = &FleetKey> {
        std::iter::once(&self.newest).chain(&self.older)
    }
}

fn key(line: &str) -> Result<FleetKey, KeyFileProblem> {
    let mut words = line.split_whitespace();
    let (Some(id), Some(secret), None) = (words.next(), words.next(), words.next()) else {
        return Err(KeyFileProblem::Words);
    };
    let is_hex = |word: &str, digits| word.len() == digits && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex(id, ID_DIGITS) {
        return Err(KeyFileProblem::Id);
    }
    if !is_hex(secret, 2 * KEY_BYTES) {
        return Err(KeyFileProblem::Key);
    }
    let id = u32::from_str_radix(id, 16).map_err(|_| KeyFileProblem::Id)?;
    let mut bytes = [0; KEY_BYTES];
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        let digits = secret.get(at..at + 2).ok_or(KeyFileProblem::Key)?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| KeyFileProblem::Key)?;
    }
    Ok(FleetKey::new(KeyId(id), &bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: u32) -> String {
        FleetKey::line(KeyId(id), &[7; KEY_BYTES])
    }

    fn problem(text: &str) -> (usize, KeyFileProblem) {
        let error = FleetKeys::parse(text).unwrap_err();
        (error.line, error.what)
    }

    #[test]
    fn the_first_line_is_the_newest_key_and_comments_count_for_nothing() {
        let text = format!("# of the fleet\n\n{} # since May\n  {}\r\n", line(0xab), line(2));
        let keys = FleetKeys::parse(&text).unwrap();
        assert_eq!(keys.ids().collect::<Vec<_>>(), [KeyId(0xab), KeyId(2)]);
        assert_eq!(keys.newest().id().to_string(), "000000ab");
        assert!(keys.get(KeyId(2)).is_some() && keys.get(KeyId(3)).is_none());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_without_a_key() {
        let good = line(1);
        assert_eq!(problem(""), (1, KeyFileProblem::None));
        assert_eq!(problem("# nothing\n\n"), (2, KeyFileProblem::None));
        assert_eq!(problem(&format!("{good}\nhello")), (2, KeyFileProblem::Words));
        assert_eq!(problem(&format!("{good} more")), (1, KeyFileProblem::Words));
        assert_eq!(problem(&good.replacen('0', "", 1)), (1, KeyFileProblem::Id));
        assert_eq!(problem(&good.replacen('0', "+", 1)), (1, KeyFileProblem::Id));
        assert_eq!(problem(&good[..good.len() - 1]), (1, KeyFileProblem::Key));
        assert_eq!(problem(&good.replace("07", "0é")), (1, KeyFileProblem::Key));
        assert_eq!(problem(&format!("{good}\n\n{good}")), (3, KeyFileProblem::Twice(KeyId(1))));
        let many: Vec<_> = (0..=16).map(line).collect();
        assert_eq!(problem(&many.join("\n")), (17, KeyFileProblem::TooMany));
        let error = FleetKeys::parse(&good.replace("07", "zz")).unwrap_err();
        assert!(!error.to_string().contains("zz") && error.to_string().starts_with("line 1: "), "{error}");
    }

    #[test]
    fn what_is_derived_depends_on_key_purpose_and_owner_and_on_nothing_else() {
        let key = |byte: u8| FleetKey::new(KeyId(1), &[byte; KEY_BYTES]);
        let derived = key(7).derive("reset", "r1");
        assert_eq!(derived, FleetKey::new(KeyId(2), &[7; KEY_BYTES]).derive("reset", "r1"));
        assert_ne!(derived, [7; KEY_BYTES]);
        for other in [key(8).derive("reset", "r1"), key(7).derive("reset", "r2"), key(7).derive("rese", "tr1")] {
            assert_ne!(derived, other);
        }
    }

    #[test]
    fn a_key_is_shown_without_its_secret() {
        let keys = FleetKeys::parse(&line(1)).unwrap();
        assert_eq!(format!("{keys:?}"), "FleetKeys { newest: FleetKey(00000001), older: [] }");
    }
}
