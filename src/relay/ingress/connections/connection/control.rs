//! Serves one agent's control stream: HELLO, REGISTER, DEREGISTER, PING, OBSERVED_ADDR_QUERY, and what is said of streams:
//! STREAM_CHECKPOINT, and the refusal of a RESUME_WANTED.
//!
//! | | |
//! |---|---|
//! | Owns | the task that reads frames |
//! | Receives | `FrameReady`, one at a time, and the end of the reading task |
//! | Sends | register and deregister to the registry; checkpoints to the connection at the stream's other end; answers to the connection's control writer |
//! | Restart | transient |
//! | Lost on crash | nothing: a frame stays in the vault's reader until it is dealt with, and its answer is queued in the same step as the frame is consumed |
//!
//! The frame in hand is a lock on the reader: there is never a second one, and a killed actor gives it back unread.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::OwnedMutexGuard;

use crate::clock::now_unix_ms;
use crate::core::frame::Frame;
use crate::core::ids::{Capabilities, Capability, ServiceName, StreamId};
use crate::core::reject::{Reject, RejectCode, ResetCode};
use crate::metrics::{Limit, OutcomeLabel};
use crate::net::framed::{ControlReader, FrameReadError};
use crate::proto::orp;
use crate::relay::refusal;
use crate::relay::registry::RegistryHandle;
use crate::relay::resume::{self, ResumeHandle};
use crate::supervise::slot::Slot;
use crate::supervise::task::{self, Owned, Panicked};
use crate::vault::Vault;
use crate::vault::connections::{AgentConnection, Named};

/// What this relay does of wire.md §9; HELLO_ACK names those of them that the agent named.
const SUPPORTED: [Capability; 9] = [
    Capability::GoAway,
    Capability::ResumeCode,
    Capability::FinState,
    Capability::ResumeCall,
    Capability::ResumeEcho,
    Capability::ResumeTicket,
    Capability::RejectCtrl,
    Capability::PeerCaps,
    Capability::Deregister,
];
/// As much of a `local_addr` is kept: a host name and a port.
const LOCAL_ADDR_MAX_BYTES: usize = 262;
/// The only protocol version (wire.md §2, HELLO).
const PROTOCOL_VERSION: &str = "orp/1";

/// Messages of a control actor.
#[derive(Debug)]
pub enum ControlMsg {
    /// A whole frame stands in the reader, which is locked for whoever deals with it.
    FrameReady(OwnedMutexGuard<ControlReader>),
    /// The stream ended, broke a rule, or the reading task panicked.
    ReaderEnded(Result<FrameReadError, Panicked>),
}

/// What a control actor is started with.
#[derive(Debug, Clone)]
pub struct ControlArgs {
    /// Its own address.
    pub slot: Slot<ControlMsg>,
    /// The limits.
    pub vault: Arc<Vault>,
    /// Whose control stream it is.
    pub connection: Arc<AgentConnection>,
    /// Where services are registered.
    pub registry: RegistryHandle,
    /// Who hears of streams that an agent does not have any more.
    pub resume: ResumeHandle,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct ControlActor;

/// What a control actor holds while it runs.
#[derive(Debug)]
pub struct ControlState {
    args: ControlArgs,
    /// Whether an unknown frame was logged already: once per connection is enough.
    unknown_logged: bool,
    _reader: Owned,
}

/// A rule of the protocol was broken: the connection is closed with this reason.
struct Violation(String);

impl Actor for ControlActor {
    type Msg = ControlMsg;
    type State = ControlState;
    type Arguments = ControlArgs;

    async fn pre_start(
        &self,
        _myself: ActorRef<ControlMsg>,
        args: ControlArgs,
    ) -> Result<ControlState, ActorProcessingErr> {
        let control = args.connection.control().ok_or("the control stream is not open")?;
        let reader = read(args.slot.clone(), Arc::clone(&args.vault), Arc::clone(&control.reader));
        let reader = task::owned(&args.slot, reader, ControlMsg::ReaderEnded);
        Ok(ControlState { args, unknown_logged: false, _reader: reader })
    }

    async fn handle(
        &self,
        myself: ActorRef<ControlMsg>,
        message: ControlMsg,
        state: &mut ControlState,
    ) -> Result<(), ActorProcessingErr> {
        let why = match message {
            ControlMsg::FrameReady(reader) => match state.on_frame(reader).await {
                Ok(()) => return Ok(()),
                Err(Violation(why)) => why,
            },
            ControlMsg::ReaderEnded(end) => {
                let end = end?;
                if end.is_too_large() {
                    state.args.vault.metrics.limit_hit(Limit::FrameMaxBytes);
                }
                format!("control stream: {end}")
            }
        };
        // A connection that is closed already ends its control stream with it: nothing to say.
        if state.args.connection.refuse(ResetCode::PROTOCOL, &why) {
            state.args.vault.metrics.protocol_violations.inc();
            tracing::info!(agent = %state.args.connection.agent, %why, "connection closed");
        }
        myself.stop(Some(why));
        Ok(())
    }
}

impl ControlState {
    async fn on_frame(&mut self, mut reader: OwnedMutexGuard<ControlReader>) -> Result<(), Violation> {
        let answer = match reader.peek() {
            Some(Ok(Frame::Hello(hello))) => {
                let (named, accepted, answer) = self.on_hello(&hello)?;
                if self.is_one_too_many() {
                    reader.consume();
                    return Ok(());
                }
                self.args.connection.answer_control(&answer);
                // Only now: nothing unsolicited may come before the answer.
                self.args.connection.greeted(named, accepted);
                self.args.vault.drain.tell(&self.args.connection);
                None
            }
            Some(Ok(frame)) => {
                if matches!(frame, Frame::Register(_) | Frame::Deregister(_)) {
                    // A legacy agent takes the next frame for the answer, whatever it is (wire.md §3).
                    self.args.connection.hold_unsolicited();
                }
                self.deal_with(frame).await?
            }
            Some(Err(error)) => return Err(Violation(error.to_string())),
            None => None,
        };
        // From here to the end nothing awaits, so no kill comes between the answer and the frame's end.
        if let Some(answer) = answer {
            self.args.connection.answer_control(&answer);
        }
        self.args.connection.release_unsolicited();
        reader.consume();
        Ok(())
    }

    /// An agent has as many connections as it may: this one is closed. Not an older one, which may be in use, and would come again.
    fn is_one_too_many(&self) -> bool {
        let ControlArgs { vault, connection, .. } = &self.args;
        let limit = vault.config.now().limits.connections_per_agent;
        let is_one = connection.accepted().is_none() && vault.connections.count_of(&connection.agent) >= limit;
        if is_one
            && connection.refuse(ResetCode::LIMIT, &format!("this agent has {limit} connections, and may have no more"))
        {
            tracing::warn!(agent = %connection.agent, limit, "too many connections of one agent: the newest is closed");
            vault.metrics.limit_hit(Limit::ConnectionsPerAgent);
        }
        is_one
    }

    /// May run twice for one frame, after a crash: everything in here can be done again.
    async fn deal_with(&mut self, frame: Frame) -> Result<Option<Frame>, Violation> {
        if self.args.connection.accepted().is_none() {
            return Err(Violation(format!("the first frame must be HELLO, not {:?}", frame.frame_type())));
        }
        Ok(match frame {
            Frame::Register(register) => Some(self.on_register(register).await),
            Frame::Deregister(deregister) if self.accepts(Capability::Deregister) => {
                Some(self.on_deregister(deregister).await)
            }
            Frame::StreamCheckpoint(checkpoint) => {
                resume::pass_on_checkpoint(&self.args.vault, &self.args.connection, checkpoint);
                None
            }
            Frame::StreamReject(reject) if reject.stream_id != 0 && self.accepts(Capability::ResumeCall) => {
                self.args.resume.refused_by(&self.args.connection, StreamId(reject.stream_id), reject.code);
                None
            }
            Frame::Ping => Some(Frame::Pong),
            Frame::ObservedAddrQuery(query) => {
                let observed = self.args.connection.remote_addr();
                Some(Frame::ObservedAddrResp(orp::ObservedAddrResp {
                    request_id: query.request_id,
                    ip: observed.ip().to_canonical().to_string(),
                    port: observed.port().into(),
                }))
            }
            other => {
                if !std::mem::replace(&mut self.unknown_logged, true) {
                    let agent = &self.args.connection.agent;
                    tracing::warn!(%agent, frame = ?other.frame_type(), "frame skipped: not served on a control stream");
                }
                None
            }
        })
    }

    fn on_hello(&self, hello: &orp::Hello) -> Result<(Named, Capabilities, Frame), Violation> {
        let connection = &self.args.connection;
        if connection.accepted().is_some() {
            return Err(Violation("HELLO was sent already".to_owned()));
        }
        if hello.protocol_version != PROTOCOL_VERSION {
            let version = refusal::shortened(&hello.protocol_version);
            return Err(Violation(format!("protocol version {version:?}, not {PROTOCOL_VERSION:?}")));
        }
        if hello.agent_uri != connection.agent.as_str() {
            return Err(Violation(format!(
                "HELLO says {:?}, but the certificate says {}",
                refusal::shortened(&hello.agent_uri),
                connection.agent
            )));
        }
        let mut supported = Capabilities::default();
        SUPPORTED.into_iter().for_each(|capability| supported.insert(capability));
        let named = Named::new(&hello.capabilities);
        let accepted = named.known().intersection(supported);
        tracing::info!(
            agent = %connection.agent,
            generation = %connection.generation,
            remote = %connection.remote_addr(),
            features = %accepted,
            "agent connected"
        );
        let answer = Frame::HelloAck(orp::HelloAck {
            session_id: format!("{}-{}", self.args.vault.relay.id(), connection.generation),
            server_time_unix_ms: now_unix_ms(),
            accepted_features: accepted.names(),
        });
        Ok((named, accepted, answer))
    }

    async fn on_register(&self, register: orp::Register) -> Frame {
        let agent = &self.args.connection.agent;
        let outcome = match register.service_name.parse::<ServiceName>() {
            Ok(service) => {
                // Informational (wire.md §2): nothing to refuse a service for.
                let local_addr = &register.local_addr[..register.local_addr.floor_char_boundary(LOCAL_ADDR_MAX_BYTES)];
                let answer = self.args.registry.register(&self.args.connection, &service, local_addr).await;
                answer.unwrap_or_else(|error| Err(unavailable(&error)))
            }
            Err(error) => Err(Reject::new(RejectCode::BadRequest, error.to_string())),
        };
        match outcome {
            Ok(service_id) => {
                self.count_registration("registered");
                tracing::debug!(%agent, %service_id, "registered");
                Frame::RegisterAck(orp::RegisterAck { service_id })
            }
            Err(reject) => {
                self.count_registration("refused");
                let service = refusal::shortened(&register.service_name);
                tracing::warn!(%agent, service, %reject, "REGISTER refused");
                refusal::registration(&self.args.vault, agent, "REGISTER", &register.service_name, &reject);
                Frame::StreamReject(reject.to_message(StreamId(0)))
            }
        }
    }

    async fn on_deregister(&self, deregister: orp::Deregister) -> Frame {
        let service_id = format!("{}/{}", self.args.connection.agent.tenant(), deregister.service_name);
        let outcome = match deregister.service_name.parse::<ServiceName>() {
            Ok(service) => {
                let answer = self.args.registry.deregister(&self.args.connection, &service).await;
                answer.map_err(|error| unavailable(&error))
            }
            Err(error) => Err(Reject::new(RejectCode::BadRequest, error.to_string())),
        };
        match outcome {
            Ok(()) => Frame::RegisterAck(orp::RegisterAck { service_id }),
            Err(reject) => {
                let agent = &self.args.connection.agent;
                refusal::registration(&self.args.vault, agent, "DEREGISTER", &deregister.service_name, &reject);
                Frame::StreamReject(reject.to_message(StreamId(0)))
            }
        }
    }

    fn count_registration(&self, outcome: &'static str) {
        self.args.vault.metrics.registrations.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    fn accepts(&self, capability: Capability) -> bool {
        self.args.connection.names(capability)
    }
}

fn unavailable(error: &crate::supervise::slot::CallError) -> Reject {
    Reject::new(RejectCode::BadGateway, format!("registry: {error}"))
}

/// Hands over whole frames, one at a time, until the stream ends. The end is the result.
async fn read(
    slot: Slot<ControlMsg>,
    vault: Arc<Vault>,
    reader: Arc<tokio::sync::Mutex<ControlReader>>,
) -> FrameReadError {
    let mut reload = vault.reload.subscribe();
    loop {
        let mut locked = Arc::clone(&reader).lock_owned().await;
        locked.set_limit(vault.config.now().limits.frame_max_bytes);
        tokio::select! {
            biased;
            // The limit may be another one now. What was read of a frame is kept.
            Ok(()) = reload.changed() => continue,
            filled = locked.fill() => if let Err(end) = filled {
                return end;
            },
        }
        if slot.cast(ControlMsg::FrameReady(locked)).is_err() {
            // Our actor is gone, and this task is about to be aborted.
            std::future::pending::<()>().await;
        }
    }
}
