//! Asking a provider whether it takes a stream.

use crate::core::frame::Frame;
use crate::core::reject::{CodeAgreement, ResetCode};
use crate::metrics::Limit;
use crate::net::framed::{read_frame, write_frame};
use crate::net::stream::BiStream;
use crate::net::stream_limit::StreamUse;
use crate::proto::orp;
use crate::vault::Vault;
use crate::vault::connections::AgentConnection;

/// What a provider said to an INCOMING_STREAM.
#[derive(Debug)]
pub enum ProviderAnswer {
    /// STREAM_ACCEPT; the stream carries application bytes from here on.
    Accepted(BiStream, StreamUse),
    /// STREAM_REJECT.
    Rejected(orp::StreamReject),
    /// No stream, no answer, or no sense in it.
    Unavailable(String),
}

/// Opens a stream to `provider`, writes INCOMING_STREAM, and waits for the answer (wire.md §4, point 5). It waits for as long as it is let:
/// bound it. Dropped meanwhile, the stream is reset `RETRY`.
pub async fn ask(
    vault: &Vault,
    provider: &AgentConnection,
    codes: CodeAgreement,
    incoming: orp::IncomingStream,
    frame_max: u32,
) -> ProviderAnswer {
    let unavailable = |why: String| ProviderAnswer::Unavailable(why);
    let Some(stream_use) = provider.streams.take_of(vault.config.now().limits.streams_per_agent) else {
        vault.metrics.limit_hit(Limit::StreamsPerAgent);
        return unavailable("it has as many streams as it may".to_owned());
    };
    let (send, recv) = match provider.quic.open_bi().await {
        Ok(stream) => stream,
        Err(error) => return unavailable(format!("no stream: {error}")),
    };
    let code = ResetCode::RETRY.for_peer(codes);
    let mut stream = BiStream::from_quic(&provider.quic, send, recv, code).within(&provider.window);
    if let Err(end) = write_frame(&mut stream.send, &Frame::IncomingStream(incoming)).await {
        return unavailable(format!("it did not take INCOMING_STREAM: {end}"));
    }
    match read_frame(&mut stream.recv, frame_max).await {
        Ok(Frame::StreamAccept) => ProviderAnswer::Accepted(stream, stream_use),
        Ok(Frame::StreamReject(reject)) => ProviderAnswer::Rejected(reject),
        Ok(other) => unavailable(format!("it answered {}", other.name())),
        Err(error) => {
            if error.is_too_large() {
                vault.metrics.limit_hit(Limit::FrameMaxBytes);
            }
            unavailable(format!("it gave no answer: {error}"))
        }
    }
}
