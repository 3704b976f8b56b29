//! The task that copies path → local socket. It owns what the application receives, for the stream's life, and the reading half
//! of the current path.
//!
//! What was read counts as consumed before it is delivered: from then on it is in our custody, and reaches the local socket even if the
//! path is lost meanwhile. The local socket is finished when the partner's end has come, without waiting for anything more.

use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep_until;

use super::verdict::{Verdict, verdict};
use super::{Carried, FinTrust, Lane, LaneEnd, PathHalf, leaving};
use crate::agent::legacy::{self, Judged};
use crate::agent::opening::Refused;
use crate::agent::vault::routes::Word;
use crate::core::reject::{CodeAgreement, ResetCode};
use crate::core::resume::endpoint::{DoubtfulFin, Epoch, FinRead, PathError};
use crate::net::block::Block;
use crate::net::local_tcp::TcpSink;
use crate::net::pump::{PATIENCE, Sink as _};
use crate::net::stream::{End, Read, RecvHalf, WriteEnd};

type Gone = Pin<Box<dyn Future<Output = WriteEnd> + Send>>;

/// What the path → local task does when it was woken.
#[derive(Debug)]
enum Incoming {
    Path(PathHalf<RecvHalf>),
    Leave,
    Same,
    Over,
}

struct Inbound {
    half: RecvHalf,
    codes: CodeAgreement,
    fin: FinTrust,
}

struct Receiving {
    shared: Arc<Carried>,
    /// Until it is finished.
    local: Option<TcpSink>,
    /// Resolves when the local application reads no more.
    gone: Gone,
    path: Option<Inbound>,
    epoch: Epoch,
}

enum Event {
    Data(Bytes),
    End(End),
    LocalGone,
    Woken,
}

enum Delivery {
    Done(Result<(), WriteEnd>),
    PathEnded(End),
    /// The stream holds what others of its connection need.
    Stalled,
    Woken,
}

enum Next {
    On,
    /// The direction has ended, and the stream cannot be resumed.
    Broken(LaneEnd),
    /// The stream is over.
    Over,
}

/// What stands at the head of the first path.
#[derive(Debug)]
pub enum Head {
    /// Nothing but the partner's bytes.
    Bytes,
    /// They, or a legacy relay's refusal.
    Unknown(Word),
}

impl Carried {
    fn incoming(&self, epoch: Epoch) -> Incoming {
        let mut inner = self.lock();
        if inner.is_over() {
            return Incoming::Over;
        }
        match inner.recv.take() {
            Some(path) => Incoming::Path(path),
            None if inner.is_current(epoch) => Incoming::Same,
            None => Incoming::Leave,
        }
    }

    fn consumed(&self, epoch: Epoch, bytes: usize) -> Result<(), PathError> {
        let now = self.now();
        let mut inner = self.lock();
        inner.knowledge.has_flowed = true;
        inner.endpoint.consumed(epoch, bytes, now)?;
        inner.poke(&self.keeper);
        Ok(())
    }

    fn fin_read(&self, epoch: Epoch) -> Result<FinRead, PathError> {
        let mut inner = self.lock();
        inner.holds_fin = false;
        let read = inner.endpoint.fin_read(epoch, self.now())?;
        if read == FinRead::End {
            inner.from_path = Some(LaneEnd::Fin);
        }
        self.keeper.notify_one();
        Ok(read)
    }

    /// What is known of a FIN that was read at this time, and may be a cut.
    fn doubt_fin(&self, read_at: Duration) -> DoubtfulFin {
        let mut inner = self.lock();
        let doubt = inner.endpoint.doubt_fin(read_at, self.now());
        inner.holds_fin = matches!(doubt, DoubtfulFin::Until(_));
        doubt
    }
}

/// Copies until the stream is over.
pub async fn run(shared: Arc<Carried>, local: TcpSink, path: PathHalf<RecvHalf>, head: Head) {
    let gone = Box::pin(local.stopped());
    let epoch = path.epoch;
    let mut task = Receiving { shared, local: Some(local), gone, path: None, epoch };
    let mut next = match head {
        Head::Bytes => {
            task.begin(path);
            Next::On
        }
        Head::Unknown(word) => task.judge(path, word).await,
    };
    loop {
        next = match next {
            Next::On => task.step().await,
            Next::Broken(end) => {
                task.shared.lane_broken(Lane::FromPath, end);
                return;
            }
            Next::Over => return,
        };
        // Two sides that are always ready would keep a runtime thread to themselves.
        tokio::task::consume_budget().await;
    }
}

impl Receiving {
    fn begin(&mut self, path: PathHalf<RecvHalf>) {
        leave(&mut self.path);
        self.path = Some(Inbound { half: path.half, codes: path.codes, fin: path.fin });
        self.epoch = path.epoch;
    }

    /// Finds out whether a legacy relay has refused the stream.
    async fn judge(&mut self, path: PathHalf<RecvHalf>, mut word: Word) -> Next {
        let PathHalf { half, codes, fin, epoch } = path;
        let left = async {
            while self.shared.is_current(epoch) {
                self.shared.receiver.notified().await;
            }
        };
        let judged = tokio::select! {
            judged = legacy::judge(half, &mut word) => judged,
            _ = &mut self.gone => return Next::Broken(LaneEnd::Stopped(ResetCode::APPLICATION)),
            () = left => return self.woken(),
        };
        match judged {
            Judged::Raw { head, rest } => {
                self.begin(PathHalf { half: rest, codes, fin, epoch });
                if head.is_empty() { Next::On } else { self.on_data(head).await }
            }
            Judged::Rejected { code, reason } => self.refused(&Refused::Rejected { code, reason }),
            Judged::Unanswered => self.refused(&Refused::Unanswered),
            Judged::Forward => self.refused(&Refused::Forward),
        }
    }

    fn refused(&mut self, why: &Refused) -> Next {
        self.shared.lose(why.to_string());
        Next::Over
    }

    async fn step(&mut self) -> Next {
        match self.event().await {
            Event::Data(bytes) => self.on_data(bytes).await,
            Event::End(End::Fin) => self.on_fin().await,
            Event::End(end) => self.on_cut(end),
            Event::LocalGone => local_gone(&mut self.path),
            Event::Woken => self.woken(),
        }
    }

    async fn event(&mut self) -> Event {
        let Self { shared, local, gone, path, .. } = self;
        let mut woken = pin!(shared.receiver.notified());
        poll_fn(|cx| {
            if let Some(path) = path {
                // No block is held while there is nothing to read.
                let mut block = Block::take();
                match path.half.poll_read_buf(cx, block.buffer()) {
                    Poll::Ready(Read::Data(_)) => return Poll::Ready(Event::Data(block.into_bytes())),
                    Poll::Ready(Read::End(end)) => return Poll::Ready(Event::End(end)),
                    Poll::Pending => {}
                }
            }
            if local.is_some() && gone.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::LocalGone);
            }
            woken.as_mut().poll(cx).map(|()| Event::Woken)
        })
        .await
    }

    fn woken(&mut self) -> Next {
        woken(&self.shared, &mut self.path, &mut self.epoch)
    }

    async fn on_data(&mut self, bytes: Bytes) -> Next {
        match self.shared.consumed(self.epoch, bytes.len()) {
            Ok(()) => self.deliver(bytes).await,
            // The partner sends it again.
            Err(PathError::Stale) => {
                leave(&mut self.path);
                self.woken()
            }
            Err(error) => {
                if let Some(path) = self.path.take() {
                    path.half.stop(ResetCode::PROTOCOL.for_peer(path.codes));
                }
                self.shared.lose(error.to_string());
                Next::Over
            }
        }
    }

    /// Everything is in our custody: only the end of the local side, or of the stream, keeps it from being delivered.
    async fn deliver(&mut self, bytes: Bytes) -> Next {
        let Self { shared, local, path, epoch, .. } = self;
        let Some(sink) = local else { return Next::On };
        let mut write = pin!(sink.write_bytes(bytes));
        loop {
            let delivery = {
                let watch = pin!(watch(path));
                tokio::select! {
                    biased;
                    written = &mut write => Delivery::Done(written),
                    delivery = watch => delivery,
                    () = shared.receiver.notified() => Delivery::Woken,
                }
            };
            let next = match delivery {
                Delivery::Done(Ok(())) => return Next::On,
                Delivery::Done(Err(_)) => return local_gone(path),
                Delivery::Woken => woken(shared, path, epoch),
                Delivery::PathEnded(end) => cut(shared, path, *epoch, end),
                Delivery::Stalled => {
                    if let Some(path) = path.take() {
                        path.half.stop(ResetCode::LIMIT.for_peer(path.codes));
                    }
                    shared.lose("cut: the local application stalled for too long");
                    Next::Over
                }
            };
            if !matches!(next, Next::On) {
                return next;
            }
        }
    }

    fn on_cut(&mut self, end: End) -> Next {
        cut(&self.shared, &mut self.path, self.epoch, end)
    }

    async fn on_fin(&mut self) -> Next {
        if self.path.as_ref().is_some_and(|path| path.fin == FinTrust::EndOrCut) && self.local.is_some() {
            match self.hear_of_fin().await {
                Next::On => {}
                over => return over,
            }
        }
        match self.shared.fin_read(self.epoch) {
            Ok(FinRead::End) => {
                // A half whose end was read says nothing when it is dropped.
                self.path = None;
                if let Some(local) = self.local.take() {
                    local.finish();
                }
            }
            Ok(FinRead::Again) => self.path = None,
            Ok(FinRead::Cut { missing }) => {
                self.path = None;
                self.shared
                    .path_over(self.epoch, &format!("the relay ended it {missing} bytes before the partner's end"));
            }
            Err(_stale) => self.path = None,
        }
        self.woken()
    }

    /// Waits for the partner's word on what may be a cut.
    async fn hear_of_fin(&mut self) -> Next {
        let read_at = self.shared.now();
        while self.shared.is_current(self.epoch) {
            let until = match self.shared.doubt_fin(read_at) {
                DoubtfulFin::Settled => break,
                DoubtfulFin::Cut => {
                    self.path = None;
                    self.shared.path_over(self.epoch, "the relay ended it, and the partner did not");
                    break;
                }
                DoubtfulFin::Until(until) => self.shared.clock + until,
            };
            tokio::select! {
                () = sleep_until(until) => {}
                () = self.shared.receiver.notified() => {}
                _ = &mut self.gone => return local_gone(&mut self.path),
            }
        }
        Next::On
    }
}

fn local_gone(path: &mut Option<Inbound>) -> Next {
    if let Some(path) = path.take() {
        path.half.stop(ResetCode::APPLICATION.for_peer(path.codes));
    }
    Next::Broken(LaneEnd::Stopped(ResetCode::APPLICATION))
}

fn leave(path: &mut Option<Inbound>) {
    if let Some(path) = path.take() {
        path.half.stop(leaving(path.codes));
    }
}

fn woken(shared: &Carried, path: &mut Option<Inbound>, epoch: &mut Epoch) -> Next {
    match shared.incoming(*epoch) {
        Incoming::Over => return Next::Over,
        Incoming::Same => {}
        Incoming::Leave => leave(path),
        Incoming::Path(new) => {
            leave(path);
            *path = Some(Inbound { half: new.half, codes: new.codes, fin: new.fin });
            *epoch = new.epoch;
        }
    }
    Next::On
}

/// The path did not end with a FIN.
fn cut(shared: &Carried, path: &mut Option<Inbound>, epoch: Epoch, end: End) -> Next {
    // It has ended: nothing is said when it is dropped.
    *path = None;
    let code = match end {
        End::Reset(code) => code,
        End::Lost | End::Fin => {
            shared.path_over(epoch, "the connection was lost");
            return Next::On;
        }
    };
    if verdict(code) == Verdict::Path {
        shared.path_cut(epoch, code);
        return Next::On;
    }
    // The local socket can only be cut both ways.
    shared.lose_path(epoch, format!("reset with {code}"));
    Next::On
}

/// While what was read is not taken by the local side: whether the path has ended, or has held its bytes for too long.
async fn watch(path: &mut Option<Inbound>) -> Delivery {
    let Some(path) = path else { return pending().await };
    tokio::time::sleep(PATIENCE).await;
    let Some(stall) = path.half.stall() else { return Delivery::PathEnded(path.half.reset_received().await) };
    tokio::select! {
        end = path.half.reset_received() => Delivery::PathEnded(end),
        () = stall.cut() => Delivery::Stalled,
    }
}
