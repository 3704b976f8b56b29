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

#[cfg(test)]
pub(in crate::core) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, word for word, in exponential time.
    pub(in crate::core) fn naive(pattern: &str, text: &str) -> bool {
        match pattern.chars().next() {
            None => text.is_empty(),
            Some('*') => {
                let rest = &pattern[1..];
                let mut starts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
                starts.any(|at| naive(rest, &text[at..]))
            }
            Some(c) => text.strip_prefix(c).is_some_and(|rest| naive(&pattern[c.len_utf8()..], rest)),
        }
    }

    fn matches(pattern: &str, text: &str) -> bool {
        Pattern::new(pattern).matches(text)
    }

    #[test]
    fn a_pattern_without_star_matches_itself_alone() {
        assert!(matches("svc-a", "svc-a"));
        assert!(!matches("svc-a", "svc-ab"));
        assert!(!matches("svc-a", "xsvc-a"));
        assert!(!matches("svc-a", ""));
    }

    #[test]
    fn the_empty_pattern_matches_the_empty_text_alone() {
        assert!(matches("", ""));
        assert!(!matches("", "a"));
        assert!(Pattern::new("").is_exact());
    }

    #[test]
    fn a_star_matches_every_run_the_empty_one_and_slashes_included() {
        assert!(matches("*", ""));
        assert!(matches("*", "a/b/c"));
        assert!(matches("a*c", "ac"));
        assert!(matches("a*c", "a/b/c"));
        assert!(matches("**a**", "a"));
        assert!(matches("outrelay://acme/agent/*", "outrelay://acme/agent/x"));
    }

    #[test]
    fn start_and_end_do_not_share_characters() {
        assert!(!matches("a*a", "a"));
        assert!(matches("a*a", "aa"));
        assert!(!matches("ab*ba", "aba"));
    }

    #[test]
    fn every_other_character_is_itself() {
        for special in ["?", "[a]", "\\", "{a,b}", ".", "**?"] {
            assert!(!matches(special, "a"), "{special}");
        }
        assert!(matches("a?", "a?"));
        assert!(!matches("A", "a"));
        assert!(matches("ü*é", "üxé"));
    }

    #[test]
    fn literal_bytes_are_counted_without_stars() {
        let length = |pattern| Pattern::new(pattern).literal_len();
        assert_eq!([length(""), length("**"), length("a*é*")], [0, 0, 3]);
        assert!(!Pattern::new("a*").is_exact());
    }

    #[test]
    fn a_long_text_of_near_misses_takes_linear_time() {
        let pattern = Pattern::new(&format!("*{}b*{}b", "a".repeat(20_000), "a".repeat(20_000)));
        assert!(!pattern.matches(&"a".repeat(16 << 20)));
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_definition(pattern in "[ab*é]{0,8}", text in "[abé*]{0,10}") {
            prop_assert_eq!(matches(&pattern, &text), naive(&pattern, &text));
        }

        #[test]
        fn overlap_holds_for_every_text_that_both_match(
            a in "[ab*]{0,6}", b in "[ab*]{0,6}", text in "[ab]{0,8}",
        ) {
            let overlaps = Pattern::new(&a).overlaps(&Pattern::new(&b));
            prop_assert_eq!(overlaps, Pattern::new(&b).overlaps(&Pattern::new(&a)));
            prop_assert!(overlaps || !(naive(&a, &text) && naive(&b, &text)));
        }

        #[test]
        fn overlap_is_claimed_only_with_a_witness(a in "[ab*]{0,4}", b in "[ab*]{0,4}") {
            let (one, other) = (Pattern::new(&a), Pattern::new(&b));
            if one.overlaps(&other) {
                // Eight letters are enough for two patterns of four.
                let witness = (0..=8u32).any(|len| (0..1u32 << len).any(|bits| {
                    let letter = |at| if bits >> at & 1 == 1 { 'a' } else { 'b' };
                    let text: String = (0..len).map(letter).collect();
                    naive(&a, &text) && naive(&b, &text)
                }));
                prop_assert!(witness);
            }
        }
    }
}
