//! Certificates on disk, laid out as cli.md says: `ca.crt`, `relay-r1.crt`, `agent-web.crt`, and a `.key` beside each.
//!
//! A key is never readable by others, not even while it is written; a file appears whole or not at all; an existing one is replaced only
//! when that was asked for, and both files of a pair are checked before either is written.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{CA_DAYS, Ca, CertSpec, Issued, LEAF_DAYS, PkiError, Validity};
use crate::core::identity::{AgentUri, RelayUri};

/// The CA certificate's file.
pub const CA_CERT: &str = "ca.crt";
/// The CA key's file.
pub const CA_KEY: &str = "ca.key";

const CERT_MODE: u32 = 0o644;
const KEY_MODE: u32 = 0o600;

/// What becomes of a file that exists already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and nothing is written.
    #[default]
    Keep,
    /// It is replaced.
    Replace,
}

/// How a pair is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Days of validity; none is [`CA_DAYS`] or [`LEAF_DAYS`].
    pub days: Option<u32>,
    /// What becomes of files that exist already.
    pub existing: Existing,
}

/// Where a pair was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The certificate.
    pub cert: PathBuf,
    /// The private key, mode 0600.
    pub key: PathBuf,
}

/// Makes a CA: `ca.crt` and `ca.key` in `dir`, which is created if need be.
///
/// # Errors
/// When a file exists already or cannot be written.
pub fn create_ca(dir: &Path, options: &Options) -> Result<Written, PkiError> {
    let written = free_pair(dir, "ca", options.existing)?;
    let ca = Ca::generate_for(Validity::days(options.days.unwrap_or(CA_DAYS))?)?;
    fs::create_dir_all(dir).map_err(|source| file_error(dir, "written", source))?;
    let issued = Issued { cert_pem: ca.cert_pem().to_owned(), key_pem: ca.key_pem() };
    write_pair(&written, &issued, options.existing)?;
    Ok(written)
}

/// Issues a relay's certificate by the CA in `dir`: `relay-<id>.crt` and `.key`. `dns` are names or IP addresses beside `localhost`.
///
/// # Errors
/// When the CA is unusable, or a file exists already or cannot be written.
pub fn issue_relay(dir: &Path, uri: &RelayUri, dns: &[&str], options: &Options) -> Result<Written, PkiError> {
    let validity = Validity::days(options.days.unwrap_or(LEAF_DAYS))?;
    issue(dir, &format!("relay-{}", uri.id()), &CertSpec::relay(uri, dns, validity), options.existing)
}

/// Issues an agent's certificate by the CA in `dir`: `agent-<name>.crt` and `.key`.
///
/// # Errors
/// When the CA is unusable, `name` is no fit file name, or a file exists already or cannot be written.
pub fn issue_agent(dir: &Path, name: &str, uri: &AgentUri, options: &Options) -> Result<Written, PkiError> {
    check_name(name)?;
    let validity = Validity::days(options.days.unwrap_or(LEAF_DAYS))?;
    issue(dir, &format!("agent-{name}"), &CertSpec::agent(uri, validity), options.existing)
}

fn issue(dir: &Path, stem: &str, spec: &CertSpec, existing: Existing) -> Result<Written, PkiError> {
    let written = free_pair(dir, stem, existing)?;
    let issued = Ca::load(dir)?.issue(spec)?;
    write_pair(&written, &issued, existing)?;
    Ok(written)
}

pub(super) fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| file_error(path, "read", source))
}

/// A name from the command line becomes part of a path: it must not lead out of the directory.
///
/// # Errors
/// [`PkiError::FileName`].
pub fn check_name(name: &str) -> Result<(), PkiError> {
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if first && name.len() <= 64 && name.bytes().all(fit) { Ok(()) } else { Err(PkiError::FileName(name.to_owned())) }
}

fn free_pair(dir: &Path, stem: &str, existing: Existing) -> Result<Written, PkiError> {
    let written = Written { cert: dir.join(format!("{stem}.crt")), key: dir.join(format!("{stem}.key")) };
    if existing == Existing::Keep {
        for path in [&written.cert, &written.key] {
            // A dangling link is in the way too.
            if path.symlink_metadata().is_ok() {
                return Err(PkiError::Exists { file: path.display().to_string() });
            }
        }
    }
    Ok(written)
}

fn write_pair(pair: &Written, issued: &Issued, existing: Existing) -> Result<(), PkiError> {
    write(&pair.key, &issued.key_pem, KEY_MODE, existing)?;
    write(&pair.cert, &issued.cert_pem, CERT_MODE, existing)
}

fn write(path: &Path, text: &str, mode: u32, existing: Existing) -> Result<(), PkiError> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{:08x}.tmp", rand::random::<u32>()));
    let temporary = PathBuf::from(name);
    let result = write_new(&temporary, text, mode).and_then(|()| match existing {
        Existing::Replace => fs::rename(&temporary, path),
        // Unlike a rename, a link fails when somebody else made the file meanwhile.
        Existing::Keep => fs::hard_link(&temporary, path),
    });
    if let Err(error) = fs::remove_file(&temporary)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(file = %temporary.display(), %error, "a temporary file could not be removed");
    }
    result.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => PkiError::Exists { file: path.display().to_string() },
        _ => file_error(path, "written", source),
    })
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn file_error(path: &Path, action: &'static str, source: io::Error) -> PkiError {
    PkiError::File { file: path.display().to_string(), action, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::types::Tls;
    use crate::net::tls::TlsMaterial;

    const RELAY: &str = "outrelay://acme/relay/r1";
    const AGENT: &str = "outrelay://acme/agent/0190b3f0-6c1e-7c3a-9f59-0123456789ab";
    const FORCE: Options = Options { days: None, existing: Existing::Replace };

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_files_are_laid_out_as_documented_and_usable() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("new/pki");
        let options = Options::default();
        let ca = create_ca(&dir, &options).unwrap();
        let relay = issue_relay(&dir, &RELAY.parse().unwrap(), &["relay.example"], &options).unwrap();
        let agent = issue_agent(&dir, "web", &AGENT.parse().unwrap(), &options).unwrap();
        let expected = ["agent-web.crt", "agent-web.key", "ca.crt", "ca.key", "relay-r1.crt", "relay-r1.key"];
        assert_eq!(names(&dir), expected);
        for (pair, identity) in [(&relay, RELAY), (&agent, AGENT)] {
            let files = Tls { cert: pair.cert.clone(), key: pair.key.clone(), ca: ca.cert.clone() };
            assert_eq!(TlsMaterial::load(&files).unwrap().identity().unwrap().as_str(), identity);
        }
        for pair in [&ca, &relay, &agent] {
            assert_eq!(mode(&pair.key), 0o600);
            assert_eq!(mode(&pair.cert) & 0o022, 0);
        }
    }

    #[test]
    fn an_existing_file_is_kept_and_its_counterpart_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        for name in [CA_CERT, CA_KEY] {
            fs::write(dir.join(name), "mine").unwrap();
            let error = create_ca(dir, &Options::default()).unwrap_err();
            assert!(matches!(&error, PkiError::Exists { file } if file.ends_with(name)), "{error}");
            assert_eq!(names(dir), [name]);
            assert_eq!(fs::read_to_string(dir.join(name)).unwrap(), "mine");
            fs::remove_file(dir.join(name)).unwrap();
        }
        // A link to nowhere is in the way too: through it the key could land anywhere.
        std::os::unix::fs::symlink(dir.join("nowhere"), dir.join(CA_KEY)).unwrap();
        assert!(matches!(create_ca(dir, &Options::default()), Err(PkiError::Exists { .. })));
    }

    #[test]
    fn force_replaces_both_files_and_tightens_the_mode() {
        let dir = tempfile::tempdir().unwrap();
        let first = create_ca(dir.path(), &Options::default()).unwrap();
        fs::set_permissions(&first.key, fs::Permissions::from_mode(0o644)).unwrap();
        let key = fs::read(&first.key).unwrap();
        create_ca(dir.path(), &FORCE).unwrap();
        assert_ne!(fs::read(&first.key).unwrap(), key);
        assert_eq!(mode(&first.key), 0o600);
        assert_eq!(names(dir.path()), [CA_CERT, CA_KEY]);
        Ca::load(dir.path()).unwrap();
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.key");
        fs::write(&path, "mine").unwrap();
        let error = write(&path, "other", KEY_MODE, Existing::Keep).unwrap_err();
        assert!(matches!(error, PkiError::Exists { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        assert_eq!(names(dir.path()), ["x.key"]);
    }

    #[test]
    fn an_unusable_ca_is_named_with_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let wrong = || Ca::load(dir).unwrap_err().to_string().replace(&format!("{}/", dir.display()), "");
        assert_eq!(wrong(), "ca.crt: cannot be read");
        let ca = create_ca(dir, &Options::default()).unwrap();
        let agent = issue_agent(dir, "web", &AGENT.parse().unwrap(), &Options::default()).unwrap();
        fs::copy(&agent.key, &ca.key).unwrap();
        assert_eq!(
            wrong(),
            format!("ca.key: the private key does not match the certificate in {}", ca.cert.display())
                .replace(&format!("{}/", dir.display()), "")
        );
        fs::copy(&agent.cert, &ca.cert).unwrap();
        assert_eq!(wrong(), "ca.crt: not a CA certificate");
        fs::write(&ca.key, "noise").unwrap();
        assert_eq!(wrong(), "ca.key: no usable private key in it");
    }

    #[test]
    fn a_name_that_leads_out_of_the_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        create_ca(dir.path(), &Options::default()).unwrap();
        for name in ["", "../x", "a/b", ".hidden", "a b", &"x".repeat(65)] {
            let error = issue_agent(dir.path(), name, &AGENT.parse().unwrap(), &Options::default()).unwrap_err();
            assert!(matches!(error, PkiError::FileName(_)), "{name}: {error}");
        }
    }
}
