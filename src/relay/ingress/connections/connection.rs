//! One agent's connection: accepts its streams, and supervises who serves them.
//!
//! | | |
//! |---|---|
//! | Owns | the task that accepts streams; the actors `control` and `handshake …` below it |
//! | Receives | `ControlOpened`, `StreamArrived`, `AcceptEnded`, `HelloOverdue`, and its children's ends |
//! | Sends | nothing |
//! | Restart | transient, in place: over the same QUIC connection |
//! | Lost on crash | opens in progress: their streams are reset `RETRY`, and nothing was delivered on them |
//!
//! Streams that are spliced do not belong to a connection's actor: they go on while it restarts.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::core::ids::Capability;
use crate::core::policy::Effect;
use crate::core::reject::{CodeAgreement, ResetCode};
use crate::metrics::Limit;
use crate::net::framed::ControlReader;
use crate::net::stream::BiStream;
use crate::net::stream_limit::StreamUse;
use crate::relay::decision::{self, Asked};
use crate::relay::registry::RegistryHandle;
use crate::relay::resume::ResumeHandle;
use crate::relay::splices::SplicesHandle;
use crate::supervise::children::{Change, Children};
use crate::supervise::dynamic::note;
use crate::supervise::intensity::Limits;
use crate::supervise::slot::Slot;
use crate::supervise::spec::{ChildSpec, Restart};
use crate::supervise::task::{self, Owned, Panicked};
use crate::throttle::Throttle;
use crate::vault::Vault;
use crate::vault::connections::{AgentConnection, Control};
use crate::vault::control_writer::ControlWriter;

pub mod control;
pub mod handshake;

/// What a connection's children get to stop; they hold nothing that needs longer.
pub const CHILD_SHUTDOWN: Duration = Duration::from_millis(500);

/// A stream that the agent has just opened.
#[derive(Debug)]
pub struct Fresh {
    /// Which stream of the connection it is; the control stream is 0.
    pub number: u64,
    /// The stream; not one byte of it was read.
    pub stream: BiStream,
    /// It counts toward the connection's limit.
    pub stream_use: StreamUse,
}

/// Messages of a connection.
#[derive(Debug)]
pub enum ConnectionMsg {
    /// The control stream is there, in the vault.
    ControlOpened,
    /// The agent opened a stream.
    StreamArrived(Fresh),
    /// The QUIC connection is closed, or the accepting task panicked.
    AcceptEnded(Result<quinn::ConnectionError, Panicked>),
    /// The time for HELLO is over.
    HelloOverdue(Result<(), Panicked>),
    /// The backoff of that child is over.
    Restart(u64),
    /// Stop the children, then yourself.
    Shutdown,
}

/// What a connection is started with.
#[derive(Debug, Clone)]
pub struct ConnectionArgs {
    /// Its own address.
    pub slot: Slot<ConnectionMsg>,
    /// What outlives it.
    pub vault: Arc<Vault>,
    /// The connection that it serves.
    pub connection: Arc<AgentConnection>,
    /// Where services are registered and resolved.
    pub registry: RegistryHandle,
    /// Who takes paired streams over.
    pub splices: SplicesHandle,
    /// Who takes halves of streams that are to be resumed.
    pub resume: ResumeHandle,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Connection;

/// What a connection holds while it runs.
#[derive(Debug)]
pub struct ConnectionState {
    args: ConnectionArgs,
    children: Children,
    _accept: Owned,
    _hello_timer: Owned,
}

impl Actor for Connection {
    type Msg = ConnectionMsg;
    type State = ConnectionState;
    type Arguments = ConnectionArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<ConnectionMsg>,
        args: ConnectionArgs,
    ) -> Result<ConnectionState, ActorProcessingErr> {
        let slot = args.slot.clone();
        args.slot.node().stop_by(move || slot.tell(ConnectionMsg::Shutdown));
        describe(&args);
        let children = Children::new(&args.slot, myself.get_cell(), Limits::default(), ConnectionMsg::Restart);
        let accept = accept(args.slot.clone(), Arc::clone(&args.vault), Arc::clone(&args.connection));
        let deadline = args.connection.hello_deadline;
        let mut state = ConnectionState {
            _accept: task::owned(&args.slot, accept, ConnectionMsg::AcceptEnded),
            _hello_timer: task::owned(&args.slot, tokio::time::sleep_until(deadline), ConnectionMsg::HelloOverdue),
            args,
            children,
        };
        if state.args.connection.control().is_some() {
            state.start_control().await;
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<ConnectionMsg>,
        message: ConnectionMsg,
        state: &mut ConnectionState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ConnectionMsg::ControlOpened => state.start_control().await,
            ConnectionMsg::StreamArrived(fresh) => state.start_handshake(fresh).await,
            ConnectionMsg::AcceptEnded(end) => {
                let reason = end?;
                myself.stop(Some(reason.to_string()));
            }
            ConnectionMsg::HelloOverdue(slept) => {
                slept?;
                state.on_hello_overdue();
            }
            ConnectionMsg::Restart(id) => {
                let change = state.children.restart(id).await;
                state.on_child(change);
            }
            ConnectionMsg::Shutdown => {
                state.children.stop_together().await;
                myself.stop(None);
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<ConnectionMsg>,
        event: SupervisionEvent,
        state: &mut ConnectionState,
    ) -> Result<(), ActorProcessingErr> {
        let change = state.children.on_event(event).await;
        state.on_child(change);
        Ok(())
    }
}

impl ConnectionState {
    async fn start_control(&mut self) {
        let args = control::ControlArgs {
            slot: Slot::at(Arc::clone(&self.args.connection.control_node)),
            vault: Arc::clone(&self.args.vault),
            connection: Arc::clone(&self.args.connection),
            registry: self.args.registry.clone(),
            resume: self.args.resume.clone(),
        };
        let slot = args.slot.clone();
        let connection = Arc::clone(&self.args.connection);
        let spec =
            ChildSpec::new(&slot, Restart::Transient, CHILD_SHUTDOWN, move || (control::ControlActor, args.clone()))
                // Stopped by an operator, say: nobody would answer on the connection any more.
                .on_gone(move |_exit| {
                    if connection.quic.close_reason().is_none() {
                        connection.close(ResetCode::RESUMABLE, "connection ended by the relay");
                    }
                });
        if let Err(error) = self.children.start(spec).await {
            self.give_up(&error.to_string());
        }
    }

    async fn start_handshake(&mut self, fresh: Fresh) {
        let args = handshake::HandshakeArgs::new(&self.args, fresh);
        let slot = args.slot.clone();
        let spec = ChildSpec::once(&slot, CHILD_SHUTDOWN, handshake::Handshake, args);
        if let Err(error) = self.children.start(spec).await {
            tracing::warn!(agent = %self.args.connection.agent, %error, "stream is reset");
        }
    }

    fn on_hello_overdue(&self) {
        if self.args.connection.accepted().is_none() {
            let limit = self.args.vault.config.now().limits.hello;
            if self.args.connection.refuse(ResetCode::PROTOCOL, &format!("no HELLO within {limit:?}")) {
                self.args.vault.metrics.limit_hit(Limit::Hello);
                tracing::info!(agent = %self.args.connection.agent, ?limit, "no HELLO in time: closed");
            }
        }
    }

    /// A control actor that fails again and again leaves a connection that nobody serves.
    fn on_child(&self, change: Change) {
        if let Change::GivenUp { child, exit } = &change {
            self.give_up(&format!("{child}: {exit}"));
        }
        note(change);
    }

    fn give_up(&self, why: &str) {
        tracing::error!(agent = %self.args.connection.agent, %why, "connection cannot be served: closing");
        self.args.connection.close(ResetCode::RESUMABLE, "internal error");
    }
}

/// Accepts streams for as long as the connection lives: first the control stream, then, once HELLO was answered, all
/// others. Not a byte is read here.
async fn accept(
    slot: Slot<ConnectionMsg>,
    vault: Arc<Vault>,
    connection: Arc<AgentConnection>,
) -> quinn::ConnectionError {
    if connection.control().is_none() {
        match connection.quic.accept_bi().await {
            // An earlier incarnation's task, not yet dropped, has taken the control stream: this is a data stream that came
            // too early to be served, and may be opened again.
            Ok((send, recv)) if send.id().index() != 0 => {
                drop(BiStream::from_quic(&connection.quic, send, recv, ResetCode::UNSPECIFIED));
            }
            Ok((send, recv)) => {
                let stream = BiStream::from_quic(&connection.quic, send, recv, ResetCode::UNSPECIFIED);
                let config = vault.config.get();
                let limits = &config.limits;
                let reader = ControlReader::new(stream.recv, limits.frame_max_bytes);
                connection.control_opened(Control {
                    reader: Arc::new(tokio::sync::Mutex::new(reader)),
                    writer: ControlWriter::new(stream.send, limits.control_queue),
                });
            }
            Err(end) => return end,
        }
        slot.tell(ConnectionMsg::ControlOpened);
    }
    let features = tokio::select! {
        features = connection.wait_greeted() => features,
        end = connection.quic.closed() => return end,
    };
    let codes = if features.contains(Capability::ResumeCode) { CodeAgreement::Both } else { CodeAgreement::None };
    let untold = Throttle::default();
    loop {
        let (send, recv) = match connection.quic.accept_bi().await {
            Ok(stream) => stream,
            Err(end) => return end,
        };
        let number = send.id().index();
        let stream = BiStream::from_quic(&connection.quic, send, recv, ResetCode::RETRY.for_peer(codes));
        let mut stream = stream.within(&connection.window);
        match connection.streams.take_of(vault.config.now().limits.streams_per_agent) {
            Some(stream_use) => slot.tell(ConnectionMsg::StreamArrived(Fresh { number, stream, stream_use })),
            None => {
                vault.metrics.limit_hit(Limit::StreamsPerAgent);
                vault.metrics.open("limited", 0);
                // Not a line for each: it costs an agent nothing to open more.
                if let Some(untold) = untold.due() {
                    let why =
                        format!("stream reset unread: the connection has as many as it may (and {untold} before)");
                    decision::by_relay(&vault, &connection.agent, Asked::default(), None, Effect::Deny, &why);
                }
                stream.set_drop_code(ResetCode::LIMIT.for_peer(codes));
            }
        }
    }
}

fn describe(args: &ConnectionArgs) {
    // Weak: the node is in the connection.
    let connection = Arc::downgrade(&args.connection);
    args.slot.node().describe(move || {
        let Some(connection) = connection.upgrade() else { return serde_json::Value::Null };
        let (streams, limit) = connection.streams.usage();
        serde_json::json!({
            "agent": connection.agent.as_str(),
            "generation": connection.generation.0,
            "remote": connection.remote_addr().to_string(),
            "features": connection.accepted().map(|features| features.names()),
            "services": connection.services().keys().map(ToString::to_string).collect::<Vec<_>>(),
            "streams_opened": streams,
            "streams_limit": limit,
            "rtt_us": u64::try_from(connection.quic.rtt().as_micros()).unwrap_or(u64::MAX),
        })
    });
}
