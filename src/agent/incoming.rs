//! A provider's answer: from a stream that the relay has opened to a connection with the local service.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::stream_facts::Facts;
use super::vault::AgentVault;
use super::vault::routes::Route;
use super::vault::session::{FRAME_MAX_BYTES, Session};
use crate::config::types::HostPort;
use crate::core::frame::Frame;
use crate::core::ids::StreamId;
use crate::core::reject::{Reject, RejectCode, ResetCode};
use crate::net::framed::{read_frame, write_frame};
use crate::net::local_tcp::{TcpSink, TcpSource, split, tune};
use crate::net::stream::{BiStream, WriteEnd};
use crate::proto::orp;

/// Why a stream of the relay's was not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotServed {
    /// It does not start with INCOMING_STREAM.
    #[error("no INCOMING_STREAM: {0}")]
    Frame(String),
    /// It was refused, and the relay was told.
    #[error("rejected: {0}")]
    Rejected(Reject),
    /// The relay did not take the answer.
    #[error("the relay does not take the answer: {0}")]
    Answer(WriteEnd),
}

/// Both ends of a stream that is served.
#[derive(Debug)]
pub struct Accepted {
    /// The relay's stream, past its STREAM_ACCEPT; what came behind INCOMING_STREAM is still to be read.
    pub stream: BiStream,
    /// The connection to the local service.
    pub local: (TcpSource, TcpSink),
    /// Keeps the stream's id taken.
    pub route: Route,
}

/// Answers a stream that the relay has just opened.
///
/// # Errors
/// Why it is not served; the relay knows then.
pub async fn answer(
    vault: &AgentVault,
    session: &Session,
    mut stream: BiStream,
    facts: &Facts,
) -> Result<Accepted, NotServed> {
    let incoming = match first_frame(&mut stream, vault.config.timeouts.hello).await {
        Ok(incoming) => incoming,
        Err(why) => {
            stream.set_drop_code(ResetCode::PROTOCOL.for_peer(session.codes()));
            return Err(NotServed::Frame(why));
        }
    };
    facts.asked(&incoming, &session.relay);
    // Before the answer: STREAM_READY follows it closely.
    let route = vault.routes.serve(StreamId(incoming.stream_id));
    vault.forget(route.id());
    let local = match connect(vault, &incoming.target_service).await {
        Ok(local) => local,
        Err(reject) => return Err(refuse(stream, reject, vault.config.timeouts.hello).await),
    };
    let local = split(local);
    match timeout(vault.config.timeouts.hello, write_frame(&mut stream.send, &Frame::StreamAccept)).await {
        Ok(Ok(())) => Ok(Accepted { stream, local, route }),
        Ok(Err(end)) => Err(NotServed::Answer(end)),
        Err(_elapsed) => Err(NotServed::Answer(WriteEnd::Closed)),
    }
}

async fn first_frame(stream: &mut BiStream, within: Duration) -> Result<orp::IncomingStream, String> {
    match timeout(within, read_frame(&mut stream.recv, FRAME_MAX_BYTES)).await {
        Ok(Ok(Frame::IncomingStream(incoming))) => Ok(incoming),
        Ok(Ok(other)) => Err(format!("it starts with {}", other.name())),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_elapsed) => Err(format!("no frame within {within:?}")),
    }
}

async fn connect(vault: &AgentVault, service: &str) -> Result<TcpStream, Reject> {
    let Some(expose) = vault.exposed(service) else {
        return Err(Reject::new(RejectCode::NotFound, format!("{service:?} is not exposed here")));
    };
    let within = vault.config.timeouts.local_connect;
    let why = match timeout(within, dial(&expose.to)).await {
        Ok(Ok(local)) => return Ok(local),
        Ok(Err(error)) => error.to_string(),
        Err(_elapsed) => format!("no connection within {within:?}"),
    };
    Err(Reject::new(RejectCode::BadGateway, format!("local service {}: {why}", expose.to)))
}

async fn dial(to: &HostPort) -> std::io::Result<TcpStream> {
    let local = TcpStream::connect(to.as_str()).await?;
    tune(&local);
    Ok(local)
}

async fn refuse(mut stream: BiStream, reject: Reject, within: Duration) -> NotServed {
    // In band it names no stream: it stands on it.
    let frame = Frame::StreamReject(reject.to_message(StreamId(0)));
    match timeout(within, write_frame(&mut stream.send, &frame)).await {
        Ok(Ok(())) => {
            stream.send.finish();
            stream.recv.stop(ResetCode::UNSPECIFIED);
            NotServed::Rejected(reject)
        }
        Ok(Err(end)) => NotServed::Answer(end),
        Err(_elapsed) => NotServed::Answer(WriteEnd::Lost),
    }
}
