//! Refusing an open: on the stream, on the control stream, in the log, in the metrics and in the audit, in one place
//! (architecture §5, invariant 9).

use std::time::Duration;

use crate::core::frame::Frame;
use crate::core::identity::AgentUri;
use crate::core::ids::{Capability, StreamId};
use crate::core::open::METHOD_MAX_BYTES;
use crate::core::policy::Effect;
use crate::core::reject::{Reject, RejectCode, ResetCode};
use crate::net::framed::write_frame;
use crate::net::stream::WriteEnd;
use crate::proto::orp;
use crate::relay::decision::{self, Asked};
use crate::relay::ingress::connections::connection::Fresh;
use crate::vault::Vault;
use crate::vault::connections::AgentConnection;

/// Says that what `asked` for is refused: to the log, to the audit, and to an agent that named `reject-ctrl` on its control
/// stream. What a rule denied stands in the audit already, as the decision that it was.
pub fn told(vault: &Vault, connection: &AgentConnection, asked: &orp::OpenStream, reject: &Reject) {
    tracing::info!(
        consumer = %connection.agent,
        service = shortened(&asked.target_service),
        stream = %asked.stream_id,
        %reject,
        "stream refused"
    );
    if reject.code != RejectCode::Denied {
        let what = Asked { target: shortened(&asked.target_service), method: shortened(&asked.method) };
        let id = StreamId(asked.stream_id);
        decision::by_relay(vault, &connection.agent, what, id, Effect::Deny, &reject.to_string());
    }
    if connection.names(Capability::RejectCtrl) && asked.stream_id != 0 {
        connection.send_control(&Frame::StreamReject(reject.to_message(StreamId(asked.stream_id))));
    }
}

/// Audits that a REGISTER or DEREGISTER was refused.
pub fn registration(vault: &Vault, agent: &AgentUri, frame: &str, service: &str, reject: &Reject) {
    let asked = Asked { target: shortened(service), method: "" };
    decision::by_relay(vault, agent, asked, None, Effect::Deny, &format!("{frame}: {reject}"));
}

/// A peer may say anything: no more of it is kept than of an open that is served.
#[must_use]
pub fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(METHOD_MAX_BYTES)]
}

/// Writes the refusal in band and ends the stream. A peer that takes nothing for `within` gets a reset.
pub async fn write(consumer: Option<Fresh>, reject: Reject, within: Duration) {
    let written = tokio::time::timeout(within, write_in_band(consumer, &reject)).await;
    if !matches!(written, Ok(Ok(()))) {
        tracing::debug!(?written, "refusal was not taken");
    }
}

async fn write_in_band(consumer: Option<Fresh>, reject: &Reject) -> Result<(), WriteEnd> {
    let Some(mut fresh) = consumer else { return Ok(()) };
    // In band it names no stream: it stands on it.
    write_frame(&mut fresh.stream.send, &Frame::StreamReject(reject.to_message(StreamId(0)))).await?;
    fresh.stream.send.finish();
    fresh.stream.recv.stop(ResetCode::UNSPECIFIED);
    Ok(())
}
