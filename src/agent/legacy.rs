//! The head of a stream that a legacy relay answers: a refusal is in band there, where otherwise the provider's bytes stand.
//!
//! A legacy relay writes one STREAM_REJECT and then FIN on the consumer's stream (wire.md §10); an accepted stream carries raw provider
//! bytes from its first one on, and they may look like anything. What tells them apart:
//!
//! - bytes that cannot be the start of a STREAM_REJECT frame, or go on behind one, are the provider's: they pass at once;
//! - STREAM_READY on the control stream says that all bytes are the provider's;
//! - one whole STREAM_REJECT, then FIN, and no STREAM_READY within [`READY_GRACE`] after it: a refusal. (QUIC gives no order
//!   between the control stream and this one.)
//! - what may become a refusal but comes no further for [`PROGRESS`] is the provider's: a relay writes a refusal in one piece.
//! - a FIN before the first byte, and no STREAM_READY within [`READY_GRACE`] after it: the stream was never open. So ends a stream
//!   whose provider closed without an answer (wire.md §10). So ends, too, one between two legacy relays, which tell of no STREAM_READY,
//!   whose provider has accepted and had nothing to say. Nothing tells the two apart but time: none is still being opened after
//!   [`OPENED_WITHIN`] (wire.md §4: one total deadline). Before, the client is told that it failed: the other way round it would
//!   take what nobody has received for received.
//! - a FIN in the middle of what can only be a refusal, likewise.

use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::vault::routes::{Signal, Word};
use super::vault::session::FRAME_MAX_BYTES;
use crate::clock::sleep_until_any;
use crate::core::frame::{Frame, FrameType, HEADER_LEN, Header};
use crate::net::stream::{End, Read, RecvHalf};

/// How long after the FIN a STREAM_READY may still come.
pub const READY_GRACE: Duration = Duration::from_millis(250);
/// How long the rest of what may be a refusal is waited for.
pub const PROGRESS: Duration = Duration::from_secs(2);
/// A legacy relay has opened a stream, or refused it, within this time.
pub const OPENED_WITHIN: Duration = Duration::from_secs(15);
/// Read at once; a refusal is far shorter.
const STEP: usize = 1024;

/// What the head of the stream turned out to be.
#[derive(Debug)]
pub enum Judged {
    /// Everything is the provider's.
    Raw {
        /// What was read already.
        head: Bytes,
        /// The rest of the stream.
        rest: RecvHalf,
    },
    /// The relay refused the stream.
    Rejected {
        /// A [`RejectCode`](crate::core::reject::RejectCode), or a later one.
        code: u32,
        /// The relay's words.
        reason: String,
    },
    /// The relay ended the stream before it was open.
    Unanswered,
    /// The relay wants the stream to run over the forward plane.
    Forward,
}

/// What the bytes so far may be.
#[derive(Debug, Clone, PartialEq)]
enum Looks {
    /// The start of a STREAM_REJECT.
    Unfinished,
    /// Exactly one STREAM_REJECT.
    Reject(u32, String),
    /// Nothing of that kind.
    Raw,
}

fn looks(bytes: &[u8]) -> Looks {
    // The type is in the first two bytes, with the version; reserved bits and flags are ignored (wire.md §2).
    let mut start = Header { code: FrameType::StreamReject.code(), len: 0 }.encode();
    let known = bytes.len().min(HEADER_LEN);
    start[..known].copy_from_slice(&bytes[..known]);
    match Header::decode(start) {
        Ok(header) if header.code == FrameType::StreamReject.code() && header.len <= FRAME_MAX_BYTES => {
            let whole = HEADER_LEN + header.len as usize;
            if bytes.len() < HEADER_LEN || bytes.len() < whole {
                return Looks::Unfinished;
            }
            match Frame::decode(header.code, &bytes[HEADER_LEN..]) {
                Ok(Frame::StreamReject(reject)) if bytes.len() == whole => Looks::Reject(reject.code, reject.reason),
                _ => Looks::Raw,
            }
        }
        _ => Looks::Raw,
    }
}

/// Reads no more than it must to tell whether the relay refused the stream.
pub async fn judge(mut recv: RecvHalf, word: &mut Word) -> Judged {
    let mut head = BytesMut::new();
    let mut stuck_at = None;
    let opening = Instant::now();
    loop {
        let mut step = [0; STEP];
        // While nothing was read, nothing is held back.
        let stuck = sleep_until_any(stuck_at);
        tokio::select! {
            biased;
            signal = word.signal() => return on_signal(signal, head, recv),
            read = recv.read(&mut step) => match read {
                Read::Data(len) => head.extend_from_slice(&step[..len]),
                Read::End(End::Fin) => return on_fin(head, recv, word, opening.elapsed()).await,
                Read::End(_) => return raw(head, recv),
            },
            () = stuck => return raw(head, recv),
        }
        stuck_at = match looks(&head) {
            Looks::Raw => return raw(head, recv),
            Looks::Unfinished => Some(Instant::now() + PROGRESS),
            // A whole refusal: its FIN may be late, and nothing else can follow it.
            Looks::Reject(..) => None,
        };
    }
}

async fn on_fin(head: BytesMut, recv: RecvHalf, word: &mut Word, since_open: Duration) -> Judged {
    let unless_ready = match looks(&head) {
        Looks::Reject(code, reason) => Judged::Rejected { code, reason },
        Looks::Unfinished if is_unanswered(&head, since_open) => Judged::Unanswered,
        Looks::Unfinished | Looks::Raw => return raw(head, recv),
    };
    let signal = pin!(word.signal());
    match tokio::time::timeout(READY_GRACE, signal).await {
        Ok(signal) => on_signal(signal, head, recv),
        Err(_elapsed) => unless_ready,
    }
}

/// Whether a FIN behind `head`, which is not more than the start of a STREAM_REJECT, is no provider's end. One byte is no more likely the start of a frame
/// that was written in one piece than a provider's only byte.
fn is_unanswered(head: &[u8], since_open: Duration) -> bool {
    match head.len() {
        0 => since_open < OPENED_WITHIN,
        len => len > 1,
    }
}

fn on_signal(signal: Signal, head: BytesMut, recv: RecvHalf) -> Judged {
    match signal {
        Signal::Ready { .. } => raw(head, recv),
        Signal::Rejected { code, reason } => Judged::Rejected { code, reason },
        Signal::Forward => Judged::Forward,
    }
}

fn raw(head: BytesMut, rest: RecvHalf) -> Judged {
    Judged::Raw { head: head.freeze(), rest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::orp;

    fn reject() -> Bytes {
        Frame::StreamReject(orp::StreamReject { code: 404, reason: "none".into(), stream_id: 0 }).encode()
    }

    #[test]
    fn every_start_of_a_reject_may_become_one_and_only_the_whole_is_one() {
        let reject = reject();
        for len in 0..reject.len() {
            assert_eq!(looks(&reject[..len]), Looks::Unfinished, "{len}");
        }
        assert_eq!(looks(&reject), Looks::Reject(404, "none".into()));
    }

    #[test]
    fn an_end_before_the_first_byte_is_an_answer_only_when_the_open_is_long_over() {
        let late = OPENED_WITHIN;
        let soon = late - Duration::from_millis(1);
        assert!(is_unanswered(b"", soon) && !is_unanswered(b"", late));
        assert!(!is_unanswered(b" ", soon) && is_unanswered(b" \x13", late));
    }

    #[test]
    fn one_byte_behind_a_reject_makes_it_the_providers() {
        let longer = [&reject()[..], b"x"].concat();
        assert_eq!(looks(&longer), Looks::Raw);
    }

    #[test]
    fn what_no_reject_starts_with_is_the_providers() {
        let accept = Frame::StreamAccept.encode();
        let too_long = [0x20, 0x13, 0, 0, 1, 0, 0, 0];
        let no_message = [0x20, 0x13, 0, 0, 0, 0, 0, 1, 0xFF];
        for bytes in [b"HTTP/1.1 200".as_slice(), b"\x40", b"\x21", b"\x20\x12", &accept, &too_long, &no_message] {
            assert_eq!(looks(bytes), Looks::Raw, "{bytes:?}");
        }
        assert_eq!(looks(b" "), Looks::Unfinished);
    }
}
