use std::io::{Read, Write};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{CipherSuite, ClientConnection, ServerConnection};
use time::OffsetDateTime;

use super::*;
use crate::core::identity::{AgentUri, RelayUri};
use crate::net::harness::{AGENT, CA, Pair, RELAY, material};
use crate::pki::{Ca, CertSpec, Issued, LEAF_DAYS, Validity};

fn relay(ca: &Ca) -> TlsMaterial {
    material(ca, &ca.relay(&RELAY.parse::<RelayUri>().unwrap(), &["127.0.0.1"]).unwrap())
}

fn agent(ca: &Ca) -> TlsMaterial {
    material(ca, &ca.agent(&AGENT.parse::<AgentUri>().unwrap()).unwrap())
}

fn issue(uris: &[&str], validity: Validity) -> Issued {
    let uris = uris.iter().map(|uri| (*uri).to_owned()).collect();
    CA.issue(&CertSpec { name: "x".to_owned(), uris, dns: vec!["localhost".to_owned()], validity }).unwrap()
}

/// A handshake in memory: the negotiated suite, or what either side refused.
fn handshake(client: ClientConfig, server: ServerConfig, name: &str) -> Result<CipherSuite, rustls::Error> {
    let name = name.to_owned().try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let mut wire = Vec::new();
    while client.is_handshaking() || server.is_handshaking() {
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        feed(&mut wire, |bytes| server.read_tls(bytes));
        server.process_new_packets()?;
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        feed(&mut wire, |bytes| client.read_tls(bytes));
        client.process_new_packets()?;
    }
    Ok(server.negotiated_cipher_suite().unwrap().suite())
}

fn feed(wire: &mut Vec<u8>, mut read_tls: impl FnMut(&mut dyn Read) -> io::Result<usize>) {
    let mut bytes = wire.as_slice();
    while !bytes.is_empty() {
        read_tls(&mut bytes).unwrap();
    }
    wire.clear();
}

fn client(material: &TlsMaterial) -> ClientConfig {
    client_config(material, &[ALPN_ORP]).unwrap()
}

fn server(material: &TlsMaterial) -> ServerConfig {
    server_config(material, &[ALPN_ORP]).unwrap()
}

#[test]
fn aes_128_is_negotiated_also_with_a_client_that_prefers_another() {
    let suite = CipherSuite::TLS13_AES_128_GCM_SHA256;
    assert_eq!(handshake(client(&agent(&CA)), server(&relay(&CA)), "localhost"), Ok(suite));
    assert_eq!(handshake(client(&agent(&CA)), server(&relay(&CA)), "127.0.0.1"), Ok(suite));
    let other = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(agent(&CA).roots)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(agent(&CA).leaf)));
    assert_eq!(handshake(other, server(&relay(&CA)), "localhost"), Ok(suite));
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let bare = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(agent(&CA).roots)
        .with_no_client_auth();
    let refused = handshake(bare, server(&relay(&CA)), "localhost");
    assert_eq!(refused, Err(rustls::Error::NoCertificatesPresented));
}

#[test]
fn a_foreign_ca_is_refused_by_either_side() {
    let foreign = Ca::generate().unwrap();
    let mixed = |ca: &Ca| TlsMaterial { roots: agent(&CA).roots, ..agent(ca) };
    let refused = handshake(client(&mixed(&foreign)), server(&relay(&CA)), "localhost").unwrap_err();
    assert!(matches!(refused, rustls::Error::InvalidCertificate(_)), "{refused:?}");
    let refused = handshake(client(&agent(&CA)), server(&relay(&foreign)), "localhost").unwrap_err();
    assert!(matches!(refused, rustls::Error::InvalidCertificate(_)), "{refused:?}");
}

#[test]
fn an_expired_certificate_is_refused() {
    let now = OffsetDateTime::now_utc();
    let validity = Validity { not_before: now - time::Duration::days(2), not_after: now - time::Duration::days(1) };
    let expired = material(&CA, &issue(&[AGENT], validity));
    assert!(invalid_now(&expired.chain()[0]).unwrap().starts_with("it has expired on "));
    let refused = handshake(client(&expired), server(&relay(&CA)), "localhost").unwrap_err();
    assert!(format!("{refused:?}").contains("Expired"), "{refused:?}");
}

#[test]
fn a_certificate_is_valid_from_its_first_moment_to_its_last() {
    let now = OffsetDateTime::now_utc();
    let days = |from, to| {
        let validity =
            Validity { not_before: now + time::Duration::days(from), not_after: now + time::Duration::days(to) };
        invalid_now(&material(&CA, &issue(&[AGENT], validity)).chain()[0])
    };
    assert_eq!(days(-1, 1), None);
    assert!(days(1, 2).unwrap().starts_with("it is not valid before "));
}

#[test]
fn a_server_of_another_name_is_refused() {
    let refused = handshake(client(&agent(&CA)), server(&relay(&CA)), "elsewhere").unwrap_err();
    assert!(format!("{refused:?}").contains("NotValidForName"), "{refused:?}");
    let refused = handshake(client(&agent(&CA)), server(&agent(&CA)), "localhost").unwrap_err();
    assert!(format!("{refused:?}").contains("NotValidForName"), "{refused:?}");
}

#[test]
fn a_certificate_of_another_ca_is_told_also_where_it_is_for_one_use_alone() {
    let foreign = Ca::generate().unwrap();
    for uses in [&[][..], &[ExtendedKeyUsagePurpose::ClientAuth], &[ExtendedKeyUsagePurpose::ServerAuth]] {
        let key = KeyPair::generate().unwrap();
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let mut leaf = CertificateParams::default();
        leaf.extended_key_usages = uses.to_vec();
        let cert = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap().pem();
        let distrusted = |ca: &str| TlsMaterial::from_pem(&cert, &key.serialize_pem(), ca).unwrap().distrusted();
        assert!(distrusted(foreign.cert_pem()).is_some(), "{uses:?}");
        assert_eq!(distrusted(&ca_pem), None, "{uses:?}");
    }
}

#[tokio::test]
async fn each_side_of_a_connection_knows_who_the_other_is() {
    let pair = Pair::new().await;
    assert_eq!(peer_identity(&pair.client).unwrap().as_str(), RELAY);
    assert_eq!(peer_identity(&pair.server).unwrap().as_str(), AGENT);
}

#[test]
fn an_identity_is_exactly_one_outrelay_uri() {
    let valid = Validity::days(LEAF_DAYS).unwrap();
    let identity = |uris: &[&str]| material(&CA, &issue(uris, valid)).identity();
    assert_eq!(identity(&[AGENT]).unwrap().as_str(), AGENT);
    for uris in [&[][..], &[AGENT, RELAY][..], &["https://example.org/"][..], &["outrelay://acme/agent/x/y"][..]] {
        let error = identity(uris).unwrap_err();
        assert!(matches!(error, PeerIdentityError::Rule(_)), "{uris:?}: {error:?}");
    }
}

#[test]
fn an_unusable_file_is_named_with_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let good = CA.agent(&AGENT.parse().unwrap()).unwrap();
    let other = CA.agent(&AGENT.parse().unwrap()).unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        path
    };
    let cert = write("good.crt", &good.cert_pem);
    let key = write("good.key", &good.key_pem);
    let ca = write("ca.crt", CA.cert_pem());
    let noise = write("noise", "hello");
    let cut = write("cut.crt", &good.cert_pem[..100]);
    let other_key = write("other.key", &other.key_pem);
    let absent = dir.path().join("absent");
    let broken = write("broken.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let wrong = |cert: &Path, key: &Path, ca: &Path| {
        let files = Tls { cert: cert.into(), key: key.into(), ca: ca.into() };
        let text = TlsMaterial::load(&files).unwrap_err().to_string();
        text.replace(&format!("{}/", dir.path().display()), "")
    };
    assert_eq!(wrong(&absent, &key, &ca), "absent: cannot be read");
    assert_eq!(wrong(&noise, &key, &ca), "noise: is not PEM");
    assert_eq!(wrong(&cut, &key, &ca), "cut.crt: damaged PEM");
    assert_eq!(wrong(&key, &key, &ca), "good.key: no certificate in it");
    assert_eq!(wrong(&cert, &cert, &ca), "good.crt: no private key in it");
    assert_eq!(wrong(&cert, &key, &key), "good.key: no certificate in it");
    assert_eq!(wrong(&cert, &other_key, &ca), "other.key: the private key does not match the certificate in good.crt");
    assert_eq!(wrong(&broken, &key, &ca), "broken.crt: unusable certificate");
    assert_eq!(wrong(&cert, &key, &broken), "broken.crt: unusable certificate");
    TlsMaterial::load(&Tls { cert, key, ca }).unwrap();
}
