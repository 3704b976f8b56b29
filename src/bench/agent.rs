//! An agent as a legacy one behaves: it names no extension, and reads its control stream only to keep it empty.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::failure::{Failure, Step};
use super::site::{Identity, Site};
use super::{SETUP, load::Trouble};
use crate::core::frame::{Frame, HEADER_LEN, Header};
use crate::core::ids::ServiceName;
use crate::core::reject::ResetCode;
use crate::net::framed::{ControlReader, read_frame, write_frame};
use crate::net::stream::{self, BiStream, End, Read, RecvHalf, SendHalf};
use crate::proto::orp;
use crate::supervise::task::{self, Owned};

/// The first byte of every stream from our provider. No frame begins with it, so a refusal is told from a splice.
pub(super) const READY: u8 = b'r';
/// The longest frame that is read.
pub(super) const FRAME_LIMIT: u32 = 64 * 1024;

/// A connected agent. Dropping it closes its connection.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) quic: quinn::Connection,
    _control: SendHalf,
    _reader: Owned,
}

impl Agent {
    /// Connects and says HELLO, within [`SETUP`].
    pub(super) async fn connect(site: &Site, endpoint: &quinn::Endpoint, who: &Identity) -> Result<Self, Failure> {
        Self::ready(site, endpoint, who, None).await
    }

    /// Connects, says HELLO and registers the site's service.
    pub(super) async fn provide(site: &Site, endpoint: &quinn::Endpoint, who: &Identity) -> Result<Self, Failure> {
        Self::ready(site, endpoint, who, Some(&site.service)).await
    }

    async fn ready(
        site: &Site,
        endpoint: &quinn::Endpoint,
        who: &Identity,
        service: Option<&ServiceName>,
    ) -> Result<Self, Failure> {
        let talk = async {
            let (quic, mut control) = hello(site, endpoint, who).await?;
            if let Some(service) = service {
                register(&mut control, service).await?;
            }
            let reader = task::run(keep_empty(ControlReader::new(control.recv, FRAME_LIMIT)));
            Ok(Self { quic, _control: control.send, _reader: reader })
        };
        timeout(SETUP, talk).await.unwrap_or_else(|_| Err(late(Step::Connect)))
    }

    /// Opens a stream and waits for the provider's first byte; the time from OPEN_STREAM to it.
    pub(super) async fn open(&self, site: &Site, stream_id: u64) -> Result<(BiStream, Duration), Failure> {
        let (send, recv) = self.quic.open_bi().await.map_err(Failure::of(Step::Open))?;
        let mut stream = BiStream::from_quic(&self.quic, send, recv, ResetCode::UNSPECIFIED);
        let open = Frame::OpenStream(orp::OpenStream {
            target_service: site.service.to_string(),
            method: String::new(),
            stream_id,
        });
        let begun = Instant::now();
        write_frame(&mut stream.send, &open).await.map_err(Failure::of(Step::Open))?;
        let mut first = [0];
        match stream.recv.read(&mut first).await {
            Read::Data(_) if first == [READY] => Ok((stream, begun.elapsed())),
            Read::Data(_) => Err(refusal(first, &mut stream.recv).await),
            Read::End(end) => Err(Failure::new(Step::Open, end_text(end))),
        }
    }

    /// The same within [`SETUP`].
    pub(super) async fn open_in_time(&self, site: &Site, stream_id: u64) -> Result<BiStream, Failure> {
        match timeout(SETUP, self.open(site, stream_id)).await {
            Ok(opened) => opened.map(|(stream, _)| stream),
            Err(_) => Err(late(Step::Open)),
        }
    }

    /// Whether anything else can be tried on this connection after `failure`.
    pub(super) fn trouble(&self, failure: Failure) -> Trouble {
        if self.quic.close_reason().is_some() { Trouble::Last(failure) } else { Trouble::Once(failure) }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        leave(&self.quic);
    }
}

/// Says goodbye.
pub(super) fn leave(quic: &quinn::Connection) {
    stream::close(quic, ResetCode::UNSPECIFIED, "done");
}

/// Connects, and exchanges HELLO and HELLO_ACK.
pub(super) async fn hello(
    site: &Site,
    endpoint: &quinn::Endpoint,
    who: &Identity,
) -> Result<(quinn::Connection, BiStream), Failure> {
    let connecting =
        endpoint.connect_with(who.client.clone(), site.relay, &site.server_name).map_err(Failure::of(Step::Connect))?;
    let quic = connecting.await.map_err(Failure::of(Step::Connect))?;
    let (send, recv) = quic.open_bi().await.map_err(Failure::of(Step::Hello))?;
    let mut control = BiStream::from_quic(&quic, send, recv, ResetCode::UNSPECIFIED);
    let hello = Frame::Hello(orp::Hello {
        protocol_version: "orp/1".to_owned(),
        agent_uri: who.uri.to_string(),
        capabilities: Vec::new(),
    });
    write_frame(&mut control.send, &hello).await.map_err(Failure::of(Step::Hello))?;
    match read_frame(&mut control.recv, FRAME_LIMIT).await {
        Ok(Frame::HelloAck(_)) => Ok((quic, control)),
        Ok(other) => Err(Failure::new(Step::Hello, format!("answered with {}", other.name()))),
        // The close reason says more than the stream's end.
        Err(error) => Err(match quic.close_reason() {
            Some(reason) => Failure::of(Step::Hello)(reason),
            None => Failure::of(Step::Hello)(error),
        }),
    }
}

async fn register(control: &mut BiStream, service: &ServiceName) -> Result<(), Failure> {
    let register = Frame::Register(orp::Register { service_name: service.to_string(), local_addr: String::new() });
    write_frame(&mut control.send, &register).await.map_err(Failure::of(Step::Register))?;
    match read_frame(&mut control.recv, FRAME_LIMIT).await.map_err(Failure::of(Step::Register))? {
        Frame::RegisterAck(_) => Ok(()),
        Frame::StreamReject(reject) => Err(Failure::new(Step::Register, reject_text(&reject))),
        other => Err(Failure::new(Step::Register, format!("answered with {}", other.name()))),
    }
}

/// STREAM_READY and whatever else comes. Ends with the connection.
async fn keep_empty(mut control: ControlReader) {
    while control.fill().await.is_ok() {
        control.consume();
    }
}

/// What stands on a stream that does not begin like our provider's: a STREAM_REJECT, of which the first byte is read.
async fn refusal(first: [u8; 1], recv: &mut RecvHalf) -> Failure {
    let mut frame = first.to_vec();
    let mut buf = [0; 512];
    while frame.len() < FRAME_LIMIT as usize {
        match recv.read(&mut buf).await {
            Read::Data(len) => frame.extend_from_slice(&buf[..len]),
            Read::End(End::Fin) => break,
            Read::End(end) => return Failure::new(Step::Open, end_text(end)),
        }
    }
    let reject = frame.split_first_chunk::<HEADER_LEN>().and_then(|(head, payload)| {
        let code = Header::decode(*head).ok()?.code;
        match Frame::decode(code, payload).ok()? {
            Frame::StreamReject(reject) => Some(reject_text(&reject)),
            _ => None,
        }
    });
    Failure::new(Step::Open, reject.unwrap_or_else(|| "neither our provider's first byte nor a STREAM_REJECT".into()))
}

fn reject_text(reject: &orp::StreamReject) -> String {
    format!("{} {}", reject.code, reject.reason)
}

/// How a stream ended, for a reason.
pub(super) fn end_text(end: End) -> String {
    match end {
        End::Fin => "the stream was finished too early".to_owned(),
        End::Reset(code) => format!("the stream was reset with {code}"),
        End::Lost => "the connection was lost".to_owned(),
    }
}

/// Waits for the FIN that must be all that still comes.
pub(super) async fn finished(recv: &mut RecvHalf) -> Result<(), Failure> {
    match recv.read(&mut [0]).await {
        Read::End(End::Fin) => Ok(()),
        Read::End(end) => Err(Failure::new(Step::Transfer, end_text(end))),
        Read::Data(_) => Err(Failure::new(Step::Transfer, "a byte too many came")),
    }
}

/// Something took longer than a run may wait.
pub(super) fn late(step: Step) -> Failure {
    Failure::new(step, format!("not within {} s", SETUP.as_secs()))
}
