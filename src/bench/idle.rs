//! Agents and streams that do nothing: what they cost the relay in memory, and in CPU time while nothing happens.
//!
//! Every run *adds* its connections and streams to those of the runs before. Were they closed in between, the relay's allocator
//! would give the next run the memory of the last one, and its growth would say nothing. For the same reason a few connections and streams come
//! first that are not counted: they bring in the code and the first pages of everything.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::time::{Instant, sleep};

use super::agent::{Agent, end_text};
use super::failure::{Failure, Failures, Step};
use super::figures::{Figure, Figures};
use super::process::{Meter, Process};
use super::provider::Provider;
use super::report::Run;
use super::site::{Identity, Site, Use};
use super::{Plan, STREAMS_PER_CONSUMER};
use crate::net::stream::{BiStream, Read};

/// Connections or streams that are set up at the same time.
const AT_ONCE: usize = 32;
/// Connections and streams that are not counted.
const FIRST: u32 = 32;
/// Between two looks at the memory.
const LOOK: Duration = Duration::from_millis(200);
/// Looks in a row with the same memory: it has settled.
const SAME: u32 = 4;
/// As good as the same.
const ABOUT_KIB: u64 = 64;

/// What the runs so far hold open.
#[derive(Debug, Default)]
pub(super) struct Held {
    endpoint: Option<quinn::Endpoint>,
    idle: Vec<Agent>,
    consumers: Vec<Agent>,
    providers: Vec<Provider>,
    streams: Vec<BiStream>,
    /// Those of `idle` and `streams` that are not counted.
    uncounted: [usize; 2],
}

pub(super) async fn run(plan: &Plan, connections: u32, streams: u32, held: &mut Held) -> Result<Run, Failure> {
    let Some(relay) = &plan.relay else {
        return Err(Failure::new(Step::Process, "not known: idle measures it, so give --relay-pid"));
    };
    let (mut figures, mut failures) = (Figures::default(), Failures::default());
    if connections > 0 || streams > 0 {
        held.warm_up(&plan.site, streams, &mut failures).await?;
    }
    let of_connections =
        growth(plan, relay, async || held.add_connections(&plan.site, connections, &mut failures).await).await?;
    if streams > 0 {
        held.add_agents_for(&plan.site, streams).await?;
    }
    let of_streams = growth(plan, relay, async || held.add_streams(&plan.site, streams, &mut failures).await).await?;
    if streams > 0 {
        set_per_unit(&mut figures, Figure::RssKibPerUnit, of_streams);
        set_per_unit(&mut figures, Figure::RssKibPerConnection, of_connections);
    } else {
        set_per_unit(&mut figures, Figure::RssKibPerUnit, of_connections);
    }
    let meter = Meter::start(Some(relay))?;
    sleep(plan.timing.measured).await;
    let window = meter.stop()?;
    held.look(&mut failures).await;
    set_idle(&mut figures, held, &window);
    Ok(Run { figures, completed: held.counted(), failures })
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52 of anything")]
fn set_idle(figures: &mut Figures, held: &Held, window: &super::process::Window) {
    if let (Some(cpu), Some(sleeps)) = (window.cpu_seconds, window.sleeps) {
        figures.set(Figure::IdleCores, cpu / window.seconds);
        figures.set(Figure::SleepsPerS, sleeps as f64 / window.seconds);
        let connections = held.idle.len() + held.consumers.len() + held.providers.len();
        figures.set(Figure::IdleCpuUsPerConnectionS, cpu * 1e6 / window.seconds / connections as f64);
    }
}

/// How many units were added, and by how many KiB the relay has grown.
type Growth = (usize, f64);

#[allow(clippy::cast_precision_loss, reason = "far below 2^52 KiB")]
async fn growth(plan: &Plan, relay: &Process, add: impl AsyncFnOnce() -> usize) -> Result<Growth, Failure> {
    let before = settled_rss_kib(plan, relay).await?;
    let added = add().await;
    let after = if added > 0 { settled_rss_kib(plan, relay).await? } else { before };
    Ok((added, after as f64 - before as f64))
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52 units")]
fn set_per_unit(figures: &mut Figures, figure: Figure, (added, kib): Growth) {
    if added > 0 {
        figures.set(figure, kib / added as f64);
    }
}

/// The relay's memory once it no longer changes, or after as long as a run is measured.
async fn settled_rss_kib(plan: &Plan, relay: &Process) -> Result<u64, Failure> {
    let deadline = Instant::now() + plan.timing.measured;
    let (mut last, mut same) = (relay.rss_kib()?, 0);
    while same < SAME && Instant::now() < deadline {
        sleep(LOOK).await;
        let now = relay.rss_kib()?;
        same = if now.abs_diff(last) <= ABOUT_KIB { same + 1 } else { 0 };
        last = now;
    }
    Ok(last)
}

impl Held {
    /// The first few, once.
    async fn warm_up(&mut self, site: &Site, streams: u32, failures: &mut Failures) -> Result<(), Failure> {
        if self.endpoint.is_some() {
            return Ok(());
        }
        self.endpoint = Some(site.endpoint()?);
        self.add_connections(site, FIRST, failures).await;
        if streams > 0 {
            self.add_agents_for(site, FIRST).await?;
            self.add_streams(site, FIRST, failures).await;
        }
        self.uncounted = [self.idle.len(), self.streams.len()];
        Ok(())
    }

    /// Idle units, without the first few.
    fn counted(&self) -> u64 {
        (self.idle.len() + self.streams.len() - self.uncounted.iter().sum::<usize>()) as u64
    }

    /// How many were added.
    async fn add_connections(&mut self, site: &Site, connections: u32, failures: &mut Failures) -> usize {
        let Some(endpoint) = &self.endpoint else { return 0 };
        let connect = async |_| Agent::connect(site, endpoint, &site.identity(Use::Consume)?).await;
        let connected = stream::iter(0..connections).map(connect).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
        let before = self.idle.len();
        keep(connected, &mut self.idle, failures);
        self.idle.len() - before
    }

    /// A provider, and as many consumers as so many streams take.
    async fn add_agents_for(&mut self, site: &Site, streams: u32) -> Result<(), Failure> {
        let Some(endpoint) = &self.endpoint else { return Ok(()) };
        let agent = Agent::provide(site, endpoint, &site.identity(Use::Provide)?).await?;
        self.providers.push(Provider::serve(agent, |_, stream| hold(stream)));
        for _ in 0..streams.div_ceil(STREAMS_PER_CONSUMER) {
            let who: Identity = site.identity(Use::Consume)?;
            self.consumers.push(Agent::connect(site, endpoint, &who).await?);
        }
        Ok(())
    }

    /// Opens streams from the newest consumers; how many.
    async fn add_streams(&mut self, site: &Site, streams: u32, failures: &mut Failures) -> usize {
        let first = self.consumers.len() - streams.div_ceil(STREAMS_PER_CONSUMER) as usize;
        let newest = &self.consumers[first..];
        let open = async |n: u32| {
            let consumer = &newest[(n / STREAMS_PER_CONSUMER) as usize];
            consumer.open_in_time(site, site.stream_id()).await
        };
        let opened = stream::iter(0..streams).map(open).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
        let before = self.streams.len();
        keep(opened, &mut self.streams, failures);
        self.streams.len() - before
    }

    /// Whether all that is held still lives.
    async fn look(&mut self, failures: &mut Failures) {
        for agent in self.idle.iter().chain(&self.consumers) {
            if let Some(reason) = agent.quic.close_reason() {
                failures.add(&Failure::new(Step::Connect, format!("an idle connection ended: {reason}")));
            }
        }
        for provider in &self.providers {
            failures.merge(provider.failures());
        }
        for stream in &mut self.streams {
            let mut buf = [0];
            tokio::select! {
                biased;
                read = stream.recv.read(&mut buf) => failures.add(&disturbed(read)),
                () = std::future::ready(()) => {}
            }
        }
    }
}

fn keep<T>(outcomes: Vec<Result<T, Failure>>, kept: &mut Vec<T>, failures: &mut Failures) {
    for outcome in outcomes {
        match outcome {
            Ok(one) => kept.push(one),
            Err(failure) => failures.add(&failure),
        }
    }
}

/// Until the stream ends, which is when the benchmark does.
async fn hold(mut stream: BiStream) -> Result<(), Failure> {
    Err(disturbed(stream.recv.read(&mut [0]).await))
}

fn disturbed(read: Read) -> Failure {
    let what = match read {
        Read::Data(_) => "an idle stream brought a byte".to_owned(),
        Read::End(end) => format!("an idle stream ended: {}", end_text(end)),
    };
    Failure::new(Step::Transfer, what)
}
