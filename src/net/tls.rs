//! Mutual TLS 1.3 (wire.md §1): key material, configurations, and who the peer is.
//!
//! AES-128-GCM is offered and chosen first: rustls would prefer AES-256, which costs more for nothing here. Session resumption is
//! off on both sides, so that every connection shows a certificate that is valid *now*.

use std::any::Any;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig, client};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use x509_parser::time::ASN1Time;

use crate::config::Invalid;
use crate::config::types::Tls;
use crate::core::identity::{Identity, IdentityError};

/// The application protocol of agents and relays.
pub const ALPN_ORP: &[u8] = b"orp/1";

/// Why key material is unusable. Each message names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file could not be read.
    #[error("{file}: cannot be read")]
    Read {
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds no PEM section at all.
    #[error("{file}: is not PEM")]
    NotPem {
        /// The file.
        file: String,
    },
    /// The file's PEM is damaged.
    #[error("{file}: damaged PEM")]
    DamagedPem {
        /// The file.
        file: String,
        /// What is damaged.
        source: pem::Error,
    },
    /// There is PEM in the file, but no certificate.
    #[error("{file}: no certificate in it")]
    NoCertificate {
        /// The file.
        file: String,
    },
    /// There is PEM in the file, but no private key.
    #[error("{file}: no private key in it")]
    NoKey {
        /// The file.
        file: String,
    },
    /// A certificate is not what a certificate must be.
    #[error("{file}: unusable certificate")]
    BadCertificate {
        /// The file.
        file: String,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The key is of a kind that cannot be used.
    #[error("{file}: unusable private key")]
    BadKey {
        /// The file.
        file: String,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The key does not belong to the certificate.
    #[error("{key}: the private key does not match the certificate in {cert}")]
    Mismatch {
        /// The key's file.
        key: String,
        /// The certificate's file.
        cert: String,
    },
    /// rustls refused the configuration.
    #[error("TLS configuration refused")]
    Refused {
        /// Its reason.
        #[from]
        source: rustls::Error,
    },
    /// The CA certificates make no client verifier.
    #[error("TLS client verification refused")]
    Verifier {
        /// Its reason.
        #[from]
        source: rustls::client::VerifierBuilderError,
    },
}

/// A node's key material, checked: the key belongs to the certificate, and there is a CA.
#[derive(Clone, Debug)]
pub struct TlsMaterial {
    leaf: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    /// Where the certificate and the CA come from.
    files: [Arc<str>; 2],
}

/// The keys of the configuration that name the files.
const CERT: &str = "tls.cert";
const KEY: &str = "tls.key";
const CA: &str = "tls.ca";

/// PEM text and where it came from, for error messages.
struct Source {
    name: String,
    pem: Vec<u8>,
}

impl Source {
    fn read(path: &Path) -> Result<Self, TlsError> {
        let name = path.display().to_string();
        match std::fs::read(path) {
            Ok(pem) => Ok(Self { name, pem }),
            Err(source) => Err(TlsError::Read { file: name, source }),
        }
    }

    /// Every section of one kind, in order; `none` makes the error when there is none.
    fn sections<T: PemObject>(&self, none: fn(String) -> TlsError) -> Result<Vec<T>, TlsError> {
        if !self.pem.windows(11).any(|window| window == b"-----BEGIN ") {
            return Err(TlsError::NotPem { file: self.name.clone() });
        }
        let sections: Vec<T> = T::pem_slice_iter(&self.pem)
            .collect::<Result<_, _>>()
            .map_err(|source| TlsError::DamagedPem { file: self.name.clone(), source })?;
        if sections.is_empty() { Err(none(self.name.clone())) } else { Ok(sections) }
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        self.sections(|file| TlsError::NoCertificate { file })
    }

    fn signer(&self) -> Result<Arc<dyn SigningKey>, TlsError> {
        let mut keys: Vec<PrivateKeyDer<'static>> = self.sections(|file| TlsError::NoKey { file })?;
        let signer = ring::default_provider().key_provider.load_private_key(keys.swap_remove(0));
        signer.map_err(|source| TlsError::BadKey { file: self.name.clone(), source })
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots.add(certificate).map_err(|source| TlsError::BadCertificate { file: self.name.clone(), source })?;
        }
        Ok(roots)
    }
}

impl TlsMaterial {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn load(files: &Tls) -> Result<Self, TlsError> {
        Self::new(&Source::read(&files.cert)?, &Source::read(&files.key)?, &Source::read(&files.ca)?)
    }

    /// As [`Self::load`], for who wants to hear all that is wrong.
    ///
    /// # Errors
    /// Each with the key of the configuration that names the file.
    pub fn check(files: &Tls) -> Result<Self, Vec<Invalid>> {
        let cert = Source::read(&files.cert).and_then(|file| Ok((file.certificates()?, file.name)));
        let key = Source::read(&files.key).and_then(|file| Ok((file.signer()?, file.name)));
        let ca = Source::read(&files.ca).and_then(|file| Ok((file.roots()?, file.name)));
        let own = match (cert, key) {
            (Ok((chain, cert)), Ok((signer, key))) => match leaf(chain, signer, &cert, &key) {
                Ok(leaf) => Ok((leaf, cert)),
                Err(error @ TlsError::Mismatch { .. }) => Err(vec![Invalid::of_file(KEY, error)]),
                Err(error) => Err(vec![Invalid::of_file(CERT, error)]),
            },
            (cert, key) => {
                let wrong = [(CERT, cert.err()), (KEY, key.err())];
                Err(wrong.into_iter().filter_map(|(key, error)| Some(Invalid::of_file(key, error?))).collect())
            }
        };
        match (own, ca) {
            (Ok((leaf, cert)), Ok((roots, ca))) => {
                Ok(Self { leaf: Arc::new(leaf), roots: Arc::new(roots), files: [cert.into(), ca.into()] })
            }
            (own, ca) => {
                let wrong = own.err().into_iter().flatten();
                Err(wrong.chain(ca.err().map(|error| Invalid::of_file(CA, error))).collect())
            }
        }
    }

    /// The same from PEM text in memory.
    ///
    /// # Errors
    /// Says which of the three is unusable, and why.
    pub fn from_pem(cert: &str, key: &str, ca: &str) -> Result<Self, TlsError> {
        let source = |name: &str, pem: &str| Source { name: name.to_owned(), pem: pem.into() };
        Self::new(&source("certificate", cert), &source("private key", key), &source("CA certificate", ca))
    }

    fn new(cert: &Source, key: &Source, ca: &Source) -> Result<Self, TlsError> {
        let leaf = leaf(cert.certificates()?, key.signer()?, &cert.name, &key.name)?;
        let files = [cert, ca].map(|file| file.name.as_str().into());
        Ok(Self { leaf: Arc::new(leaf), roots: Arc::new(ca.roots()?), files })
    }

    /// The leaf certificate and the intermediates behind it.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.leaf.cert
    }

    /// Who this material says its holder is.
    ///
    /// # Errors
    /// When the leaf's URI SANs are not exactly one identity (wire.md §1).
    pub fn identity(&self) -> Result<Identity, PeerIdentityError> {
        certificate_identity(self.chain().first().ok_or(PeerIdentityError::NoCertificate)?)
    }

    /// Says so in the log where peers will refuse the leaf, who say less: where it is not valid now; and, unless that was said of
    /// `before`, which is the same, where only peers that trust another CA than this node will take it.
    pub fn warn_unless_valid(&self, before: Option<&Self>) {
        if let Some(why) = self.chain().first().and_then(invalid_now) {
            tracing::warn!("peers will refuse our certificate: {why}");
        }
        if before.is_some_and(|before| self.is_same(before)) {
            return;
        }
        if let Some(why) = self.distrusted() {
            let [cert, ca] = &self.files;
            tracing::info!(
                "our certificate ({CERT}) {cert} does not come from the CA in ({CA}) {ca}: peers that trust the same CA only will refuse it: {why}"
            );
        }
    }

    /// Whether certificates and CA are those of `other`.
    fn is_same(&self, other: &Self) -> bool {
        self.chain() == other.chain() && self.roots.roots == other.roots.roots
    }

    /// Why the own CA does not vouch for the own leaf.
    fn distrusted(&self) -> Option<rustls::Error> {
        let (leaf, rest) = self.chain().split_first()?;
        let (provider, now) = (provider(), UnixTime::now());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider.clone()).build().ok()?;
        let as_client = verifier.verify_client_cert(leaf, rest, now).err();
        let as_server = || {
            let algorithms = provider.signature_verification_algorithms.all;
            let leaf = ParsedCertificate::try_from(leaf).ok()?;
            verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, rest, now, algorithms).err()
        };
        // What a certificate is for, and until when, is another question. Of one that is not for this use nothing else is told.
        let is_foreign = |why: &rustls::Error| {
            matches!(
                why,
                rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)
            )
        };
        as_client.filter(is_foreign).or_else(|| as_server().filter(is_foreign))
    }
}

/// The chain with its key.
fn leaf(
    chain: Vec<CertificateDer<'static>>,
    signer: Arc<dyn SigningKey>,
    cert: &str,
    key: &str,
) -> Result<CertifiedKey, TlsError> {
    let leaf = CertifiedKey::new(chain, signer);
    leaf.keys_match().map_err(|source| match source {
        rustls::Error::InconsistentKeys(_) => TlsError::Mismatch { key: key.to_owned(), cert: cert.to_owned() },
        source => TlsError::BadCertificate { file: cert.to_owned(), source },
    })?;
    Ok(leaf)
}

fn invalid_now(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = parse_x509_certificate(certificate).ok()?;
    let (validity, now) = (parsed.validity(), ASN1Time::now());
    if now < validity.not_before {
        Some(format!("it is not valid before {}", validity.not_before))
    } else if now > validity.not_after {
        Some(format!("it has expired on {}", validity.not_after))
    } else {
        None
    }
}

fn provider() -> Arc<CryptoProvider> {
    use ring::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256};
    Arc::new(CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256],
        ..ring::default_provider()
    })
}

/// For whoever accepts: a client must show a certificate of the deployment's CA.
///
/// # Errors
/// When rustls refuses the material.
pub fn server_config(material: &TlsMaterial, alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(material.roots.clone(), provider()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(material.leaf.clone())));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.ignore_client_order = true;
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Looks again at certificates that were good when their connections began.
#[derive(Clone, Debug)]
pub struct ClientCheck(Arc<dyn ClientCertVerifier>);

impl ClientCheck {
    /// By the authority of `material`.
    ///
    /// # Errors
    /// When rustls refuses the material.
    pub fn new(material: &TlsMaterial) -> Result<Self, TlsError> {
        Ok(Self(WebPkiClientVerifier::builder_with_provider(material.roots.clone(), provider()).build()?))
    }

    /// Whether the peer of `connection` would still be let in now.
    ///
    /// # Errors
    /// Why it would not: its certificate has expired, or its authority is not trusted any more.
    pub fn check(&self, connection: &quinn::Connection) -> Result<(), rustls::Error> {
        let chain = connection.peer_identity().ok_or(rustls::Error::NoCertificatesPresented)?;
        let chain: &dyn Any = chain.as_ref();
        let chain = chain.downcast_ref::<Vec<CertificateDer<'static>>>();
        let (leaf, rest) = chain.and_then(|chain| chain.split_first()).ok_or(rustls::Error::NoCertificatesPresented)?;
        self.0.verify_client_cert(leaf, rest, UnixTime::now()).map(|_verified| ())
    }
}

/// For whoever dials: the server must show a certificate of the deployment's CA for the name that is dialled.
///
/// # Errors
/// When rustls refuses the material.
pub fn client_config(material: &TlsMaterial, alpn: &[&[u8]]) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(material.roots.clone())
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(material.leaf.clone())));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = client::Resumption::disabled();
    Ok(config)
}

/// Why a peer has no identity. The text is fit for a close reason (wire.md §1).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerIdentityError {
    /// The peer showed no certificate.
    #[error("no peer certificate")]
    NoCertificate,
    /// The leaf certificate cannot be parsed.
    #[error("unreadable peer certificate: {0}")]
    Unreadable(String),
    /// The URI SANs break a rule.
    #[error("certificate identity: {0}")]
    Rule(IdentityError),
}

/// Who is at the other end of `connection`.
///
/// # Errors
/// Says which rule the peer's certificate breaks.
pub fn peer_identity(connection: &quinn::Connection) -> Result<Identity, PeerIdentityError> {
    let chain = connection.peer_identity().ok_or(PeerIdentityError::NoCertificate)?;
    let chain: &dyn Any = chain.as_ref();
    let leaf = chain.downcast_ref::<Vec<CertificateDer<'static>>>().and_then(|chain| chain.first());
    certificate_identity(leaf.ok_or(PeerIdentityError::NoCertificate)?)
}

/// Who a certificate names: its one URI SAN (wire.md §1).
///
/// # Errors
/// Says which rule the certificate breaks.
pub fn certificate_identity(certificate: &CertificateDer<'_>) -> Result<Identity, PeerIdentityError> {
    let (_, parsed) =
        parse_x509_certificate(certificate).map_err(|error| PeerIdentityError::Unreadable(error.to_string()))?;
    let names = parsed.subject_alternative_name().map_err(|error| PeerIdentityError::Unreadable(error.to_string()))?;
    let uris = names.iter().flat_map(|extension| &extension.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    Identity::from_uri_sans(uris).map_err(PeerIdentityError::Rule)
}

#[cfg(test)]
mod tests;
