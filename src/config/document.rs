//! A TOML file of which every mistake is wanted, not the first alone.
//!
//! serde stops at its first error. So the tree is parsed with spans, and on an error what it points at is noted, cut out,
//! and the rest read again. What remains still knows its lines, for mistakes that only the meaning shows.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::Problem;

/// A file with more mistakes than this is not a file of ours; the rest is not listed.
const PROBLEMS_MAX: usize = 100;

/// A parsed file. Keys are written `limits.open` and `expose[1].name`.
#[derive(Debug)]
pub struct Document<'a> {
    file: &'a str,
    text: &'a str,
    root: Spanned<DeTable<'a>>,
    cut: Vec<String>,
}

impl<'a> Document<'a> {
    /// The tree of `text`; `file` is the name that problems carry.
    ///
    /// # Errors
    /// Every syntax error, at most one a line, since one often drags others behind it.
    pub fn parse(file: &'a str, text: &'a str) -> Result<Self, Vec<Problem>> {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut by_line: BTreeMap<usize, Problem> = BTreeMap::new();
        for error in errors.iter().take(PROBLEMS_MAX) {
            let line = line_of(text, error.span().map_or(0, |span| span.start));
            by_line.entry(line).or_insert_with(|| Problem::at_line(file, line, error.message()));
        }
        if by_line.is_empty() {
            return Ok(Self { file, text, root, cut: Vec::new() });
        }
        Err(by_line.into_values().collect())
    }

    /// Reads the tree as `T`. What does not fit is cut out and reported; the value is what the rest gives, or None where
    /// not even that can be read.
    pub fn read<T: DeserializeOwned>(&mut self) -> (Option<T>, Vec<Problem>) {
        let mut problems = Vec::new();
        loop {
            let error = match T::deserialize(toml::de::Deserializer::from(self.root.clone())) {
                Ok(value) => return (Some(value), in_order(problems)),
                Err(error) => error,
            };
            let span = error.span().unwrap_or_default();
            let line = line_of(self.text, span.start);
            let cut = cut_table(self.root.get_mut(), &span, "");
            // An element whose required key was cut for its value lacks it only since then.
            let follows = |cut: &Cut| self.cut.iter().any(|earlier| is_within(earlier, &cut.key));
            if !cut.as_ref().is_some_and(follows) {
                let what = describe(error.message(), cut.as_ref());
                problems.push((line, Problem::at_line(self.file, line, what)));
            }
            match cut {
                Some(Cut { what: Part::Key, .. }) if problems.len() < PROBLEMS_MAX => {}
                Some(cut) if problems.len() < PROBLEMS_MAX => self.note_cut(cut.key),
                _ => return (None, in_order(problems)),
            }
        }
    }

    fn note_cut(&mut self, key: String) {
        let Some((list, at)) = element(&key) else {
            self.cut.push(key);
            return;
        };
        // The elements behind it have moved up; what was cut in it is gone with it.
        let cut = std::mem::take(&mut self.cut);
        self.cut = cut.into_iter().filter_map(|earlier| moved_up(earlier, list, at)).collect();
        if !self.lines().contains_key(&format!("{list}[0]")) {
            self.cut.push(list.to_owned());
        }
    }

    /// The keys whose values [`Self::read`] cut out: nothing more can be said about these. Of a list that lost elements, only that
    /// it is empty now.
    #[must_use]
    pub fn cut(&self) -> &[String] {
        &self.cut
    }

    /// The 1-based line of every key that is left.
    #[must_use]
    pub fn lines(&self) -> BTreeMap<String, usize> {
        let mut lines = BTreeMap::new();
        note_table(self.root.get_ref(), "", &mut |key, span: Range<usize>| {
            lines.insert(key, line_of(self.text, span.start));
        });
        lines
    }

    /// The tree that is left, as plain values.
    #[must_use]
    pub fn into_table(self) -> toml::Table {
        // A tree that was parsed is a table; there is no value in it that a table could not hold.
        toml::Table::deserialize(toml::de::Deserializer::from(self.root)).unwrap_or_default()
    }
}

/// The list and the position in it, where `key` is a list's element.
fn element(key: &str) -> Option<(&str, usize)> {
    let (list, at) = key.strip_suffix(']')?.rsplit_once('[')?;
    Some((list, at.parse().ok()?))
}

/// What `key` is called once the element `at` of `list` is gone; None when it was in that element.
fn moved_up(key: String, list: &str, at: usize) -> Option<String> {
    let rest = key.strip_prefix(list).and_then(|rest| rest.strip_prefix('[')).and_then(|rest| rest.split_once(']'));
    let Some((Ok(own), inner)) = rest.map(|(own, inner)| (own.parse::<usize>(), inner)) else {
        return Some(key);
    };
    match own.cmp(&at) {
        Ordering::Less => Some(key),
        Ordering::Equal => None,
        Ordering::Greater => Some(format!("{list}[{}]{inner}", own - 1)),
    }
}

fn in_order(mut problems: Vec<(usize, Problem)>) -> Vec<Problem> {
    problems.sort_by_key(|(line, _)| *line);
    problems.into_iter().map(|(_, problem)| problem).collect()
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

/// Whether `key` is `outer` or below it.
pub(crate) fn is_within(key: &str, outer: &str) -> bool {
    key.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// `key` below `prefix`.
pub(crate) fn dotted(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

struct Cut {
    key: String,
    what: Part,
}

#[derive(Clone, Copy)]
enum Part {
    Key,
    Value,
}

/// Positions in lists are left out: the line says more, and they count only what is left.
fn describe(message: &str, cut: Option<&Cut>) -> String {
    let message = message.trim_end().replace('\n', " ");
    let Some(Cut { key, what }) = cut else {
        return message;
    };
    let parts = key.split('.').map(|part| part.split_once('[').map_or(part, |(list, _)| list));
    let key = parts.collect::<Vec<_>>().join(".");
    match what {
        Part::Value => format!("`{key}`: {message}"),
        Part::Key => match key.rsplit_once('.') {
            Some((table, _)) => format!("in `{table}`: {message}"),
            None => message,
        },
    }
}

fn cut_table(table: &mut DeTable<'_>, span: &Range<usize>, prefix: &str) -> Option<Cut> {
    let mut found = None;
    let entries = std::mem::take(table);
    *table = entries
        .into_iter()
        .filter_map(|(key, mut value)| {
            if found.is_none() {
                let path = dotted(prefix, key.get_ref());
                if key.span() == *span {
                    found = Some(Cut { key: path, what: Part::Key });
                    return None;
                }
                found = cut_value(&mut value, span, &path);
                if found.as_ref().is_some_and(|cut| cut.key == path) {
                    return None;
                }
            }
            Some((key, value))
        })
        .collect();
    found
}

/// What was cut at or below `value`; the caller drops the value itself when the cut's key is `path`.
///
/// The inside is searched first: a list of one `[[table]]` has the same span as its only element.
fn cut_value(value: &mut Spanned<DeValue<'_>>, span: &Range<usize>, path: &str) -> Option<Cut> {
    let inside = match value.get_mut() {
        DeValue::Table(table) => cut_table(table, span, path),
        DeValue::Array(array) => cut_array(array, span, path),
        _ => None,
    };
    inside.or_else(|| (value.span() == *span).then(|| Cut { key: path.to_owned(), what: Part::Value }))
}

fn cut_array(array: &mut DeArray<'_>, span: &Range<usize>, path: &str) -> Option<Cut> {
    let mut found = None;
    let elements = std::mem::replace(array, DeArray::new());
    let kept = elements.into_iter().enumerate().filter_map(|(at, mut element)| {
        if found.is_none() {
            let path = format!("{path}[{at}]");
            found = cut_value(&mut element, span, &path);
            if found.as_ref().is_some_and(|cut| cut.key == path) {
                return None;
            }
        }
        Some(element)
    });
    *array = kept.collect();
    found
}

fn note_table(table: &DeTable<'_>, prefix: &str, note: &mut impl FnMut(String, Range<usize>)) {
    for (key, value) in table {
        let path = dotted(prefix, key.get_ref());
        note(path.clone(), key.span());
        note_value(value, &path, note);
    }
}

fn note_value(value: &Spanned<DeValue<'_>>, path: &str, note: &mut impl FnMut(String, Range<usize>)) {
    match value.get_ref() {
        DeValue::Table(table) => note_table(table, path, note),
        DeValue::Array(array) => {
            for (at, element) in array.iter().enumerate() {
                let path = format!("{path}[{at}]");
                note(path.clone(), element.span());
                note_value(element, &path, note);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Sample {
        name: String,
        size: u32,
        inner: Inner,
        list: Vec<Element>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Inner {
        on: bool,
        #[serde(with = "humantime_serde")]
        wait: std::time::Duration,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Element {
        a: u8,
    }

    fn shown(problems: &[Problem]) -> Vec<String> {
        problems.iter().map(Problem::to_string).collect()
    }

    #[test]
    fn every_mistake_is_reported_with_its_line_and_the_rest_is_read() {
        let text = "name = 3\nsize = 7\nsiez = 8\n[inner]\non = true\nwait = \"soon\"\nof = 1\n[[list]]\na = 1\n[[list]]\nb = 2\n[[list]]\na = 3\n";
        let mut document = Document::parse("f.toml", text).unwrap();
        let (value, problems) = document.read::<Sample>();
        let lines: Vec<_> = problems.iter().map(|problem| problem.source.as_str()).collect();
        for line in ["f.toml:1", "f.toml:3", "f.toml:6", "f.toml:7", "f.toml:10", "f.toml:11"] {
            assert!(lines.contains(&line), "{line} is not among {:#?}", shown(&problems));
        }
        assert_eq!(problems.len(), 6, "{:#?}", shown(&problems));
        let value = value.unwrap();
        assert_eq!(value.size, 7);
        assert!(value.inner.on);
        assert_eq!(value.list, [Element { a: 1 }, Element { a: 3 }]);
        assert_eq!(document.lines()["list[1].a"], 13, "lines follow what is left");
    }

    #[test]
    fn a_message_names_the_key() {
        let mut document = Document::parse("f", "inner.wait = \"soon\"\ninner.of = 1\n").unwrap();
        let (_, problems) = document.read::<Sample>();
        let shown = shown(&problems);
        assert!(shown.iter().any(|line| line.starts_with("f:1: `inner.wait`: ")), "{shown:#?}");
        assert!(shown.iter().any(|line| line.starts_with("f:2: in `inner`: unknown field `of`")), "{shown:#?}");
    }

    #[test]
    fn an_element_is_not_said_to_lack_what_was_wrong_in_it() {
        let text = "list = [{ b = 1 }, { a = \"x\" }, { a = \"y\" }, {}, { a = 5 }]\n";
        let mut document = Document::parse("f", text).unwrap();
        let (value, problems) = document.read::<Sample>();
        assert_eq!(value.unwrap().list, [Element { a: 5 }]);
        let shown = shown(&problems);
        let count = |part: &str| shown.iter().filter(|line| line.contains(part)).count();
        assert_eq!((count("invalid type"), count("unknown field"), count("missing field")), (2, 1, 2), "{shown:#?}");
    }

    #[test]
    fn a_list_that_lost_its_only_element_counts_as_cut() {
        let mut document = Document::parse("f", "list = [5]\n").unwrap();
        assert!(document.read::<Sample>().0.unwrap().list.is_empty());
        assert_eq!(document.cut(), ["list"]);
    }

    #[test]
    fn syntax_errors_are_reported_by_line() {
        let problems = Document::parse("f", "name = \nsize = 3\n[inner\non = true\n").unwrap_err();
        let sources: Vec<_> = problems.iter().map(|problem| problem.source.as_str()).collect();
        assert_eq!(sources, ["f:1", "f:3"], "{problems:#?}");
    }

    #[test]
    fn a_key_given_twice_is_a_mistake() {
        let problems = Document::parse("f", "size = 1\nname = \"a\"\nsize = 2\n").unwrap_err();
        assert_eq!(problems[0].source, "f:3", "{problems:#?}");
    }
}
