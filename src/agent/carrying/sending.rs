//! The task that copies local socket → path. It owns what the application sends, for the stream's life, and the writing half
//! of the current path.
//!
//! What is read goes into the ring before it is written, by reference. While there is no path, reading goes on until the ring is
//! full; then the application is not read any more, and nothing is dropped.

use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::verdict::{Verdict, verdict};
use super::{Carried, Lane, LaneEnd, PathHalf, leaving};
use crate::core::reject::{CodeAgreement, ResetCode};
use crate::core::resume::endpoint::{Epoch, Taken, ToWrite};
use crate::net::block::Block;
use crate::net::local_tcp::TcpSource;
use crate::net::pump::{PATIENCE, Source as _};
use crate::net::stream::{End, Read, SendHalf, WriteEnd};

type Stopped = Pin<Box<dyn Future<Output = WriteEnd> + Send>>;

/// What the local → path task does next.
#[derive(Debug)]
enum Outgoing {
    /// Goes on with this path.
    Path(PathHalf<SendHalf>),
    /// Leaves its path.
    Leave,
    Write(Bytes),
    Fin,
    /// Reads so many bytes of the local side at most.
    Read(usize),
    Wait,
    /// The stream is over.
    Over,
}

/// Whether a task has something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Yes,
    No,
}

impl<T> From<&Option<T>> for Held {
    fn from(held: &Option<T>) -> Self {
        if held.is_some() { Self::Yes } else { Self::No }
    }
}

struct Outbound {
    half: SendHalf,
    stopped: Stopped,
    codes: CodeAgreement,
}

struct Sending {
    shared: Arc<Carried>,
    local: Option<TcpSource>,
    path: Option<Outbound>,
    epoch: Epoch,
}

enum Event {
    Data(Bytes),
    Local(End),
    Stopped(WriteEnd),
    Woken,
}

enum Written {
    Done(Result<(), WriteEnd>),
    Local(End),
    Leave,
}

/// How the task goes on.
enum Next {
    On,
    /// May read so many bytes without asking.
    Read(usize),
    /// The direction has ended, and the stream cannot be resumed.
    Broken(LaneEnd),
    /// The stream is over.
    Over,
}

impl Carried {
    fn outgoing(&self, epoch: Epoch, path: Held, local: Held) -> Outgoing {
        let now = self.now();
        let mut inner = self.lock();
        if inner.is_over() {
            return Outgoing::Over;
        }
        if let Some(path) = inner.send.take() {
            return Outgoing::Path(path);
        }
        if path == Held::Yes {
            match inner.endpoint.next_write(epoch) {
                Err(_) => return Outgoing::Leave,
                Ok(ToWrite::Bytes(bytes)) => return Outgoing::Write(bytes),
                Ok(ToWrite::Fin) => {
                    // Before it is: the partner's word that it has it must never come first. Should the path be lost in
                    // between, it is written again on the next.
                    if inner.endpoint.fin_written(epoch, now).is_ok() {
                        inner.to_path = Some(LaneEnd::Fin);
                    }
                    self.keeper.notify_one();
                    return Outgoing::Fin;
                }
                Ok(ToWrite::Nothing) => {}
            }
        }
        let room = if local == Held::Yes { inner.endpoint.room(now) } else { 0 };
        inner.poke(&self.keeper);
        if room > 0 { Outgoing::Read(room) } else { Outgoing::Wait }
    }

    /// Takes what was read of the local side; with it, how much may be read next.
    fn take(&self, epoch: Epoch, bytes: Bytes) -> (Taken, usize) {
        let now = self.now();
        let mut inner = self.lock();
        let taken = inner.endpoint.take(epoch, bytes, now);
        let room = inner.endpoint.room(now);
        inner.poke(&self.keeper);
        (taken, room)
    }

    fn take_fin(&self) {
        self.lock().endpoint.take_fin();
    }
}

/// Copies until the stream is over.
pub async fn run(shared: Arc<Carried>, local: TcpSource, path: PathHalf<SendHalf>) {
    let epoch = path.epoch;
    let mut task = Sending { shared, local: Some(local), path: None, epoch };
    task.begin(path);
    let mut next = Next::On;
    loop {
        next = match next {
            Next::On => task.step().await,
            Next::Read(most) => task.wait(most).await,
            Next::Broken(end) => {
                task.shared.lane_broken(Lane::ToPath, end);
                return;
            }
            Next::Over => return,
        };
        // Two sides that are always ready would keep a runtime thread to themselves.
        tokio::task::consume_budget().await;
    }
}

impl Sending {
    fn begin(&mut self, path: PathHalf<SendHalf>) {
        self.leave();
        let stopped = Box::pin(path.half.stopped());
        self.path = Some(Outbound { half: path.half, stopped, codes: path.codes });
        self.epoch = path.epoch;
    }

    fn leave(&mut self) {
        if let Some(path) = self.path.take() {
            path.half.reset(leaving(path.codes));
        }
    }

    async fn step(&mut self) -> Next {
        match self.shared.outgoing(self.epoch, Held::from(&self.path), Held::from(&self.local)) {
            Outgoing::Over => return Next::Over,
            Outgoing::Path(path) => self.begin(path),
            Outgoing::Leave => self.leave(),
            Outgoing::Write(bytes) => return self.write(bytes, 0).await,
            Outgoing::Fin => {
                if let Some(path) = self.path.take() {
                    path.half.finish();
                }
            }
            Outgoing::Read(most) => return self.wait(most).await,
            Outgoing::Wait => return self.wait(0).await,
        }
        Next::On
    }

    /// Waits for something to happen; reads at most so many bytes, and none of a local side for which there is no room.
    async fn wait(&mut self, most: usize) -> Next {
        let Self { shared, local, path, .. } = self;
        let event = {
            let mut local = pin!(heard(local, most));
            let mut woken = pin!(shared.sender.notified());
            poll_fn(|cx| {
                if let Poll::Ready(event) = local.as_mut().poll(cx) {
                    return Poll::Ready(event);
                }
                if let Some(path) = path
                    && let Poll::Ready(end) = path.stopped.as_mut().poll(cx)
                {
                    return Poll::Ready(Event::Stopped(end));
                }
                woken.as_mut().poll(cx).map(|()| Event::Woken)
            })
            .await
        };
        match event {
            Event::Woken => Next::On,
            Event::Stopped(end) => self.on_stopped(end),
            Event::Local(end) => self.on_local_end(end),
            Event::Data(bytes) => {
                let (taken, room) = self.shared.take(self.epoch, bytes.clone());
                match taken {
                    Taken::Write => self.write(bytes, room).await,
                    Taken::Kept => Next::On,
                }
            }
        }
    }

    /// Writes to the path; then so many bytes may be read.
    async fn write(&mut self, bytes: Bytes, room: usize) -> Next {
        let Self { shared, local, path, epoch } = self;
        // Without a path nothing is handed out for it.
        let Some(path) = path else { return Next::On };
        let written = {
            let mut write = pin!(path.half.write_bytes(bytes));
            let mut local_cut = pin!(async {
                tokio::time::sleep(PATIENCE).await;
                match local {
                    Some(local) => local.reset_received().await,
                    None => pending().await,
                }
            });
            loop {
                tokio::select! {
                    biased;
                    written = &mut write => break Written::Done(written),
                    end = &mut local_cut => break Written::Local(end),
                    () = shared.sender.notified() => if !shared.is_current(*epoch) { break Written::Leave },
                }
            }
        };
        match written {
            Written::Done(Ok(())) if room > 0 => Next::Read(room),
            Written::Done(Ok(())) => Next::On,
            Written::Done(Err(end)) => self.on_stopped(end),
            Written::Local(end) => self.on_local_end(end),
            Written::Leave => {
                self.leave();
                Next::On
            }
        }
    }

    fn on_local_end(&mut self, end: End) -> Next {
        if end == End::Fin {
            self.local = None;
            self.shared.take_fin();
            return Next::On;
        }
        // A local socket has no codes of its own: its reset is an application's.
        if let Some(path) = self.path.take() {
            path.half.reset(ResetCode::APPLICATION.for_peer(path.codes));
        }
        Next::Broken(LaneEnd::LocalReset)
    }

    fn on_stopped(&mut self, end: WriteEnd) -> Next {
        // Of a path that is over nothing counts any more: the stream goes on on another one.
        if !self.shared.is_current(self.epoch) {
            self.leave();
            return Next::On;
        }
        let code = match end {
            WriteEnd::Stopped(code) => code,
            // Closed cannot be: nothing else ends this half.
            WriteEnd::Lost | WriteEnd::Closed => {
                self.shared.path_over(self.epoch, "the connection was lost");
                self.leave();
                return Next::On;
            }
        };
        match verdict(code) {
            Verdict::Path => {
                self.shared.path_cut(self.epoch, code);
                self.leave();
                Next::On
            }
            Verdict::Stream => {
                self.shared.lose(format!("stopped by the relay with {code}"));
                Next::Over
            }
            Verdict::Direction => {
                if let Some(local) = self.local.take() {
                    local.stop(code);
                }
                // The peer asked for it: its own code back (RFC 9000 §3.5).
                if let Some(path) = self.path.take() {
                    path.half.reset(code);
                }
                Next::Broken(LaneEnd::Stopped(code))
            }
        }
    }
}

/// The next bytes of the local side, at most `most`; with 0, only a cut.
async fn heard(local: &mut Option<TcpSource>, most: usize) -> Event {
    match local {
        None => pending().await,
        Some(local) if most == 0 => Event::Local(local.reset_received().await),
        Some(local) => poll_fn(|cx| poll_chunk(local, most, cx)).await,
    }
}

/// Waits for data without holding a block: one is taken for each try, and given back when there was nothing.
fn poll_chunk(local: &mut TcpSource, most: usize, cx: &mut Context<'_>) -> Poll<Event> {
    let mut block = Block::take();
    local.poll_read_at_most(cx, block.buffer(), most).map(|read| match read {
        Read::Data(_) => Event::Data(block.into_bytes()),
        Read::End(end) => Event::Local(end),
    })
}
