//! Who may connect: certificates, identities, HELLO.

use outrelay::core::frame::Frame;
use outrelay::core::identity::RelayUri;
use outrelay::pki::{Ca, CertSpec, Issued, Validity};
use outrelay::proto::orp;

use crate::harness::{Deployment, Peer, agent, closed, soon};

/// Whatever the relay did with this certificate, in words: refused by TLS, or closed with a reason.
async fn refusal(deployment: &Deployment, identity: &Issued) -> String {
    let relay = deployment.relay().await;
    // In TLS 1.3 a client is done before the server has seen its certificate, so the refusal may come either way.
    match deployment.try_dial(&relay, identity).await {
        Err(error) => error.to_string(),
        Ok(quic) => soon("the refusal", quic.closed()).await.to_string(),
    }
}

fn spec() -> CertSpec {
    CertSpec::agent(&agent(1), Validity::days(365).unwrap())
}

fn issue(ca: &Ca, uris: &[&str]) -> Issued {
    let spec = CertSpec { uris: uris.iter().map(ToString::to_string).collect(), ..spec() };
    ca.issue(&spec).unwrap()
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let deployment = Deployment::new();
    let mut spec = spec();
    let age = time::Duration::days(400);
    spec.validity.not_before -= age;
    spec.validity.not_after -= age;
    let why = refusal(&deployment, &deployment.ca.issue(&spec).unwrap()).await;
    assert!(why.to_lowercase().contains("expired"), "{why}");
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let deployment = Deployment::new();
    let foreign = Ca::generate().unwrap().agent(&agent(1)).unwrap();
    let why = refusal(&deployment, &foreign).await;
    assert!(why.contains("authority") || why.contains("Issuer") || why.contains("certificate"), "{why}");
}

#[tokio::test]
async fn a_certificate_without_exactly_one_agent_uri_is_refused_with_the_rule_that_failed() {
    let deployment = Deployment::new();
    let one = agent(1).to_string();
    let two = agent(2).to_string();
    for (uris, rule) in [
        (vec![], "no URI"),
        (vec![one.as_str(), two.as_str()], "URI"),
        (vec!["spiffe://acme/agent/x"], "scheme"),
        (vec!["outrelay://acme/agent/not-a-uuid"], "uuid"),
        (vec!["outrelay://ACME/agent/00000000-0000-4000-8000-000000000001"], "ACME"),
        (vec!["outrelay://acme/robot/00000000-0000-4000-8000-000000000001"], "robot"),
        (vec!["outrelay://acme/agent/00000000-0000-4000-8000-000000000001/more"], "more"),
    ] {
        let why = refusal(&deployment, &issue(&deployment.ca, &uris)).await;
        assert!(why.to_lowercase().contains(&rule.to_lowercase()), "{uris:?}: {why}");
    }
}

#[tokio::test]
async fn a_relay_is_not_served_as_an_agent() {
    let deployment = Deployment::new();
    let uri = RelayUri::new(&"acme".parse().unwrap(), &"r9".parse().unwrap());
    let why = refusal(&deployment, &deployment.ca.relay(&uri, &[]).unwrap()).await;
    assert!(why.contains("is a relay"), "{why}");
}

#[tokio::test]
async fn no_certificate_at_all_is_refused() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut roots = rustls::RootCertStore::empty();
    use rustls_pki_types::pem::PemObject as _;
    roots.add(rustls_pki_types::CertificateDer::from_pem_slice(deployment.ca.cert_pem().as_bytes()).unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"orp/1".to_vec()];
    let why = match crate::harness::dial(relay.quic_addr().unwrap(), client).await {
        Err(error) => error.to_string(),
        Ok(quic) => soon("the refusal", quic.closed()).await.to_string(),
    };
    assert!(why.contains("certificate"), "{why}");
}

#[tokio::test]
async fn hello_with_anothers_uri_or_another_version_closes_the_connection_without_a_frame() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    for (uri, version, reason) in
        [(agent(2).to_string(), "orp/1", "certificate"), (agent(1).to_string(), "orp/2", "orp/2")]
    {
        let mut peer = Peer::over(deployment.dial(&relay, 1).await, &agent(1)).await;
        let hello = orp::Hello { protocol_version: version.to_owned(), agent_uri: uri, capabilities: vec![] };
        peer.say(&Frame::Hello(hello)).await;
        assert!(peer.try_hear().await.is_err(), "no frame");
        let (code, why) = closed(&peer.quic).await;
        assert_eq!(code, 0);
        assert!(why.contains(reason), "{why}");
    }
}
