//! What serves a session: its tasks, which hand over to the [link](super::link) what the relay says.

use std::sync::Arc;

use tokio::time::Instant;

use super::epilogue::Epilogues;
use super::link::{LinkArgs, LinkMsg};
use super::vault::session::Session;
use super::{leaving, silence};
use crate::core::reject::ResetCode;
use crate::net::framed::FrameReadError;
use crate::net::stream::BiStream;
use crate::supervise::slot::Slot;
use crate::supervise::task::{self, Owned};

/// A session that is served until this is dropped.
#[derive(Debug)]
pub struct Serving {
    /// The session.
    pub session: Arc<Session>,
    /// The finished streams that its relay is told of.
    pub epilogues: Epilogues,
    register: Option<Owned>,
    mover: Option<Owned>,
    _tasks: [Owned; 3],
}

impl Serving {
    /// Begins to serve `session`, or goes on.
    #[must_use]
    pub fn start(args: &LinkArgs, session: Arc<Session>) -> Self {
        let number = session.number;
        let reader = read(args.slot.clone(), Arc::clone(&session));
        let accept = accept(args.clone(), Arc::clone(&session));
        let silence = silence::watch(Arc::clone(&session), args.vault.watch_live());
        let mut serving = Self {
            _tasks: [
                task::owned(&args.slot, reader, move |end| LinkMsg::ReaderEnded(number, end)),
                task::owned(&args.slot, accept, move |end| LinkMsg::AcceptEnded(number, end)),
                task::owned(&args.slot, silence, move |end| LinkMsg::Silent(number, end)),
            ],
            epilogues: Epilogues::default(),
            register: None,
            mover: None,
            session,
        };
        serving.register_next(args);
        if serving.session.leave().is_some() {
            serving.leave(args);
        }
        serving
    }

    /// Sends the REGISTER that is due, and waits for what will be.
    pub fn register_next(&mut self, args: &LinkArgs) {
        let number = self.session.number;
        let wake_at: Option<Instant> = self.session.register_next(args.vault.config.timeouts.hello);
        self.register = wake_at.map(|at| {
            task::owned(&args.slot, tokio::time::sleep_until(at), move |slept| LinkMsg::RegisterDue(number, slept))
        });
    }

    /// Takes its streams elsewhere.
    pub fn leave(&mut self, args: &LinkArgs) {
        let number = self.session.number;
        let mover = leaving::run(Arc::clone(&args.vault), Arc::clone(&self.session));
        self.mover = Some(task::owned(&args.slot, mover, move |left| LinkMsg::Left(number, left)));
    }
}

/// Hands over whole frames, one at a time, until the stream ends. The end is the result.
async fn read(slot: Slot<LinkMsg>, session: Arc<Session>) -> FrameReadError {
    loop {
        let mut locked = Arc::clone(&session.reader).lock_owned().await;
        if let Err(end) = locked.fill().await {
            return end;
        }
        if slot.cast(LinkMsg::FrameReady(session.number, locked)).is_err() {
            // Our actor is gone, and this task is about to be aborted.
            std::future::pending::<()>().await;
        }
    }
}

/// Hands over the streams that the relay opens, until the connection is closed. Not a byte is read here.
async fn accept(args: LinkArgs, session: Arc<Session>) -> quinn::ConnectionError {
    let code = |code: ResetCode| code.for_peer(session.codes());
    loop {
        let (send, recv) = match session.quic.accept_bi().await {
            Ok(stream) => stream,
            Err(end) => return end,
        };
        let stream = BiStream::from_quic(&session.quic, send, recv, code(ResetCode::RETRY));
        let mut stream = stream.within(&session.window);
        match (args.vault.place(), session.streams.take()) {
            (Some(place), Some(stream_use)) => args.streams.provide(&args.vault, &session, stream, stream_use, place),
            _ => stream.set_drop_code(code(ResetCode::LIMIT)),
        }
    }
}
