//! A session: one connection to a relay, from HELLO_ACK to its end. The link's actor is restarted over it, in place.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::registrations::Registrations;
use crate::agent::leaving::Leave;
use crate::config::agent::Backoff;
use crate::config::types::HostPort;
use crate::core::frame::Frame;
use crate::core::identity::RelayUri;
use crate::core::ids::{Capabilities, Capability};
use crate::core::reject::{CodeAgreement, ResetCode};
use crate::net::framed::ControlReader;
use crate::net::receive_window::ReceiveWindow;
use crate::net::stream;
use crate::net::stream_limit::StreamLimit;
use crate::vault::control_writer::{ControlSendError, ControlWriter};

/// The longest frame payload that is taken from a relay, in bytes (wire.md §2).
pub const FRAME_MAX_BYTES: u32 = 64 << 10;
/// Frames that may wait for the relay to read its control stream.
pub const CONTROL_QUEUE: usize = 1024;

/// See the module's documentation.
#[derive(Debug)]
pub struct Session {
    /// Which session of this agent it is.
    pub number: u64,
    /// What was dialled.
    pub target: Target,
    /// Who is at the other end, from its certificate.
    pub relay: RelayUri,
    /// The QUIC connection.
    pub quic: quinn::Connection,
    /// What HELLO_ACK accepted of what we named.
    pub features: Capabilities,
    /// Held by whoever reads a frame and until it is dealt with; keeps the partial buffer across actors.
    pub reader: Arc<tokio::sync::Mutex<ControlReader>>,
    /// Whole frames out.
    pub writer: ControlWriter,
    /// How many streams the relay may open.
    pub streams: StreamLimit,
    /// What stalled streams may hold of what the relay may send.
    pub window: ReceiveWindow,
    /// When HELLO_ACK came.
    pub since: Instant,
    /// What is registered.
    pub registrations: Registered,
    /// Whether a frame that is not served was logged: once per session is enough.
    pub unknown_logged: AtomicBool,
    /// How it is left, and what is on it meanwhile.
    pub parting: Parting,
}

/// A relay to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where.
    pub address: HostPort,
    /// Which of the configured relays, counted from 0; none for a successor.
    pub at: Option<usize>,
    /// The round trip time of the last session with it; zero if there was none.
    pub rtt: Duration,
}

/// How a session is left when its relay drains.
#[derive(Debug, Default)]
pub struct Parting {
    leave: OnceLock<Leave>,
    gathers_until: OnceLock<Instant>,
    paths: watch::Sender<usize>,
    moved: AtomicU64,
}

/// A path, or an open, on a session. It counts until this is dropped.
#[derive(Debug)]
#[must_use = "it counts until this is dropped"]
pub struct PathOn(Arc<Session>);

impl Drop for PathOn {
    fn drop(&mut self) {
        self.0.parting.paths.send_modify(|paths| *paths -= 1);
    }
}

/// The session's registrations, and whether they are complete, to be waited for.
#[derive(Debug)]
pub struct Registered {
    services: Mutex<Registrations>,
    complete: watch::Sender<bool>,
}

impl Registered {
    /// Nothing is registered yet.
    #[must_use]
    pub fn new(services: Registrations) -> Self {
        let complete = watch::Sender::new(services.complete());
        Self { services: Mutex::new(services), complete }
    }

    /// Follows whether all are registered.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.complete.subscribe()
    }

    /// The names of the services that are registered.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.lock().registered()
    }

    fn lock(&self) -> MutexGuard<'_, Registrations> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Where the relay is, without the IPv6 dress of an IPv4 address.
    #[must_use]
    pub fn remote_addr(&self) -> SocketAddr {
        let addr = self.quic.remote_address();
        SocketAddr::new(addr.ip().to_canonical(), addr.port())
    }

    /// Whether the relay says on the control stream of *every* open whether it is accepted, so that application bytes can wait for
    /// that word (wire.md §9, `reject-ctrl`, `resume-code`). A legacy relay does not.
    #[must_use]
    pub fn answers_opens(&self) -> bool {
        self.features.contains(Capability::RejectCtrl) && self.features.contains(Capability::ResumeCode)
    }

    /// What of a stream's ticket goes to this relay: nothing if it does not know tickets (wire.md §9, `resume-ticket`).
    #[must_use]
    pub fn shown(&self, ticket: &[u8]) -> Vec<u8> {
        if self.features.contains(Capability::ResumeTicket) { ticket.to_vec() } else { Vec::new() }
    }

    /// Whether reset codes may be used toward this relay.
    #[must_use]
    pub fn codes(&self) -> CodeAgreement {
        if self.features.contains(Capability::ResumeCode) { CodeAgreement::Both } else { CodeAgreement::None }
    }

    /// What GOAWAY said, if it came.
    #[must_use]
    pub fn leave(&self) -> Option<&Leave> {
        self.parting.leave.get()
    }

    /// GOAWAY came; false when it had come before, for only the first counts.
    #[must_use]
    pub fn told_to_leave(&self, leave: Leave) -> bool {
        self.parting.leave.set(leave).is_ok()
    }

    /// Agents have been sent here: until when some may still be on their way.
    pub fn gather(&self, until: Instant) {
        if self.parting.gathers_until.set(until).is_err() {
            tracing::trace!("it has begun before");
        }
    }

    /// Whether agents that were sent here with this one may still be on their way.
    #[must_use]
    pub fn is_gathering(&self) -> bool {
        self.parting.gathers_until.get().is_some_and(|until| Instant::now() < *until)
    }

    /// One more path, or open, on this session.
    pub fn path(self: &Arc<Self>) -> PathOn {
        self.parting.paths.send_modify(|paths| *paths += 1);
        PathOn(Arc::clone(self))
    }

    /// How many paths and opens there are.
    #[must_use]
    pub fn paths(&self) -> usize {
        *self.parting.paths.borrow()
    }

    /// Resolves when there is a path, or an open.
    pub async fn path_begins(&self) {
        if self.parting.paths.subscribe().wait_for(|paths| *paths > 0).await.is_err() {
            tracing::trace!("the sender is in the session, so it cannot be gone");
        }
    }

    /// A stream has gone on elsewhere.
    pub fn note_moved(&self) {
        self.parting.moved.fetch_add(1, Ordering::Relaxed);
    }

    /// How many streams have gone on elsewhere.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.parting.moved.load(Ordering::Relaxed)
    }

    /// Sends a frame on the control stream. A relay that does not read it is left.
    pub fn send_control(&self, frame: &Frame) {
        match self.writer.send(frame) {
            Ok(()) => {}
            Err(ControlSendError::Full) => self.close(ResetCode::LIMIT, "the control stream is not read"),
            // A relay that takes no more frames hears of no checkpoint: nobody is served by that.
            Err(error) => {
                tracing::debug!(relay = %self.relay, frame = frame.name(), %error, "frame is not sent");
                self.close(ResetCode::PROTOCOL, "the control stream takes no frames");
            }
        }
    }

    /// Everything that is shown of it.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let (streams, limit) = self.streams.usage();
        let mut shown = serde_json::json!({
            "session": self.number,
            "relay": self.relay.as_str(),
            "address": self.target.address.as_str(),
            "remote": self.remote_addr().to_string(),
            "features": self.features.names(),
            "registered": self.registrations.names(),
            "streams_from_relay": streams,
            "streams_limit": limit,
            "paths": self.paths(),
            "rtt_us": u64::try_from(self.quic.rtt().as_micros()).unwrap_or(u64::MAX),
        });
        if let Some(leave) = self.leave() {
            let left = leave.deadline.saturating_duration_since(Instant::now());
            let successors: Vec<_> = leave.successors.iter().map(HostPort::as_str).collect();
            shown["goaway"] = serde_json::json!({
                "reason": leave.reason,
                "successors": successors,
                "deadline_in_ms": u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
                "moved": self.moved(),
            });
        }
        shown
    }

    /// Sends the next REGISTER if one is due. When to look again; none when nothing is left to do.
    pub fn register_next(&self, answer_within: Duration) -> Option<Instant> {
        let mut services = self.registrations.lock();
        if let Some(register) = services.next(Instant::now(), answer_within) {
            self.send_control(&Frame::Register(register));
        }
        services.wake_at()
    }

    /// REGISTER_ACK came: for which service.
    #[must_use]
    pub fn register_acknowledged(&self) -> Option<String> {
        let mut services = self.registrations.lock();
        let name = services.acknowledged();
        self.registrations.complete.send_replace(services.complete());
        name
    }

    /// REGISTER was refused: which service it was, and after what time it is tried again.
    #[must_use]
    pub fn register_refused(&self, backoff: &Backoff) -> Option<(String, Duration)> {
        self.registrations.lock().refused(Instant::now(), backoff, rand::random())
    }

    /// Whether a REGISTER was not answered in time.
    #[must_use]
    pub fn register_overdue(&self) -> bool {
        self.registrations.lock().overdue(Instant::now())
    }

    /// Whether this is the first frame of the session that is not served.
    pub fn first_unknown(&self) -> bool {
        !self.unknown_logged.swap(true, Ordering::Relaxed)
    }

    /// Closes the connection; the code is sent only to a relay that knows reset codes, else 0.
    pub fn close(&self, code: ResetCode, reason: &str) {
        stream::close(&self.quic, code.for_peer(self.codes()), reason);
    }
}
