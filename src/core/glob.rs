//! Patterns of rules (wire.md §4): `*` matches any run of characters, the empty run and `/` included; every other
//! character is itself.

use std::fmt;
use std::sync::Arc;

/// A pattern. The empty pattern matches only the empty text; that an empty *method* matches everything is a matter of
/// the rule that holds it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern {
    text: Arc<str>,
    /// Bytes that are not `*`. Counted once, because every comparison of two rules asks.
    literal_len: usize,
}

impl Pattern {
    /// Every text is a pattern.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self { text: text.into(), literal_len: text.bytes().filter(|byte| *byte != b'*').count() }
    }

    /// Whether the pattern matches the whole of `text`.
    ///
    /// The first piece must stand at the start, the last at the end, and those between them in order, each as early as
    /// it can: a later place would leave the rest less room. So no way back is needed, and the time is linear in both
    /// lengths whatever the texts hold.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        if self.is_exact() {
            return *self.text == *text;
        }
        let mut pieces = self.text.split('*');
        let first = pieces.next().unwrap_or_default();
        let last = pieces.next_back().unwrap_or_default();
        let Some(mut rest) = text.strip_prefix(first) else {
            return false;
        };
        for piece in pieces {
            match rest.split_once(piece) {
                Some((_, behind)) => rest = behind,
                None => return false,
            }
        }
        rest.ends_with(last)
    }

    /// Whether there is no `*`, so that the pattern matches one text only.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.literal_len == self.text.len()
    }

    /// Bytes that are not `*`.
    #[must_use]
    pub fn literal_len(&self) -> usize {
        self.literal_len
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether some text is matched by both patterns.
    ///
    /// Exact, not an estimate: of two patterns that both hold a `*`, the longer of the starts, the middle pieces of the
    /// one, then of the other, and the longer of the ends together make such a text, provided that starts and ends agree.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        if self.is_exact() {
            return other.matches(&self.text);
        }
        if other.is_exact() {
            return self.matches(&other.text);
        }
        let ((start, end), (other_start, other_end)) = (self.ends(), other.ends());
        let starts_agree = start.starts_with(other_start) || other_start.starts_with(start);
        let ends_agree = end.ends_with(other_end) || other_end.ends_with(end);
        starts_agree && ends_agree
    }

    /// What stands before the first `*` and behind the last.
    fn ends(&self) -> (&str, &str) {
        let start = self.text.split('*').next().unwrap_or_default();
        let end = self.text.rsplit('*').next().unwrap_or_default();
        (start, end)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.as_str())
    }
}
