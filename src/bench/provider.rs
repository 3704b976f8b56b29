//! The provider: it accepts every stream, sends one byte at once, and then does what the mode asks.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::GRACE;
use super::agent::{Agent, FRAME_LIMIT, READY};
use super::failure::{Failure, Failures, Step};
use crate::core::frame::Frame;
use crate::core::reject::ResetCode;
use crate::net::framed::read_frame;
use crate::net::stream::BiStream;
use crate::supervise::task::{self, Owned};

/// How often is looked whether the last stream has ended.
const LOOK: Duration = Duration::from_millis(5);

/// A serving provider. Dropping it closes its connection.
#[derive(Debug)]
pub(super) struct Provider {
    agent: Arc<Agent>,
    tally: Arc<Tally>,
    _serving: Owned,
}

#[derive(Debug, Default)]
struct Tally {
    live: AtomicU64,
    failures: Mutex<Failures>,
}

impl Tally {
    fn ended(&self, outcome: Result<(), Failure>) {
        if let Err(failure) = outcome {
            self.failures.lock().unwrap_or_else(PoisonError::into_inner).add(&failure);
        }
        self.live.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Provider {
    /// Serves with `duty`: what is done with a stream once its first byte was sent.
    pub(super) fn serve<D, F>(agent: Agent, duty: D) -> Self
    where
        D: Fn(u64, BiStream) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let (agent, tally) = (Arc::new(agent), Arc::new(Tally::default()));
        let serving = task::run(accept_all(agent.quic.clone(), Arc::clone(&tally), Arc::new(duty)));
        Self { agent, tally, _serving: serving }
    }

    /// Waits at most [`GRACE`] for the streams that are under way; what failed.
    pub(super) async fn finish(self) -> Failures {
        let deadline = Instant::now() + GRACE;
        while self.tally.live.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
            sleep(LOOK).await;
        }
        let mut failures = self.failures();
        for _ in 0..self.tally.live.load(Ordering::Relaxed) {
            failures.add(&Failure::new(Step::Transfer, "a stream did not end at the provider"));
        }
        failures
    }

    /// What failed so far, a lost connection included.
    pub(super) fn failures(&self) -> Failures {
        let mut failures = self.tally.failures.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(reason) = self.agent.quic.close_reason() {
            failures.add(&Failure::new(Step::Accept, format!("the provider's connection ended: {reason}")));
        }
        failures
    }
}

async fn accept_all<D, F>(quic: quinn::Connection, tally: Arc<Tally>, duty: Arc<D>)
where
    D: Fn(u64, BiStream) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let mut streams = JoinSet::new();
    while let Ok((send, recv)) = quic.accept_bi().await {
        while streams.try_join_next().is_some() {}
        let stream = BiStream::from_quic(&quic, send, recv, ResetCode::UNSPECIFIED);
        tally.live.fetch_add(1, Ordering::Relaxed);
        let (tally, duty) = (Arc::clone(&tally), Arc::clone(&duty));
        streams.spawn(async move {
            let outcome = match accept(stream).await {
                Ok((stream_id, stream)) => duty(stream_id, stream).await,
                Err(failure) => Err(failure),
            };
            tally.ended(outcome);
        });
    }
    // The connection has ended, and all streams with it: each says so itself.
    while streams.join_next().await.is_some() {}
}

async fn accept(mut stream: BiStream) -> Result<(u64, BiStream), Failure> {
    let stream_id = match read_frame(&mut stream.recv, FRAME_LIMIT).await.map_err(Failure::of(Step::Accept))? {
        Frame::IncomingStream(incoming) => incoming.stream_id,
        other => return Err(Failure::new(Step::Accept, format!("a stream begins with {}", other.name()))),
    };
    let mut answer = Frame::StreamAccept.encode().to_vec();
    answer.push(READY);
    stream.send.write_all(&answer).await.map_err(Failure::of(Step::Accept))?;
    Ok((stream_id, stream))
}
