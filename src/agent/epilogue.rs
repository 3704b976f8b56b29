//! A stream that has finished here, but not for the other agent, which missed how: its half is answered from memory
//! (wire.md §9, `fin-state`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::carrying::Called;
use super::vault::AgentVault;
use super::vault::session::{FRAME_MAX_BYTES, Session};
use crate::core::frame::Frame;
use crate::core::ids::{Capability, StreamId};
use crate::core::reject::{Reject, RejectCode, ResetCode};
use crate::core::resume::Fields;
use crate::core::resume::finished::Finished;
use crate::net::framed::{read_frame, write_frame};
use crate::net::stream::{BiStream, Read};
use crate::supervise::task::{self, Owned};

/// The other agent's half is parked already, and what it has to say is short.
const WITHIN: Duration = Duration::from_secs(10);

/// How many finished streams are answered for at once; the others are asked for again.
const AT_ONCE: usize = 64;

/// The finished streams that a session's relay is told of.
#[derive(Debug, Default)]
pub struct Epilogues(HashMap<StreamId, Owned>);

impl Epilogues {
    /// RESUME_WANTED: the other agent's half is parked. It comes again while the half waits, so what cannot be answered now may
    /// be left.
    pub fn on_wanted(&mut self, vault: &AgentVault, session: &Arc<Session>, id: StreamId) {
        let called = vault.routes.called(id, session.number);
        let remembered = match called {
            Some(Called::Coming) => return,
            Some(Called::Gone) => None,
            Some(Called::Finished) | None => vault.recall(id),
        };
        if let Some(finished) = remembered {
            self.0.retain(|_, task| !task.is_finished());
            if !self.0.contains_key(&id) && self.0.len() < AT_ONCE {
                self.0.insert(id, task::run(tell(Arc::clone(session), finished)));
            }
        } else if called != Some(Called::Finished) {
            // A stream that has just finished is about to be remembered; any other is lost, or was never here.
            let gone = Reject::new(RejectCode::Gone, "the stream does not live here any more");
            session.send_control(&Frame::StreamReject(gone.to_message(id)));
        }
    }
}

/// Attaches a half with the numbers of a finished stream, writes the FIN again and reads the other agent's.
async fn tell(session: Arc<Session>, finished: Finished) {
    let id = finished.fields.stream_id;
    match timeout(WITHIN, exchange(&session, &finished)).await {
        Ok(Ok(())) => tracing::debug!(stream = %id, "told how the stream ended"),
        Ok(Err(why)) => tracing::debug!(stream = %id, why, "could not tell how the stream ended"),
        Err(_elapsed) => tracing::debug!(stream = %id, within = ?WITHIN, "nobody wants to know how the stream ended"),
    }
}

async fn exchange(session: &Session, finished: &Finished) -> Result<(), String> {
    let fields = finished.fields;
    let fields = if session.features.contains(Capability::FinState) { fields } else { fields.without_fin() };
    let _stream_use = session.streams.take().ok_or("too many streams")?;
    let (send, recv) = session.quic.open_bi().await.map_err(|error| error.to_string())?;
    // Whatever goes wrong: the other agent's half is to be asked for again, not taken for answered.
    let mut stream = BiStream::from_quic(&session.quic, send, recv, ResetCode::RESUMABLE.for_peer(session.codes()));
    let half = Frame::StreamResume(fields.to_resume(session.shown(&finished.ticket)));
    write_frame(&mut stream.send, &half).await.map_err(|end| end.to_string())?;
    let theirs = match read_frame(&mut stream.recv, FRAME_MAX_BYTES).await {
        Ok(Frame::StreamResume(theirs)) => Fields::from(&theirs),
        Ok(other) => return Err(format!("the answer is {}", other.name())),
        Err(error) => return Err(error.to_string()),
    };
    if theirs.peer_ack_position < fields.my_position {
        // A legacy agent that lacks what is kept no more: a FIN would tell it that it has everything.
        stream.set_drop_code(ResetCode::NOT_RESUMABLE.for_peer(session.codes()));
        return Err("it lacks bytes that are gone".to_owned());
    }
    stream.send.finish();
    match stream.recv.read(&mut [0]).await {
        Read::End(_) => Ok(()),
        Read::Data(_) => Err("it sends more than its end".to_owned()),
    }
}
