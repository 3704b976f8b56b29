//! A certificate that is renewed while the agent runs.

use rustls_pki_types::CertificateDer;

use super::harness::{Deployment, FakeRelay, Peer, agent_uri, soon};
use crate::agent::Agent;
use crate::agent::credentials::CredentialsError;

fn shown(peer: &Peer) -> CertificateDer<'static> {
    let chain = peer.quic.peer_identity().unwrap().downcast::<Vec<CertificateDer<'static>>>().unwrap();
    chain[0].clone()
}

/// The certificate with which the agent comes back once it has been sent away.
async fn next(relay: &FakeRelay, peer: Peer) -> (Peer, CertificateDer<'static>) {
    peer.quic.close(0_u32.into(), b"come again");
    let peer = soon(relay.greet(&[])).await;
    let certificate = shown(&peer);
    (peer, certificate)
}

#[tokio::test]
async fn a_renewed_certificate_counts_from_the_next_dial_on_and_a_bad_one_never() {
    let deployment = Deployment::new();
    let relay = deployment.relay();
    let agent = Agent::start(deployment.config(&[relay.addr()])).await.unwrap();
    let peer = soon(relay.greet(&[])).await;
    let first = shown(&peer);
    let (peer, same) = next(&relay, peer).await;
    assert_eq!(same, first);

    deployment.certify(agent_uri());
    agent.reload().unwrap();
    assert!(peer.quic.close_reason().is_none(), "the connection that stands is left alone");
    let (peer, renewed) = next(&relay, peer).await;
    assert_ne!(renewed, first);

    // Of somebody else; and one that does not belong to the key.
    deployment.certify("outrelay://acme/agent/00000000-0000-4000-8000-00000000beef");
    let error = agent.reload().unwrap_err();
    assert!(matches!(error, CredentialsError::Another { .. }), "{error}");
    let (peer, kept) = next(&relay, peer).await;
    assert_eq!(kept, renewed);
    deployment.write_certificate("no certificate at all");
    assert!(matches!(agent.reload(), Err(CredentialsError::Tls(_))));
    let (_peer, kept) = next(&relay, peer).await;
    assert_eq!(kept, renewed);
    agent.shutdown().await;
}
