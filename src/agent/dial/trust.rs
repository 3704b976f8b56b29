//! Who does not trust whom, where a connection fails for a certificate: who it is decides which file is wrong, and where.

use quinn::ConnectionError;
use rustls::AlertDescription;

use crate::config::agent::AgentConfig;

/// The first of the codes that stand for a TLS alert (RFC 9001 §4.8).
const ALERTS: u64 = 0x100;

/// What is to be said where `error` is about a certificate; none where it is not.
pub(super) fn distrust(error: &ConnectionError, config: &AgentConfig) -> Option<String> {
    let tls = &config.tls;
    match error {
        // The alert is the relay's.
        ConnectionError::ConnectionClosed(close) => {
            let alert = about_certificate(close.error_code.into())?;
            let cert = tls.cert.display();
            Some(format!("the relay refuses our certificate (tls.cert) {cert}: is it of the relay's CA? {alert:?}"))
        }
        // Our own verification has failed.
        ConnectionError::TransportError(error) => {
            about_certificate(error.code.into())?;
            let (ca, name) = (tls.ca.display(), &config.server_name);
            Some(format!(
                "we do not trust the relay's certificate by the CA in (tls.ca) {ca} for the name `{name}` (server_name): {}",
                error.reason
            ))
        }
        _ => None,
    }
}

fn about_certificate(code: u64) -> Option<AlertDescription> {
    let alert = AlertDescription::from(u8::try_from(code.checked_sub(ALERTS)?).ok()?);
    let is_about = matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
            | AlertDescription::CertificateRequired
    );
    is_about.then_some(alert)
}
