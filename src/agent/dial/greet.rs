//! From a connection to a session: HELLO and its answer (wire.md §2).

use std::sync::Arc;

use tokio::time::{Instant, timeout};

use super::reach::Reached;
use super::trust::distrust;
use super::{CAPABILITIES, DialError};
use crate::agent::vault::AgentVault;
use crate::agent::vault::registrations::Registrations;
use crate::agent::vault::session::{CONTROL_QUEUE, FRAME_MAX_BYTES, Parting, Registered, Session, Target};
use crate::core::frame::Frame;
use crate::core::identity::RelayUri;
use crate::core::ids::Capabilities;
use crate::core::reject::ResetCode;
use crate::net::framed::{ControlReader, write_frame};
use crate::net::receive_window::ReceiveWindow;
use crate::net::stream::BiStream;
use crate::net::stream_limit::StreamLimit;
use crate::proto::orp;
use crate::vault::control_writer::ControlWriter;

/// The only protocol version (wire.md §2, HELLO).
const PROTOCOL_VERSION: &str = "orp/1";

/// Says HELLO, and waits for HELLO_ACK. Without it the connection is closed.
pub(super) async fn greet(vault: &AgentVault, target: &Target, reached: Reached) -> Result<Session, DialError> {
    let Reached { quic, relay } = reached;
    let within = vault.config.timeouts.hello;
    let greeted = timeout(within, hello(vault, target, relay, &quic)).await;
    let session = greeted.unwrap_or(Err(DialError::HelloTimedOut(within)));
    if let Err(error) = &session {
        quic.close(0_u32.into(), error.to_string().as_bytes());
    }
    session
}

async fn hello(
    vault: &AgentVault,
    target: &Target,
    relay: RelayUri,
    quic: &quinn::Connection,
) -> Result<Session, DialError> {
    let failed = |why: &dyn std::fmt::Display| DialError::Hello(why.to_string());
    let (send, recv) = quic.open_bi().await.map_err(|error| closed(vault, quic).unwrap_or_else(|| failed(&error)))?;
    let mut stream = BiStream::from_quic(quic, send, recv, ResetCode::UNSPECIFIED);
    let named: Capabilities = CAPABILITIES.into_iter().collect();
    let hello = Frame::Hello(orp::Hello {
        protocol_version: PROTOCOL_VERSION.to_owned(),
        agent_uri: vault.agent().to_string(),
        capabilities: named.names(),
    });
    if let Err(end) = write_frame(&mut stream.send, &hello).await {
        return Err(closed(vault, quic).unwrap_or_else(|| failed(&end)));
    }
    let mut reader = ControlReader::new(stream.recv, FRAME_MAX_BYTES);
    if let Err(error) = reader.fill().await {
        return Err(closed(vault, quic).unwrap_or_else(|| failed(&error)));
    }
    let ack = match reader.peek() {
        Some(Ok(Frame::HelloAck(ack))) => ack,
        Some(Ok(other)) => return Err(failed(&format!("the answer is {}", other.name()))),
        Some(Err(error)) => return Err(failed(&error)),
        None => return Err(failed(&"no answer")),
    };
    reader.consume();
    let now = Instant::now();
    let cap = u32::try_from(vault.config.limits.streams).unwrap_or(u32::MAX);
    Ok(Session {
        number: vault.next_session(),
        target: target.clone(),
        relay,
        // What was not named must not be used, whatever the relay says.
        features: Capabilities::from_names(&ack.accepted_features).intersection(named),
        reader: Arc::new(tokio::sync::Mutex::new(reader)),
        writer: ControlWriter::new(stream.send, CONTROL_QUEUE),
        window: ReceiveWindow::new(quic.clone(), &vault.config.quic),
        streams: StreamLimit::new(quic.clone(), vault.config.quic.streams_initial, cap),
        quic: quic.clone(),
        since: now,
        registrations: Registered::new(Registrations::new(&vault.config.expose, now)),
        unknown_logged: false.into(),
        parting: Parting::default(),
    })
}

/// What the relay said when it closed the connection tells more than the stream's end.
fn closed(vault: &AgentVault, quic: &quinn::Connection) -> Option<DialError> {
    let reason = quic.close_reason()?;
    Some(match distrust(&reason, &vault.config) {
        Some(why) => DialError::Distrust(why),
        None => DialError::Hello(reason.to_string()),
    })
}
