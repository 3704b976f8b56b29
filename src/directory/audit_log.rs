//! The audit as files: every decision is one JSON line, appended; a file that is full is put away, and the oldest goes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt};
use std::path::{Path, PathBuf};

use self::record::Record;
use self::rotation::Rotation;

pub mod read;
pub mod record;
pub mod rotation;

/// Readable by the owner and the group: who spoke to whom is nobody else's business.
const MODE: u32 = 0o640;

/// Why the audit cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditLogError {
    /// The file cannot be opened or made.
    #[error("the audit file {} cannot be opened", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file does not take more.
    #[error("the audit file {} cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A full file, or one before it, cannot be moved or removed.
    #[error("the audit file {} cannot be rotated", path.display())]
    Rotate {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file cannot be read.
    #[error("the audit file {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The open audit file. Its methods block.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    rotation: Rotation,
    current: Current,
}

/// The file that is written.
#[derive(Debug)]
struct Current {
    file: File,
    /// Device and inode.
    identity: (u64, u64),
    end: LineEnd,
    /// In bytes; none for a pipe or a terminal, which are never full.
    size: Option<u64>,
}

/// How the last line of the file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineEnd {
    Whole,
    /// Something broke off while it was written; what follows must not be glued to it.
    Torn,
}

impl AuditLog {
    /// Opens the file at `path` to append to it, and makes it (mode 0640) where there is none. A last line that a crash cut
    /// off is ended, so that it spoils no other.
    ///
    /// # Errors
    /// [`AuditLogError::Open`], or [`AuditLogError::Write`] when the line cannot be ended.
    pub fn open(path: &Path, rotation: Rotation) -> Result<Self, AuditLogError> {
        let current = Current::open(path)?;
        let mut log = Self { path: path.to_owned(), rotation, current };
        log.append(&[])?;
        Ok(log)
    }

    /// Whether the file still stands at its path: it may have been moved or removed, or the folder that it is in. Where the system does
    /// not say, it does.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        match std::fs::metadata(&self.path) {
            Ok(there) => (there.dev(), there.ino()) == self.current.identity,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Appends `records`, a line each, in one write, and hands them to the system before it returns. They stand in one file,
    /// unless no file holds that many: then they go line by line. A file that is not in its place any more is full only once there is
    /// another.
    ///
    /// # Errors
    /// [`AuditLogError`]: some of the records may be in the file. Writing them again is safe, they may then be in it twice.
    pub fn append(&mut self, records: &[Record]) -> Result<(), AuditLogError> {
        let lines =
            records.iter().map(line).collect::<io::Result<Vec<_>>>().map_err(|source| self.not_written(source))?;
        // Before anything is put away: a file that is complete ends with a line that is.
        self.current.end_torn_line().map_err(|source| self.not_written(source))?;
        let together = lines.concat();
        if self.rotation.is_exceeded_by(bytes(&together)) {
            return lines.iter().try_for_each(|line| self.put(line));
        }
        self.put(&together)
    }

    fn put(&mut self, lines: &[u8]) -> Result<(), AuditLogError> {
        if self.current.size.is_some_and(|size| self.rotation.is_due(size, bytes(lines))) {
            if self.is_in_place() {
                rotation::shift(&self.path, self.rotation.keep)?;
                self.current = Current::open(&self.path)?;
            } else if let Ok(there) = Current::open(&self.path) {
                // What stands there is not ours to put away; where nothing can, the old one takes more.
                self.current = there;
            }
        }
        self.current.write(lines).map_err(|source| self.not_written(source))
    }

    fn not_written(&self, source: io::Error) -> AuditLogError {
        AuditLogError::Write { path: self.path.clone(), source }
    }
}

impl Current {
    fn open(path: &Path) -> Result<Self, AuditLogError> {
        let opened =
            OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(path).and_then(|mut file| {
                let about = file.metadata()?;
                let size = about.is_file().then_some(about.len());
                let end = line_end(&mut file, size)?;
                Ok(Self { file, identity: (about.dev(), about.ino()), end, size })
            });
        opened.map_err(|source| AuditLogError::Open { path: path.to_owned(), source })
    }

    fn end_torn_line(&mut self) -> io::Result<()> {
        if self.end == LineEnd::Whole {
            return Ok(());
        }
        self.write(b"\n")?;
        // How much of what broke off is there is not known otherwise.
        if let Some(size) = &mut self.size {
            *size = self.file.metadata()?.len();
        }
        Ok(())
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        self.end = LineEnd::Torn;
        self.file.write_all(lines)?;
        self.file.flush()?;
        self.end = LineEnd::Whole;
        if let Some(size) = &mut self.size {
            *size += bytes(lines);
        }
        Ok(())
    }
}

fn line(record: &Record) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    Ok(line)
}

fn bytes(text: &[u8]) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

fn line_end(file: &mut File, size: Option<u64>) -> io::Result<LineEnd> {
    // A pipe or a terminal has no last line to look at.
    if size.unwrap_or(0) == 0 {
        return Ok(LineEnd::Whole);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(if last == *b"\n" { LineEnd::Whole } else { LineEnd::Torn })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::record::{AuditEvent, Numbered, Side};
    use super::rotation::rotated;
    use super::*;
    use crate::core::ids::StreamId;
    use crate::core::policy::Effect;

    pub(super) fn event(stream_id: u64) -> AuditEvent {
        AuditEvent {
            ts_unix_ms: 1_700_000_000_000,
            tenant: "acme".into(),
            side: Side::Callee,
            caller: "outrelay://acme/agent/b".into(),
            target: "outrelay://acme/agent/a".into(),
            method: "".into(),
            decision: Effect::Deny,
            rule: None,
            reason: "no rule\nmatches".into(),
            stream_id: Some(StreamId(stream_id)),
        }
    }

    /// Each of the same length as long as `n` has one digit.
    pub(super) fn numbered(n: u64) -> Record {
        Record::Event(Numbered { run: 1, seq: n, event: event(n) })
    }

    fn batch(numbers: std::ops::RangeInclusive<u64>) -> Vec<Record> {
        numbers.map(numbered).collect()
    }

    /// The numbers in a file; a line that is none as it stands.
    fn read(path: &Path) -> Vec<Result<u64, String>> {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        let number = |line: &str| match Record::parse(line) {
            Some(Record::Event(numbered)) => Ok(numbered.seq),
            _ => Err(line.to_owned()),
        };
        text.lines().map(number).collect()
    }

    struct Files {
        folder: tempfile::TempDir,
        path: PathBuf,
    }

    impl Files {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("audit.jsonl");
            Self { folder, path }
        }

        /// A log whose files hold `lines` lines each.
        fn log(&self, lines: u64, keep: usize) -> AuditLog {
            let max_bytes = lines * bytes(&line(&numbered(1)).unwrap());
            AuditLog::open(&self.path, Rotation { max_bytes, keep }).unwrap()
        }

        /// What each file holds, the newest first.
        fn numbers(&self) -> Vec<Vec<u64>> {
            let count = fs::read_dir(self.folder.path()).unwrap().count();
            let path = |n| if n == 0 { self.path.clone() } else { rotated(&self.path, n) };
            (0..count).map(|n| read(&path(n)).into_iter().map(Result::unwrap).collect()).collect()
        }
    }

    #[test]
    fn events_are_appended_also_after_it_was_opened_again() {
        let files = Files::new();
        AuditLog::open(&files.path, Rotation::default()).unwrap().append(&batch(1..=2)).unwrap();
        let mut log = AuditLog::open(&files.path, Rotation::default()).unwrap();
        log.append(&[]).unwrap();
        log.append(&batch(3..=3)).unwrap();
        assert_eq!(files.numbers(), [[1, 2, 3]]);
        assert_eq!(fs::metadata(&files.path).unwrap().permissions().mode() & 0o137, 0, "not for everybody");
    }

    #[test]
    fn a_line_that_a_crash_cut_off_spoils_no_other() {
        let files = Files::new();
        files.log(0, 0).append(&batch(1..=1)).unwrap();
        let whole = fs::read(&files.path).unwrap();
        fs::write(&files.path, [&whole[..], b"{\"ts_unix_ms\":17"].concat()).unwrap();
        let mut log = files.log(0, 0);
        assert!(fs::read(&files.path).unwrap().ends_with(b"17\n"), "ended when it is opened");
        log.append(&batch(2..=2)).unwrap();
        assert_eq!(read(&files.path), [Ok(1), Err("{\"ts_unix_ms\":17".into()), Ok(2)]);
    }

    #[test]
    fn a_file_that_takes_nothing_is_named() {
        let error = AuditLog::open(Path::new("/nonexistent/audit.jsonl"), Rotation::default()).unwrap_err();
        assert_eq!(error.to_string(), "the audit file /nonexistent/audit.jsonl cannot be opened");
        let mut full = AuditLog::open(Path::new("/dev/full"), Rotation { max_bytes: 1, keep: 1 }).unwrap();
        assert_eq!(full.append(&batch(1..=1)).unwrap_err().to_string(), "the audit file /dev/full cannot be written");
        assert_eq!(full.current.end, LineEnd::Torn, "what comes next starts a line of its own");
    }

    #[test]
    fn a_file_is_in_place_until_it_is_moved_removed_or_replaced() {
        let files = Files::new();
        let mut log = files.log(1, 3);
        (1..=2).for_each(|n| log.append(&batch(n..=n)).unwrap());
        assert!(log.is_in_place(), "also after it was rotated");
        fs::rename(&files.path, files.folder.path().join("moved")).unwrap();
        assert!(!log.is_in_place());
        fs::write(&files.path, "").unwrap();
        assert!(!log.is_in_place(), "it is another one");
        assert!(AuditLog::open(Path::new("/dev/null"), Rotation::default()).unwrap().is_in_place());
    }

    #[test]
    fn a_file_is_filled_to_the_last_byte_and_the_next_line_begins_another() {
        let files = Files::new();
        let mut log = files.log(2, 3);
        log.append(&batch(1..=1)).unwrap();
        log.append(&batch(2..=2)).unwrap();
        assert_eq!(files.numbers(), [[1, 2]], "exactly full is not too full");
        log.append(&batch(3..=3)).unwrap();
        assert_eq!(files.numbers(), [vec![3], vec![1, 2]]);
        assert_eq!(fs::metadata(&files.path).unwrap().permissions().mode() & 0o137, 0, "not for everybody");
        drop(log);
        let mut log = files.log(2, 3);
        log.append(&batch(4..=4)).unwrap();
        log.append(&batch(5..=5)).unwrap();
        assert_eq!(files.numbers(), [vec![5], vec![3, 4], vec![1, 2]], "the size is known after it was opened again");
    }

    #[test]
    fn no_more_files_are_kept_than_asked_for_and_without_a_size_there_is_one() {
        let files = Files::new();
        let mut log = files.log(1, 2);
        (1..=6).for_each(|n| log.append(&batch(n..=n)).unwrap());
        assert_eq!(files.numbers(), [[6], [5], [4]]);
        let files = Files::new();
        let mut log = files.log(0, 2);
        (1..=6).for_each(|n| log.append(&batch(n..=n)).unwrap());
        assert_eq!(files.numbers(), [[1, 2, 3, 4, 5, 6]]);
    }

    #[test]
    fn a_batch_stands_in_one_file_unless_no_file_holds_it() {
        let files = Files::new();
        let mut log = files.log(3, 9);
        log.append(&batch(1..=2)).unwrap();
        log.append(&batch(3..=4)).unwrap();
        assert_eq!(files.numbers(), [[3, 4], [1, 2]]);
        log.append(&batch(5..=9)).unwrap();
        assert_eq!(files.numbers(), [vec![9], vec![6, 7, 8], vec![3, 4, 5], vec![1, 2]]);
        let mut log = AuditLog::open(&files.path, Rotation { max_bytes: 1, keep: 9 }).unwrap();
        log.append(&batch(1..=2)).unwrap();
        assert_eq!(files.numbers()[..3], [[2], [1], [9]], "a line longer than a whole file is written all the same");
    }

    #[test]
    fn a_torn_line_is_ended_before_its_file_is_put_away() {
        let files = Files::new();
        files.log(2, 3).append(&batch(1..=2)).unwrap();
        let mut log = files.log(2, 3);
        // As if a write had broken off.
        log.current.file.write_all(b"{\"run\":1").unwrap();
        log.current.end = LineEnd::Torn;
        log.append(&batch(3..=3)).unwrap();
        assert_eq!(read(&rotated(&files.path, 1)), [Ok(1), Ok(2), Err("{\"run\":1".into())]);
        assert_eq!(read(&files.path), [Ok(3)]);
    }

    #[test]
    fn a_rotation_that_fails_loses_nothing_and_is_made_up_for() {
        let files = Files::new();
        let mut log = files.log(1, 1);
        log.append(&batch(1..=1)).unwrap();
        fs::create_dir(rotated(&files.path, 1)).unwrap();
        for _ in 0..2 {
            let error = log.append(&batch(2..=2)).unwrap_err();
            assert!(error.to_string().ends_with("audit.jsonl.1 cannot be rotated"), "{error}");
            assert_eq!(read(&files.path), [Ok(1)]);
            log = files.log(1, 1);
        }
        fs::remove_dir(rotated(&files.path, 1)).unwrap();
        log.append(&batch(2..=2)).unwrap();
        assert_eq!(files.numbers(), [[2], [1]]);
    }

    #[test]
    fn a_new_file_that_cannot_be_made_is_made_later_and_the_old_one_is_moved_once() {
        let files = Files::new();
        let mut log = files.log(1, 3);
        log.append(&batch(1..=1)).unwrap();
        // As far as a rotation comes that cannot make the new file.
        rotation::shift(&files.path, 3).unwrap();
        log.append(&batch(2..=2)).unwrap();
        assert_eq!(files.numbers(), [[2], [1]]);
    }
}
