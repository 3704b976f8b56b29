//! The deployment's certificates (wire.md §1): a CA, and leaves that name relays and agents.
//!
//! [`Ca`] works in memory; [`files`] puts what it makes on disk. Keys are ECDSA P-256. The CA has pathlen 0; leaves carry serverAuth and
//! clientAuth, their identity as the only URI SAN, and a relay's also the DNS SAN `localhost`, which legacy agents dial.

pub mod files;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::ServerName;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use x509_parser::parse_x509_certificate;
use x509_parser::pem::parse_x509_pem;

use crate::core::identity::{AgentUri, RelayUri};

/// How long a CA is valid by default.
pub const CA_DAYS: u32 = 3650;
/// How long a leaf is valid by default.
pub const LEAF_DAYS: u32 = 365;

/// Certificates begin this long before they are made, for peers whose clock is behind.
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
/// The name that every relay certificate carries (wire.md §1).
const LOCALHOST: &str = "localhost";

/// Why a certificate could not be made or a CA not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// The certificate could not be made.
    #[error("the certificate could not be made")]
    Generate(#[from] rcgen::Error),
    /// A file could not be read or written.
    #[error("{file}: cannot be {action}")]
    File {
        /// The file.
        file: String,
        /// `read` or `written`.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file exists already and was not to be replaced.
    #[error("{file}: exists already (--force replaces it)")]
    Exists {
        /// The file.
        file: String,
    },
    /// A CA file is not what it should be.
    #[error("{file}: {what}")]
    UnusableCa {
        /// The file.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// A DNS name or URI cannot stand in a certificate.
    #[error("`{0}` cannot stand in a certificate: only ASCII can")]
    Name(String),
    /// What a relay is to be dialled by is no name.
    #[error("`{0}` is neither a DNS name nor an IP address")]
    Dns(String),
    /// A name is no fit part of a file name.
    #[error("`{0}` is no fit file name: letters, digits, `.`, `_` and `-`, at most 64, the first a letter or digit")]
    FileName(String),
    /// A validity of no days, or of more than a certificate can say.
    #[error("a certificate cannot be valid for {0} days")]
    Days(u32),
}

/// Refuses what nobody can dial a relay by. The first label may be `*`.
///
/// # Errors
/// [`PkiError::Dns`].
pub fn check_dns(name: &str) -> Result<(), PkiError> {
    let checked = name.strip_prefix("*.").unwrap_or(name);
    ServerName::try_from(checked).map(drop).map_err(|_| PkiError::Dns(name.to_owned()))
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub not_before: OffsetDateTime,
    /// The last moment.
    pub not_after: OffsetDateTime,
}

impl Validity {
    /// From a few minutes ago, for so many days.
    ///
    /// # Errors
    /// [`PkiError::Days`] for none, or more than a certificate can say.
    pub fn days(days: u32) -> Result<Self, PkiError> {
        let now = OffsetDateTime::now_utc();
        let not_after = now.checked_add(time::Duration::days(i64::from(days)));
        match not_after {
            // X.509 dates end with the year 9999, and so does the type.
            Some(not_after) if days > 0 => Ok(Self { not_before: now - CLOCK_SKEW, not_after }),
            _ => Err(PkiError::Days(days)),
        }
    }
}

/// What a leaf certificate says. [`Ca::relay`] and [`Ca::agent`] fill it by the rules; tests break them.
#[derive(Clone, Debug)]
pub struct CertSpec {
    /// The subject's common name, for people.
    pub name: String,
    /// URI SANs.
    pub uris: Vec<String>,
    /// DNS SANs; what parses as an IP address becomes an IP SAN.
    pub dns: Vec<String>,
    /// When it is valid.
    pub validity: Validity,
}

impl CertSpec {
    /// What a relay's certificate says, by the rules of wire.md §1.
    #[must_use]
    pub fn relay(uri: &RelayUri, dns: &[&str], validity: Validity) -> Self {
        let mut names = vec![LOCALHOST.to_owned()];
        names.extend(dns.iter().filter(|name| **name != LOCALHOST).map(|name| (*name).to_owned()));
        Self { name: uri.id().as_str().to_owned(), uris: vec![uri.as_str().to_owned()], dns: names, validity }
    }

    /// What an agent's certificate says.
    #[must_use]
    pub fn agent(uri: &AgentUri, validity: Validity) -> Self {
        Self { name: uri.uuid().to_owned(), uris: vec![uri.as_str().to_owned()], dns: Vec::new(), validity }
    }
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub cert_pem: String,
    /// Its private key: a secret.
    pub key_pem: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// A certificate authority.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    cert_pem: String,
    not_after: OffsetDateTime,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Ca {
    /// A new CA, valid for [`CA_DAYS`].
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self, PkiError> {
        Self::generate_for(Validity::days(CA_DAYS)?)
    }

    /// A new CA.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate_for(validity: Validity) -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(&ca_name(&key), validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert_pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), cert_pem, not_after: validity.not_after })
    }

    /// The CA whose `ca.crt` and `ca.key` lie in `dir`.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn load(dir: &Path) -> Result<Self, PkiError> {
        Self::load_files(&dir.join(files::CA_CERT), &dir.join(files::CA_KEY))
    }

    /// The CA in these two files.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn load_files(cert: &Path, key: &Path) -> Result<Self, PkiError> {
        let unusable = |path: &Path, what: String| PkiError::UnusableCa { file: path.display().to_string(), what };
        let cert_pem = files::read(cert)?;
        let key_pem = files::read(key)?;
        let key_pair = KeyPair::from_pem(&key_pem).map_err(|_| unusable(key, "no usable private key in it".into()))?;
        let (_, block) =
            parse_x509_pem(cert_pem.as_bytes()).map_err(|_| unusable(cert, "no certificate in it".into()))?;
        let (_, parsed) = parse_x509_certificate(&block.contents)
            .map_err(|error| unusable(cert, format!("unreadable certificate: {error}")))?;
        if !parsed.is_ca() {
            return Err(unusable(cert, "not a CA certificate".into()));
        }
        if parsed.public_key().subject_public_key.data.as_ref() != key_pair.public_key_raw() {
            return Err(unusable(key, format!("the private key does not match the certificate in {}", cert.display())));
        }
        let not_after = parsed.validity().not_after.to_datetime();
        let issuer = Issuer::from_ca_cert_der(&block.contents.as_slice().into(), key_pair)?;
        Ok(Self { issuer, cert_pem, not_after })
    }

    /// The CA's certificate.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The CA's private key: a secret.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A relay's certificate, valid for [`LEAF_DAYS`]: `localhost`, and `dns` names or IP addresses.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate.
    pub fn relay(&self, uri: &RelayUri, dns: &[&str]) -> Result<Issued, PkiError> {
        self.issue(&CertSpec::relay(uri, dns, Validity::days(LEAF_DAYS)?))
    }

    /// An agent's certificate, valid for [`LEAF_DAYS`].
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn agent(&self, uri: &AgentUri) -> Result<Issued, PkiError> {
        self.issue(&CertSpec::agent(uri, Validity::days(LEAF_DAYS)?))
    }

    /// A leaf certificate that says what `spec` says. It ends with the CA at the latest.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate.
    pub fn issue(&self, spec: &CertSpec) -> Result<Issued, PkiError> {
        let validity = Validity { not_after: spec.validity.not_after.min(self.not_after), ..spec.validity };
        let mut params = params(&spec.name, validity);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        for uri in &spec.uris {
            params.subject_alt_names.push(SanType::URI(ascii(uri)?));
        }
        for name in &spec.dns {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(ascii(name)?),
            });
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let cert_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { cert_pem, key_pem: key.serialize_pem() })
    }
}

/// Of two CAs with one name a peer would say that the signature is bad, not that the issuer is unknown.
fn ca_name(key: &KeyPair) -> String {
    let fingerprint = Sha256::digest(key.public_key_raw());
    let hex: String = fingerprint.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("outrelay CA {hex}")
}

fn params(name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = validity.not_before;
    params.not_after = validity.not_after;
    params
}

fn ascii(text: &str) -> Result<Ia5String, PkiError> {
    Ia5String::try_from(text).map_err(|_| PkiError::Name(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use x509_parser::certificate::X509Certificate;
    use x509_parser::extensions::GeneralName;

    use super::*;

    const RELAY: &str = "outrelay://acme/relay/r1";
    const AGENT: &str = "outrelay://acme/agent/0190b3f0-6c1e-7c3a-9f59-0123456789ab";

    fn parsed<T>(pem: &str, look: impl FnOnce(&X509Certificate<'_>) -> T) -> T {
        let (_, block) = parse_x509_pem(pem.as_bytes()).unwrap();
        look(&block.parse_x509().unwrap())
    }

    fn names(pem: &str) -> Vec<String> {
        parsed(pem, |certificate| {
            let names = certificate.subject_alternative_name().unwrap();
            names
                .iter()
                .flat_map(|names| &names.value.general_names)
                .map(|name| match name {
                    GeneralName::URI(uri) => format!("uri {uri}"),
                    GeneralName::DNSName(name) => format!("dns {name}"),
                    GeneralName::IPAddress(bytes) => format!("ip {bytes:?}"),
                    other => format!("{other:?}"),
                })
                .collect()
        })
    }

    #[test]
    fn a_ca_may_sign_leaves_and_no_further_ca() {
        let ca = Ca::generate().unwrap();
        parsed(ca.cert_pem(), |certificate| {
            let constraints = certificate.basic_constraints().unwrap().unwrap();
            assert!(constraints.critical && constraints.value.ca);
            assert_eq!(constraints.value.path_len_constraint, Some(0));
            assert!(certificate.key_usage().unwrap().unwrap().value.key_cert_sign());
        });
    }

    #[test]
    fn every_ca_has_a_name_of_its_own() {
        let name = |ca: &Ca| parsed(ca.cert_pem(), |certificate| certificate.subject().to_string());
        let (one, other) = (Ca::generate().unwrap(), Ca::generate().unwrap());
        assert!(name(&one).starts_with("CN=outrelay CA ") && name(&one) != name(&other), "{}", name(&one));
    }

    #[test]
    fn a_relay_certificate_carries_localhost_once_and_the_names_that_were_asked_for() {
        let ca = Ca::generate().unwrap();
        let relay = ca.relay(&RELAY.parse().unwrap(), &["localhost", "relay.example", "10.0.0.1"]).unwrap();
        assert_eq!(
            names(&relay.cert_pem),
            [&format!("uri {RELAY}"), "dns localhost", "dns relay.example", "ip [10, 0, 0, 1]"]
        );
    }

    #[test]
    fn leaves_serve_as_server_and_client_and_are_signed_by_the_ca() {
        let ca = Ca::generate().unwrap();
        let agent = ca.agent(&AGENT.parse().unwrap()).unwrap();
        assert_eq!(names(&agent.cert_pem), [format!("uri {AGENT}")]);
        parsed(ca.cert_pem(), |issuer| {
            parsed(&agent.cert_pem, |leaf| {
                let usage = leaf.extended_key_usage().unwrap().unwrap().value;
                assert!(usage.server_auth && usage.client_auth && !leaf.is_ca());
                assert_eq!(leaf.issuer(), issuer.subject());
                let now = OffsetDateTime::now_utc();
                let validity = leaf.validity();
                assert!(validity.not_before.to_datetime() < now - time::Duration::minutes(4));
                let days = (validity.not_after.to_datetime() - now).whole_days();
                assert!((364..=365).contains(&days), "{days}");
            });
        });
    }

    #[test]
    fn a_leaf_does_not_outlive_its_ca() {
        let validity = Validity::days(1).unwrap();
        let ca = Ca::generate_for(validity).unwrap();
        let leaf = ca.agent(&AGENT.parse().unwrap()).unwrap();
        let not_after = parsed(&leaf.cert_pem, |leaf| leaf.validity().not_after.timestamp());
        assert_eq!(not_after, validity.not_after.unix_timestamp());
    }

    #[test]
    fn a_validity_that_cannot_be_said_is_refused() {
        assert!(matches!(Validity::days(0), Err(PkiError::Days(0))));
        assert!(matches!(Validity::days(u32::MAX), Err(PkiError::Days(u32::MAX))));
    }

    #[test]
    fn a_key_is_not_shown_by_debug() {
        let issued = Ca::generate().unwrap().agent(&AGENT.parse().unwrap()).unwrap();
        assert!(!format!("{issued:?}").contains("PRIVATE"));
    }
}
