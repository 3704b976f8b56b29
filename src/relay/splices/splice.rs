//! A splice: one paired stream from its acceptance until each end is cut, or has acknowledged every byte.
//!
//! | | |
//! |---|---|
//! | Owns | both pump tasks, and through them both streams; the stream's place in the index and its route |
//! | Receives | the ends of its two pumps; `Denied` |
//! | Sends | STREAM_READY to control writers |
//! | Restart | temporary: a stream cannot be continued by an actor that does not know what was written; the agents do, and resume it |
//! | Lost on crash | the path: both halves are dropped, and a dropped half is a reset (`RESUMABLE` where both agents know it), never a FIN |
//!
//! A stream that is resumed begins with the echoes: each half is told the other's numbers, and by nobody else.
//! No byte passes through the mailbox.

use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::admin::protocol::StreamRow;
use crate::clock::unix_ms;
use crate::core::frame::Frame;
use crate::core::identity::Tenant;
use crate::core::ids::StreamId;
use crate::core::policy::{Effect, RelayMode};
use crate::core::reject::{CodeAgreement, ResetCode};
use crate::core::resume::Fields;
use crate::metrics::Limit;
use crate::net::pump::{self, PumpCodes, PumpCount, PumpEnd};
use crate::net::stream::{BiStream, RecvHalf, SendHalf, SharedDropCode, WriteEnd};
use crate::net::stream_limit::StreamUse;
use crate::relay::decision::{self, Asked, Change};
use crate::supervise::slot::Slot;
use crate::supervise::task::{self, Owned, Panicked};
use crate::vault::Vault;
use crate::vault::connections::AgentConnection;
use crate::vault::policy::Published;
use crate::vault::routes::Routed;
use crate::vault::streams::{Parties, Reservation, StreamFacts};
use crate::vault::traffic::{Admitted, Counted, LiveStream};

/// A stream whose provider has accepted: everything that a splice takes over.
#[derive(Debug)]
pub struct Pair {
    /// Chosen by the consumer.
    pub stream_id: StreamId,
    /// The two agents.
    pub parties: Parties,
    /// What it is about.
    pub facts: Arc<StreamFacts>,
    /// The consumer's stream, past its OPEN_STREAM or STREAM_RESUME.
    pub consumer: BiStream,
    /// The provider's stream, past its STREAM_ACCEPT or STREAM_RESUME.
    pub provider: BiStream,
    /// The provider's numbers, where a stream is resumed: they come before the first byte.
    pub to_consumer: Option<Fields>,
    /// The consumer's numbers, likewise.
    pub to_provider: Option<Fields>,
    /// Whether both agents know reset codes.
    pub codes: CodeAgreement,
    /// The stream's place in the index.
    pub reservation: Reservation,
    /// What one agent says of the stream on its control stream reaches the other.
    pub routed: Routed,
    /// Both streams count toward their connection's limit.
    pub stream_uses: [StreamUse; 2],
    /// Where streams and bytes are counted.
    pub vault: Arc<Vault>,
    /// The rules under which it was allowed; none for one that is resumed, which is held against those in force.
    pub rules: Option<Arc<Published>>,
    /// The stream's admission, which ends once it has begun.
    pub admitted: Option<Admitted>,
    /// Of a stream that is opened now.
    pub opening: Option<Opening>,
}

/// What each of the two agents is told.
pub type Ready = [(Arc<AgentConnection>, Frame); 2];

/// An open whose provider has accepted, until somebody has taken the pair: until then a cut says `RETRY`, and nothing is open. It is counted,
/// whatever becomes of it.
#[derive(Debug)]
pub struct Opening {
    vault: Arc<Vault>,
    since: Instant,
    ready: Option<Box<Ready>>,
}

impl Opening {
    /// The open began at `since`; `ready` is what the two agents are told.
    #[must_use]
    pub fn new(vault: &Arc<Vault>, since: Instant, ready: Ready) -> Self {
        Self { vault: Arc::clone(vault), since, ready: Some(Box::new(ready)) }
    }

    fn taken(mut self) {
        let Some(ready) = self.ready.take() else { return };
        ready.iter().for_each(|(agent, frame)| agent.send_control(frame));
        self.vault.metrics.open_answered("spliced", 0, self.since);
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if self.ready.is_some() {
            self.vault.metrics.open("aborted", 0);
        }
    }
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the consumer to the provider.
    Up,
    /// From the provider to the consumer.
    Down,
}

/// Messages of a splice.
#[derive(Debug)]
pub enum SpliceMsg {
    /// One direction has ended.
    PumpEnded(Direction, Result<PumpEnd, Panicked>),
    /// The rules do not allow the stream any more, for this reason.
    Denied(String),
}

/// What a splice is started with.
#[derive(Debug)]
pub struct SpliceArgs {
    /// Its own address.
    pub slot: Slot<SpliceMsg>,
    /// What it takes over.
    pub pair: Pair,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Splice;

/// What a splice holds while it runs.
#[derive(Debug)]
pub struct SpliceState {
    stream_id: StreamId,
    parties: Parties,
    facts: Arc<StreamFacts>,
    since: Instant,
    codes: CodeAgreement,
    /// What all four halves say when the splice ends without them.
    drop_code: SharedDropCode,
    up: Lane,
    down: Lane,
    vault: Arc<Vault>,
    _counted: Counted,
    reservation: Reservation,
    _routed: Routed,
}

/// One direction.
#[derive(Debug)]
struct Lane {
    count: Arc<PumpCount>,
    end: Option<PumpEnd>,
    _pump: Owned,
}

impl Actor for Splice {
    type Msg = SpliceMsg;
    type State = SpliceState;
    type Arguments = SpliceArgs;

    async fn pre_start(
        &self,
        _myself: ActorRef<SpliceMsg>,
        SpliceArgs { slot, pair }: SpliceArgs,
    ) -> Result<SpliceState, ActorProcessingErr> {
        let about = StreamRow {
            id: pair.stream_id,
            actor: slot.node().id(),
            consumer: pair.parties.consumer.to_string(),
            provider: pair.parties.provider.to_string(),
            service: pair.facts.target.clone(),
            method: pair.facts.method.clone(),
            p2p_mode: pair.facts.p2p_mode,
            relay_mode: RelayMode::Splice,
            opened_at: unix_ms(pair.facts.opened_at),
            bytes_to_provider: 0,
            bytes_to_consumer: 0,
        };
        let lost = ResetCode::RESUMABLE.for_peer(pair.codes);
        let (mut consumer, mut provider) = (pair.consumer, pair.provider);
        let drop_code = SharedDropCode::new(lost);
        consumer.share_drop_code(&drop_code);
        provider.share_drop_code(&drop_code);
        let [consumer_use, provider_use] = pair.stream_uses.map(Arc::new);
        let uses = [Arc::clone(&consumer_use), Arc::clone(&provider_use)];
        let up = Lane::start(&slot, Direction::Up, (consumer.recv, provider.send), pair.to_provider, pair.codes, uses);
        let (halves, uses) = ((provider.recv, consumer.send), [provider_use, consumer_use]);
        let down = Lane::start(&slot, Direction::Down, halves, pair.to_consumer, pair.codes, uses);
        pair.reservation.carried_by(slot.node(), &pair.facts);
        describe(&slot, &about, &up.count, &down.count);
        recorded(&slot, &pair.vault, pair.parties.consumer.tenant(), pair.stream_id);
        // From here on a cut says RESUMABLE.
        if let Some(opening) = pair.opening {
            opening.taken();
            pair.vault.flights.note(pair.parties.consumer.tenant(), pair.stream_id, "spliced");
        }
        pair.vault.metrics.streams_opened.inc();
        let live = LiveStream {
            id: pair.stream_id,
            parties: pair.parties.clone(),
            facts: Arc::clone(&pair.facts),
            splice: Arc::downgrade(slot.node()),
        };
        let counted = pair.vault.traffic.began(live.clone(), &up.count, &down.count);
        // From here on a change of the rules finds it; what changed before is made up for.
        let current = pair.vault.policy.current();
        let change = if !pair.rules.is_some_and(|rules| Arc::ptr_eq(&rules, &current)) {
            Some(Change::NewRules)
        } else {
            current.snapshot.has_expiring_rules().then_some(Change::Expiry)
        };
        if let Some(change) = change
            && pair.vault.config.now().directory.continuous
            && let Some(why) = decision::denied(&pair.vault, &live, change)
        {
            slot.tell(SpliceMsg::Denied(why));
        }
        // Only now: a drain that waits for one of the two never sees none.
        drop(pair.admitted);
        Ok(SpliceState {
            _counted: counted,
            codes: pair.codes,
            drop_code,
            vault: pair.vault,
            stream_id: pair.stream_id,
            parties: pair.parties,
            facts: pair.facts,
            since: Instant::now(),
            up,
            down,
            reservation: pair.reservation,
            _routed: pair.routed,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<SpliceMsg>,
        message: SpliceMsg,
        state: &mut SpliceState,
    ) -> Result<(), ActorProcessingErr> {
        let (direction, end) = match message {
            SpliceMsg::PumpEnded(direction, end) => (direction, end),
            SpliceMsg::Denied(why) => {
                state.on_denied(why);
                myself.stop(None);
                return Ok(());
            }
        };
        // A pump that panicked fails the splice: the other direction is reset with it.
        let end = end?;
        if end == PumpEnd::Stalled {
            state.on_stalled(direction, end);
        }
        match direction {
            Direction::Up => state.up.end = Some(end),
            Direction::Down => state.down.end = Some(end),
        }
        if state.up.end.is_some() && state.down.end.is_some() {
            if state.up.end == Some(PumpEnd::Fin) && state.down.end == Some(PumpEnd::Fin) {
                state.reservation.finished();
            }
            myself.stop(None);
        }
        Ok(())
    }
}

impl SpliceState {
    /// Its reader has kept from others what their connection may receive.
    fn on_stalled(&self, direction: Direction, end: PumpEnd) {
        self.vault.metrics.limit_hit(Limit::ConnectionWindowMax);
        let toward = match direction {
            Direction::Up => "to the provider",
            Direction::Down => "to the consumer",
        };
        let asked = Asked { target: &self.facts.target, method: &self.facts.method };
        let why = format!("{toward}: {end}");
        decision::by_relay(&self.vault, &self.parties.consumer, asked, self.stream_id, Effect::Deny, &why);
    }

    /// It ends with a reset that says so, and may not be resumed on the strength of what is remembered of it.
    fn on_denied(&mut self, why: String) {
        tracing::info!(stream = %self.stream_id, consumer = %self.parties.consumer, why, "stream is not allowed any more");
        self.vault.flights.note(self.parties.consumer.tenant(), self.stream_id, why);
        self.drop_code.set(ResetCode::DENIED.for_peer(self.codes));
        self.reservation.forget();
    }
}

impl Lane {
    fn start(
        slot: &Slot<SpliceMsg>,
        direction: Direction,
        (source, sink): (RecvHalf, SendHalf),
        echo: Option<Fields>,
        codes: CodeAgreement,
        [source_use, sink_use]: [Arc<StreamUse>; 2],
    ) -> Self {
        let count = Arc::new(PumpCount::default());
        let map = move |code: ResetCode| code.passed_on(codes);
        let codes =
            PumpCodes { map, lost: ResetCode::RESUMABLE.for_peer(codes), limit: ResetCode::LIMIT.for_peer(codes) };
        let echo = echo.map(|echo| Frame::StreamResume(echo.to_resume(Vec::new())).encode());
        // Taken before the pump takes the sink.
        let delivered = sink.stopped();
        // Not one more `async` block around it: that keeps room for what it is given once more.
        let pump = pump::pump_behind(echo, source, sink, Arc::clone(&count), codes).then(move |end| {
            // Its peer may open another one now.
            drop(source_use);
            async move {
                let end = match end {
                    PumpEnd::Fin => delivered_end(delivered.await),
                    cut => cut,
                };
                drop(sink_use);
                end
            }
        });
        let pump = task::owned(slot, pump, move |end| SpliceMsg::PumpEnded(direction, end));
        Self { count, end: None, _pump: pump }
    }

    fn outcome(&self) -> String {
        self.end.map_or_else(|| "cut".to_owned(), |end| end.to_string())
    }
}

/// A direction whose every byte was written is over once its reader has acknowledged them: until then they are with this relay, and a
/// drain must wait for them.
fn delivered_end(end: WriteEnd) -> PumpEnd {
    match end {
        WriteEnd::Closed => PumpEnd::Fin,
        WriteEnd::Stopped(code) => PumpEnd::SinkStopped(code),
        WriteEnd::Lost => PumpEnd::SinkLost,
    }
}

fn describe(slot: &Slot<SpliceMsg>, about: &StreamRow, up: &Arc<PumpCount>, down: &Arc<PumpCount>) {
    let (about, up, down) = (about.clone(), Arc::clone(up), Arc::clone(down));
    slot.node().describe(move || {
        let row = StreamRow { bytes_to_provider: up.bytes(), bytes_to_consumer: down.bytes(), ..about.clone() };
        serde_json::to_value(row).unwrap_or_default()
    });
}

fn recorded(slot: &Slot<SpliceMsg>, vault: &Arc<Vault>, tenant: &Tenant, id: StreamId) {
    let (vault, tenant) = (Arc::clone(vault), tenant.clone());
    slot.node().also_recorded(move || vault.flights.of(&tenant, id));
}

/// The one line that an operator gets per stream. Written however the splice ends.
impl Drop for SpliceState {
    fn drop(&mut self) {
        self.vault.metrics.streams_ended.inc();
        let ended = format!("ended: up {}, down {}", self.up.outcome(), self.down.outcome());
        self.vault.flights.note(self.parties.consumer.tenant(), self.stream_id, ended);
        tracing::info!(
            stream = %self.stream_id,
            consumer = %self.parties.consumer,
            provider = %self.parties.provider,
            bytes_up = self.up.count.bytes(),
            bytes_down = self.down.count.bytes(),
            up = self.up.outcome(),
            down = self.down.outcome(),
            duration = ?self.since.elapsed(),
            "stream ended"
        );
    }
}
