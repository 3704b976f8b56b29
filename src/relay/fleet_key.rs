//! The fleet's key file: read only where nobody else can read it, and made where there is none.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::config::Invalid;
use crate::config::types::folder_of;
use crate::core::ticket::keys::{FleetKey, FleetKeys, KEY_BYTES, KeyFileError, KeyId};

/// Far longer than a file of the most keys with a comment on each line.
const FILE_MAX_BYTES: u64 = 64 << 10;
const MODE: u32 = 0o600;
const OTHERS: u32 = 0o077;

/// Why a key file is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FleetKeyError {
    /// It cannot be read.
    #[error("{} cannot be read", file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others may read or write it.
    #[error("{} has mode {mode:04o}: a fleet key is for its owner alone, make it 0600", file.display())]
    Mode {
        /// Which file.
        file: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// What stands in it is wrong.
    #[error("{}", file.display())]
    Content {
        /// Which file.
        file: PathBuf,
        /// What, and on which line.
        source: KeyFileError,
    },
    /// It is not there, and cannot be made.
    #[error("{} cannot be made", file.display())]
    Create {
        /// Which file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The keys of a relay that is given `file` anew: made where it is not there; in memory where no file is given.
///
/// # Errors
/// Why it is not used.
pub fn of(file: Option<&Path>) -> Result<FleetKeys, FleetKeyError> {
    let Some(file) = file else {
        tracing::info!("no `resume.fleet_key`: tickets are of use to this relay alone, and end with it");
        return Ok(in_memory());
    };
    load_or_create(file)
}

/// What is wrong with the configured file. It is not made here.
#[must_use]
pub fn problem(file: Option<&Path>) -> Option<Invalid> {
    let file = file?;
    let wrong = if is_absent(file) {
        folder_of(file).map_err(|source| FleetKeyError::Create { file: file.to_owned(), source })
    } else {
        load(file).map(drop)
    };
    wrong.err().map(|error| Invalid::of_file("resume.fleet_key", error))
}

/// A dangling link is no place for a key.
fn is_absent(file: &Path) -> bool {
    file.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// The keys in `file`. Where there is no such file, it is made, with one random key and mode 0600.
///
/// # Errors
/// Why it is not used.
fn load_or_create(file: &Path) -> Result<FleetKeys, FleetKeyError> {
    if is_absent(file) {
        match create(file) {
            Ok(()) => tracing::info!(file = %file.display(), "fleet key made"),
            // Another relay of this machine was quicker: its key is as good.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(FleetKeyError::Create { file: file.to_owned(), source }),
        }
    }
    load(file)
}

/// The keys in `file`.
///
/// # Errors
/// Why it is not used.
pub fn load(file: &Path) -> Result<FleetKeys, FleetKeyError> {
    let unreadable = |source| FleetKeyError::Read { file: file.to_owned(), source };
    let opened = File::open(file).map_err(unreadable)?;
    let mode = opened.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(FleetKeyError::Mode { file: file.to_owned(), mode });
    }
    let mut text = String::new();
    opened.take(FILE_MAX_BYTES).read_to_string(&mut text).map_err(unreadable)?;
    FleetKeys::parse(&text).map_err(|source| FleetKeyError::Content { file: file.to_owned(), source })
}

/// One random key that is in no file: no other relay knows it, and neither does this one after a restart.
fn in_memory() -> FleetKeys {
    FleetKeys::of(FleetKey::new(KeyId(rand::random()), &rand::random::<[u8; KEY_BYTES]>()))
}

/// Written beside and linked, so that nobody sees half of it, and a file that is there meanwhile stays.
fn create(file: &Path) -> io::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{:08x}.tmp", rand::random::<u32>()));
    let beside = PathBuf::from(name);
    let line = FleetKey::line(KeyId(rand::random()), &rand::random());
    let text = format!("# Fleet key of outrelay relays: `<id> <key>`, the newest first. Keep it secret.\n{line}\n");
    let made = write_new(&beside, &text).and_then(|()| fs::hard_link(&beside, file));
    if let Err(error) = fs::remove_file(&beside)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(file = %beside.display(), %error, "a temporary file with a key could not be removed");
    }
    made
}

fn write_new(file: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(file)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(keys: &FleetKeys) -> Vec<KeyId> {
        keys.ids().collect()
    }

    fn write(file: &Path, text: &str, mode: u32) {
        fs::write(file, text).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_that_is_not_there_is_made_for_its_owner_alone_and_read_again_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("fleet.key");
        let made = load_or_create(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        assert_eq!(ids(&load_or_create(&file).unwrap()), ids(&made));
        assert_eq!(made.ids().count(), 1);
    }

    #[test]
    fn a_file_that_others_may_read_is_not_used_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("fleet.key");
        let line = FleetKey::line(KeyId(1), &[1; KEY_BYTES]);
        for mode in [0o644, 0o640, 0o604, 0o620] {
            write(&file, &line, mode);
            let error = load_or_create(&file).unwrap_err().to_string();
            assert!(error.contains(&format!("mode {mode:04o}")) && error.contains("0600"), "{error}");
        }
        for mode in [0o600, 0o400] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(ids(&load_or_create(&file).unwrap()), [KeyId(1)]);
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_the_file_and_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("fleet.key");
        write(&file, "# none\nx\n", 0o600);
        let error = anyhow::Error::new(load_or_create(&file).unwrap_err());
        assert!(format!("{error:#}").contains("fleet.key: line 2: "), "{error:#}");
        assert!(load(&dir.path().join("none")).unwrap_err().to_string().contains("none cannot be read"));
        let nowhere = load_or_create(&dir.path().join("no/dir")).unwrap_err();
        assert!(nowhere.to_string().contains("cannot be made"), "{nowhere}");
    }
}
