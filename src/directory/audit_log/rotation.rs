//! The chain of audit files: `audit.jsonl`, and before it `audit.jsonl.1`, `audit.jsonl.2`, …, the higher the older.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::AuditLogError;

/// The most rotated files that can be kept. Files with a higher number are somebody else's.
pub const KEEP_MAX: usize = 500;

/// When a new file is begun, and how many old ones stay. The default is one file that grows for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rotation {
    /// The size that no file exceeds, in bytes, unless by a single line; 0 = never rotate.
    pub max_bytes: u64,
    /// How many files are kept beside the one that is written; at least 1, at most [`KEEP_MAX`].
    pub keep: usize,
}

impl Rotation {
    /// Whether a file of `size` bytes must be put away before `more` go in.
    pub(super) fn is_due(self, size: u64, more: u64) -> bool {
        self.max_bytes != 0 && size != 0 && size.saturating_add(more) > self.max_bytes
    }

    /// Whether no file holds `bytes`.
    pub(super) fn is_exceeded_by(self, bytes: u64) -> bool {
        self.max_bytes != 0 && bytes > self.max_bytes
    }
}

/// The `n`th rotated file of the audit at `path`.
pub(super) fn rotated(path: &Path, n: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// Gives every file the next number, so that nothing stands at `path`, and removes those beyond `keep`.
///
/// It may end at any step, and be called again: a number that is free is filled by moving only the files below it, so that an
/// attempt that broke off costs no file when it is repeated, and no file is ever moved onto another.
///
/// # Errors
/// [`AuditLogError::Rotate`]: every file that may stay is still there, perhaps by another number.
pub(super) fn shift(path: &Path, keep: usize) -> Result<(), AuditLogError> {
    let keep = keep.clamp(1, KEEP_MAX);
    if !exists(path)? {
        return Ok(());
    }
    for n in keep + 1..=KEEP_MAX {
        remove(&rotated(path, n))?;
    }
    let mut free = 1;
    while free <= keep && exists(&rotated(path, free))? {
        free += 1;
    }
    if free > keep {
        remove(&rotated(path, keep))?;
        free = keep;
    }
    for n in (1..free).rev() {
        rename(&rotated(path, n), &rotated(path, n + 1))?;
    }
    rename(path, &rotated(path, 1))
}

fn exists(path: &Path) -> Result<bool, AuditLogError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(path, error)),
    }
}

fn remove(path: &Path) -> Result<(), AuditLogError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(path, error)),
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), AuditLogError> {
    fs::rename(from, to).map_err(|error| failed(from, error))
}

fn failed(path: &Path, source: io::Error) -> AuditLogError {
    AuditLogError::Rotate { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Chain(tempfile::TempDir);

    impl Chain {
        /// The files with these numbers, 0 for the one that is written; each holds `was N`.
        fn new(numbers: &[usize]) -> Self {
            let chain = Self(tempfile::tempdir().unwrap());
            for n in numbers {
                fs::write(chain.path(*n), format!("was {n}")).unwrap();
            }
            chain
        }

        fn path(&self, n: usize) -> PathBuf {
            let path = self.0.path().join("audit.jsonl");
            if n == 0 { path } else { rotated(&path, n) }
        }

        fn shift(&self, keep: usize) -> Result<(), String> {
            shift(&self.path(0), keep).map_err(|error| error.to_string())
        }

        /// Every file, as `number: what it holds`.
        fn now(&self) -> Vec<String> {
            let read = |n| Some(format!("{n}: {}", fs::read_to_string(self.path(n)).ok()?));
            (0..600).filter_map(read).collect()
        }
    }

    #[test]
    fn every_file_moves_up_and_the_oldest_goes() {
        let chain = Chain::new(&[0, 1, 2, 3]);
        chain.shift(3).unwrap();
        assert_eq!(chain.now(), ["1: was 0", "2: was 1", "3: was 2"]);
    }

    #[test]
    fn fewer_to_keep_than_before_removes_those_beyond_but_nothing_of_somebody_else() {
        let chain = Chain::new(&[0, 1, 2, 3, 4, 9, 501]);
        chain.shift(2).unwrap();
        assert_eq!(chain.now(), ["1: was 0", "2: was 1", "501: was 501"]);
    }

    #[test]
    fn an_attempt_that_broke_off_costs_no_file_when_it_is_repeated() {
        // Broken off after each of its steps: the oldest gone, then 2 moved, then 1 moved, then 0 moved.
        for (left, then) in [
            (&[0, 1, 2][..], &["1: was 0", "2: was 1", "3: was 2"][..]),
            (&[0, 1, 3], &["1: was 0", "2: was 1", "3: was 3"]),
            (&[0, 2, 3], &["1: was 0", "2: was 2", "3: was 3"]),
            (&[1, 2, 3], &["1: was 1", "2: was 2", "3: was 3"]),
        ] {
            let chain = Chain::new(left);
            chain.shift(3).unwrap();
            assert_eq!(chain.now(), then, "{left:?}");
        }
    }

    #[test]
    fn what_cannot_be_removed_or_moved_is_named_and_nothing_is_lost_however_often_it_is_tried() {
        // A folder cannot be removed as a file, and no file can be put in the place of a folder.
        let chain = Chain::new(&[0, 1]);
        fs::create_dir(chain.path(2)).unwrap();
        for _ in 0..3 {
            let error = chain.shift(2).unwrap_err();
            assert_eq!(error, format!("the audit file {} cannot be rotated", chain.path(2).display()));
            assert_eq!(chain.now(), ["0: was 0", "1: was 1"]);
        }
        // A name too long for the file system once a number is behind it.
        let long = chain.0.path().join("a".repeat(254));
        fs::write(&long, "kept").unwrap();
        assert!(matches!(shift(&long, 3), Err(AuditLogError::Rotate { .. })));
        assert_eq!(fs::read_to_string(&long).unwrap(), "kept");
    }
}
