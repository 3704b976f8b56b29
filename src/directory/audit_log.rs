//! The audit as a file: every decision is one JSON line, appended.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::core::ids::StreamId;
use crate::core::policy::Effect;

/// Readable by the owner and the group: who spoke to whom is nobody else's business.
const MODE: u32 = 0o640;

/// Which side of an open was asked (wire.md §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// May the caller use the service?
    Caller,
    /// May the provider be called by the caller?
    Callee,
}

impl Side {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Callee => "callee",
        }
    }
}

/// One decision: `AuditEvent` of wire.md §8, and which side and which rule it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditEvent {
    /// When it fell, in milliseconds since 1970.
    pub ts_unix_ms: i64,
    /// Whose rules were asked.
    pub tenant: Arc<str>,
    /// The side that was asked.
    pub side: Side,
    /// Who asked: on the callee's side, the provider.
    pub caller: Arc<str>,
    /// For what: on the callee's side, the consumer.
    pub target: Arc<str>,
    /// With which method; may be empty.
    pub method: Arc<str>,
    /// What was decided.
    pub decision: Effect,
    /// The rule that decided; none when no rule did.
    pub rule: Option<Arc<str>>,
    /// In words.
    pub reason: Arc<str>,
    /// The stream that was to be opened. A text in the file as on the wire, for not every reader of JSON has 64 bits.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub stream_id: StreamId,
}

fn as_text<S: Serializer>(id: &StreamId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<StreamId, D::Error> {
    String::deserialize(deserializer)?.parse().map(StreamId).map_err(de::Error::custom)
}

/// Why the audit cannot be written.
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
}

/// The open audit file. Its methods block.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    file: File,
    end: LineEnd,
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
    pub fn open(path: &Path) -> Result<Self, AuditLogError> {
        let opened =
            OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(path).and_then(|mut file| {
                let end = line_end(&mut file)?;
                Ok((file, end))
            });
        let (file, end) = opened.map_err(|source| AuditLogError::Open { path: path.to_owned(), source })?;
        let mut log = Self { path: path.to_owned(), file, end };
        log.append(&[])?;
        Ok(log)
    }

    /// Appends `events`, a line each, in one write, and hands them to the system before it returns.
    ///
    /// # Errors
    /// [`AuditLogError::Write`]: some of the events may be in the file. Writing them again is safe, they may then be in it
    /// twice.
    pub fn append(&mut self, events: &[AuditEvent]) -> Result<(), AuditLogError> {
        let written = self.write(events);
        written.map_err(|source| AuditLogError::Write { path: self.path.clone(), source })
    }

    fn write(&mut self, events: &[AuditEvent]) -> io::Result<()> {
        let mut lines = Vec::new();
        if self.end == LineEnd::Torn {
            lines.push(b'\n');
        }
        for event in events {
            serde_json::to_writer(&mut lines, event)?;
            lines.push(b'\n');
        }
        if lines.is_empty() {
            return Ok(());
        }
        self.end = LineEnd::Torn;
        self.file.write_all(&lines)?;
        self.file.flush()?;
        self.end = LineEnd::Whole;
        Ok(())
    }
}

fn line_end(file: &mut File) -> io::Result<LineEnd> {
    let about = file.metadata()?;
    // A pipe or a terminal has no last line to look at.
    if !about.is_file() || about.len() == 0 {
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

    use super::*;

    fn event(stream_id: u64) -> AuditEvent {
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
            stream_id: StreamId(stream_id),
        }
    }

    fn read(path: &Path) -> Vec<Result<AuditEvent, String>> {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.ends_with('\n'));
        text.lines().map(|line| serde_json::from_str(line).map_err(|_| line.to_owned())).collect()
    }

    #[test]
    fn an_event_is_one_json_line() {
        let line = serde_json::to_string(&event(u64::MAX)).unwrap();
        let expected = "{\"ts_unix_ms\":1700000000000,\"tenant\":\"acme\",\"side\":\"callee\",\"caller\":\"outrelay://acme/agent/b\",\
            \"target\":\"outrelay://acme/agent/a\",\"method\":\"\",\"decision\":\"deny\",\"rule\":null,\"reason\":\"no rule\\nmatches\",\
            \"stream_id\":\"18446744073709551615\"}";
        assert_eq!(line, expected);
    }

    #[test]
    fn events_are_appended_also_after_it_was_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        AuditLog::open(&path).unwrap().append(&[event(1), event(2)]).unwrap();
        let mut log = AuditLog::open(&path).unwrap();
        log.append(&[]).unwrap();
        log.append(&[event(3)]).unwrap();
        assert_eq!(read(&path), [Ok(event(1)), Ok(event(2)), Ok(event(3))]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0, "not for everybody");
    }

    #[test]
    fn a_line_that_a_crash_cut_off_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        AuditLog::open(&path).unwrap().append(&[event(1)]).unwrap();
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], b"{\"ts_unix_ms\":17"].concat()).unwrap();
        let mut log = AuditLog::open(&path).unwrap();
        assert!(fs::read(&path).unwrap().ends_with(b"17\n"), "ended when it is opened");
        log.append(&[event(2)]).unwrap();
        assert_eq!(read(&path), [Ok(event(1)), Err("{\"ts_unix_ms\":17".into()), Ok(event(2))]);
    }

    #[test]
    fn a_file_that_takes_nothing_is_named() {
        let error = AuditLog::open(Path::new("/nonexistent/audit.jsonl")).unwrap_err();
        assert_eq!(error.to_string(), "the audit file /nonexistent/audit.jsonl cannot be opened");
        let mut full = AuditLog::open(Path::new("/dev/full")).unwrap();
        assert_eq!(full.append(&[event(1)]).unwrap_err().to_string(), "the audit file /dev/full cannot be written");
        assert_eq!(full.end, LineEnd::Torn, "what comes next starts a line of its own");
    }
}
