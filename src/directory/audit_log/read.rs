//! Reads the audit back, the rotated files included, oldest first, while a relay may be writing and rotating it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Take};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::AuditLogError;
use super::record::Record;
use super::rotation::{KEEP_MAX, rotated};

/// A longer line is foreign, in bytes: a method as long as the longest frame (wire.md §2), every byte of it escaped, still fits.
const LINE_MAX: usize = 128 << 20;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A line of the audit: as it is written, and what it holds.
    Record(String, Record),
    /// Torn by a crash, or not of the audit.
    Foreign {
        /// The file in which it stands.
        path: PathBuf,
        /// Its number there, from 1 on.
        number: u64,
    },
}

/// The audit, a line at a time. Its methods block.
#[derive(Debug)]
pub struct AuditReader {
    /// Newest first.
    waiting: Vec<Part>,
    current: Option<Part>,
    line: Vec<u8>,
}

#[derive(Debug)]
struct Part {
    path: PathBuf,
    device_and_inode: (u64, u64),
    content: BufReader<Take<File>>,
    /// Lines that were read.
    lines: u64,
}

impl AuditReader {
    /// Opens the file at `path` and those that were rotated before it. What is appended from here on is not read.
    ///
    /// # Errors
    /// [`AuditLogError::Open`]; a file that is not there is an error only where none is.
    pub fn open(path: &Path) -> Result<Self, AuditLogError> {
        // Newest first: a file only ever moves to a higher number, so one that is moved meanwhile is met again, not missed.
        let mut waiting: Vec<Part> = Vec::new();
        let mut absent = None;
        for n in 0..=KEEP_MAX {
            let path = if n == 0 { path.to_owned() } else { rotated(path, n) };
            match Part::open(&path) {
                Ok(part) if waiting.iter().any(|known| known.device_and_inode == part.device_and_inode) => {}
                Ok(part) => waiting.push(part),
                // A folder with such a name keeps the relay from rotating; that must not keep anybody from reading.
                Err(source) if source.kind() == ErrorKind::IsADirectory && n != 0 => {}
                Err(source) if source.kind() == ErrorKind::NotFound => {
                    absent.get_or_insert(AuditLogError::Open { path, source });
                }
                Err(source) => return Err(AuditLogError::Open { path, source }),
            }
        }
        match absent {
            Some(error) if waiting.is_empty() => Err(error),
            _ => Ok(Self { waiting, current: None, line: Vec::new() }),
        }
    }

    /// The next line; none behind the last. Empty lines are passed over.
    ///
    /// # Errors
    /// [`AuditLogError::Read`].
    pub fn next_line(&mut self) -> Result<Option<Line>, AuditLogError> {
        loop {
            if self.current.is_none() {
                self.current = self.waiting.pop();
            }
            let Some(part) = &mut self.current else { return Ok(None) };
            let found = read_line(&mut part.content, &mut self.line, LINE_MAX);
            let found = found.map_err(|source| AuditLogError::Read { path: part.path.clone(), source })?;
            part.lines += 1;
            let record = match found {
                Found::End => {
                    self.current = None;
                    continue;
                }
                Found::Line if self.line.trim_ascii().is_empty() => continue,
                Found::Line => parsed(&self.line),
                Found::TooLong => None,
            };
            return Ok(Some(record.unwrap_or_else(|| Line::Foreign { path: part.path.clone(), number: part.lines })));
        }
    }
}

impl Part {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let about = file.metadata()?;
        if about.is_dir() {
            return Err(ErrorKind::IsADirectory.into());
        }
        // A pipe has no length; a file is read as long as it is now, or a busy relay would never let it end.
        let length = if about.is_file() { about.len() } else { u64::MAX };
        Ok(Self {
            path: path.to_owned(),
            device_and_inode: (about.dev(), about.ino()),
            content: BufReader::new(file.take(length)),
            lines: 0,
        })
    }
}

fn parsed(line: &[u8]) -> Option<Line> {
    let text = std::str::from_utf8(line).ok()?.trim();
    Some(Line::Record(text.to_owned(), Record::parse(text)?))
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Line,
    TooLong,
    End,
}

/// Reads a line of at most `max` bytes into `line`; of a longer one no more than that is held.
fn read_line(content: &mut impl BufRead, line: &mut Vec<u8>, max: usize) -> io::Result<Found> {
    line.clear();
    let length = content.by_ref().take(u64::try_from(max).unwrap_or(u64::MAX)).read_until(b'\n', line)?;
    if length == 0 {
        return Ok(Found::End);
    }
    if length == max && !line.ends_with(b"\n") && content.skip_until(b'\n')? > 0 {
        return Ok(Found::TooLong);
    }
    Ok(Found::Line)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::{event, numbered};
    use super::super::{AuditLog, Rotation};
    use super::*;

    fn stream_ids(reader: &mut AuditReader) -> Vec<u64> {
        let mut ids = Vec::new();
        while let Some(line) = reader.next_line().unwrap() {
            match line {
                Line::Record(_, Record::Event(numbered)) => ids.extend(numbered.event.stream_id.map(|id| id.0)),
                other => panic!("{other:?}"),
            }
        }
        ids
    }

    #[test]
    fn rotated_files_come_first_the_oldest_before_all_and_a_gap_is_no_matter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        for (n, stream_id) in [(11, 1), (3, 2), (1, 3), (0, 4)] {
            let path = if n == 0 { path.clone() } else { rotated(&path, n) };
            AuditLog::open(&path, Rotation::default()).unwrap().append(&[numbered(stream_id)]).unwrap();
        }
        assert_eq!(stream_ids(&mut AuditReader::open(&path).unwrap()), [1, 2, 3, 4]);
        fs::remove_file(&path).unwrap();
        assert_eq!(stream_ids(&mut AuditReader::open(&path).unwrap()), [1, 2, 3], "a crash came between two renames");
    }

    #[test]
    fn a_file_that_was_moved_while_the_files_were_opened_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        AuditLog::open(&path, Rotation::default()).unwrap().append(&[numbered(1)]).unwrap();
        fs::hard_link(&path, rotated(&path, 1)).unwrap();
        assert_eq!(stream_ids(&mut AuditReader::open(&path).unwrap()), [1]);
    }

    #[test]
    fn what_is_written_after_the_files_were_opened_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let mut log = AuditLog::open(&path, Rotation::default()).unwrap();
        log.append(&[numbered(1)]).unwrap();
        let mut reader = AuditReader::open(&path).unwrap();
        log.append(&[numbered(2)]).unwrap();
        assert_eq!(stream_ids(&mut reader), [1]);
    }

    #[test]
    fn torn_foreign_and_empty_lines_are_told_from_the_audit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let good = serde_json::to_string(&numbered(1)).unwrap();
        fs::write(&path, [good.as_bytes(), b"\n\n\xff\xfe\nhello\n", good.as_bytes(), b"\r\n{\"run\":1"].concat())
            .unwrap();
        let mut reader = AuditReader::open(&path).unwrap();
        let mut good_or_not = Vec::new();
        while let Some(line) = reader.next_line().unwrap() {
            good_or_not.push(!matches!(line, Line::Foreign { .. }));
            assert!(matches!(line, Line::Foreign { .. } | Line::Record(..)));
        }
        assert_eq!(good_or_not, [true, false, false, true, false]);
        assert_eq!(event(1).stream_id.unwrap().0, 1);
    }

    #[test]
    fn of_a_line_that_is_too_long_only_so_much_is_held() {
        let mut content = io::Cursor::new(b"aaaa\nbbbbb\ncccccccc\nd\neeeee");
        let mut line = Vec::new();
        let mut next = || {
            let found = read_line(&mut content, &mut line, 5).unwrap();
            assert!(line.len() <= 5);
            (found, String::from_utf8(line.clone()).unwrap())
        };
        assert_eq!(next(), (Found::Line, "aaaa\n".into()));
        assert_eq!(next().0, Found::TooLong);
        assert_eq!(next().0, Found::TooLong);
        assert_eq!(next(), (Found::Line, "d\n".into()));
        assert_eq!(next(), (Found::Line, "eeeee".into()));
        assert_eq!(next().0, Found::End);
    }

    #[test]
    fn where_there_is_no_file_at_all_the_one_that_was_named_is_said() {
        let error = AuditReader::open(Path::new("/nonexistent/audit.jsonl")).unwrap_err();
        assert_eq!(error.to_string(), "the audit file /nonexistent/audit.jsonl cannot be opened");
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(AuditReader::open(folder.path()), Err(AuditLogError::Open { .. })), "a folder is no audit");
    }
}
