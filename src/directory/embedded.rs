//! The directory of a relay that stands alone: rules from a file, the audit into a file, no other program.

use std::path::PathBuf;

use super::audit_log::rotation::Rotation;
use super::audit_log::{AuditLog, AuditLogError};
use super::rules::{self, Rules};
use crate::config::relay::Directory;
use crate::config::types::folder_of;
use crate::config::{Invalid, Problems};

/// Where rules come from and decisions go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Embedded {
    /// The rules file; none: closed world.
    pub rules: Option<PathBuf>,
    /// The audit file; none: decisions are not kept.
    pub audit: Option<PathBuf>,
    /// When a new audit file is begun, and how many old ones stay.
    pub rotation: Rotation,
}

impl From<&Directory> for Embedded {
    fn from(config: &Directory) -> Self {
        let rotation = Rotation { max_bytes: config.audit_max_bytes, keep: config.audit_keep };
        Self { rules: config.rules.clone(), audit: config.audit.clone(), rotation }
    }
}

impl Embedded {
    /// The rules as they stand in the file now, `now_unix_ms` in milliseconds since 1970; none where there is no file, so that
    /// everything is denied. Blocks on the file.
    ///
    /// # Errors
    /// Everything that is wrong with the file: then none of it counts.
    pub fn load_rules(&self, now_unix_ms: i64) -> Result<Rules, Problems> {
        match &self.rules {
            Some(path) => rules::load(path, now_unix_ms),
            None => Ok(Rules::default()),
        }
    }

    /// What is wrong with the configured audit file. It is not made here.
    #[must_use]
    pub fn audit_problem(&self) -> Option<Invalid> {
        let path = self.audit.as_deref()?;
        let wrong = match path.symlink_metadata() {
            Ok(_) => self.open_audit().map(drop),
            Err(_) => folder_of(path).map_err(|source| AuditLogError::Open { path: path.to_owned(), source }),
        };
        wrong.err().map(|error| Invalid::of_file("directory.audit", error))
    }

    /// The audit file, ready to be appended to; none where none is wanted.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open_audit(&self) -> Result<Option<AuditLog>, AuditLogError> {
        self.audit.as_deref().map(|path| AuditLog::open(path, self.rotation)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_files_the_world_is_closed_and_nothing_is_written() {
        let nothing = Embedded::default();
        assert_eq!(nothing.load_rules(0), Ok(Rules::default()));
        assert!(nothing.open_audit().unwrap().is_none());
    }

    #[test]
    fn with_files_they_are_used() {
        let folder = tempfile::tempdir().unwrap();
        let config = Directory {
            rules: Some(folder.path().join("rules.toml")),
            audit: Some(folder.path().join("audit.jsonl")),
            audit_max_bytes: 4_096,
            audit_keep: 7,
            ..Directory::default()
        };
        let directory = Embedded::from(&config);
        assert!(directory.load_rules(0).is_err(), "a file that is named must be there");
        std::fs::write(folder.path().join("rules.toml"), "[[allow]]\ntenant = \"a\"\nfrom = \"*\"\nto = \"*\"\n")
            .unwrap();
        assert_eq!(directory.load_rules(0).unwrap().rules.len(), 2);
        assert!(directory.open_audit().unwrap().is_some());
        assert_eq!(directory.rotation, Rotation { max_bytes: 4_096, keep: 7 });
    }
}
