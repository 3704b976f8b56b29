//! A message there and back, over and over, on one spliced stream.

use std::time::{Duration, Instant};

use super::Plan;
use super::agent::{Agent, end_text, finished};
use super::failure::{Failure, Step};
use super::figures::{Figure, Figures};
use super::load::{self, Trouble, Worker};
use super::payload::Payload;
use super::provider::Provider;
use super::report::Run;
use super::site::Use;
use crate::net::stream::{BiStream, End, Read};

const ECHO_BUFFER: usize = 64 * 1024;

pub(super) async fn run(plan: &Plan, bytes: usize) -> Result<Run, Failure> {
    let site = &plan.site;
    let (near, far) = (site.endpoint()?, site.endpoint()?);
    let agent = Agent::provide(site, &far, &site.identity(Use::Provide)?).await?;
    let provider = Provider::serve(agent, |_, stream| echo(stream));
    let consumer = Agent::connect(site, &near, &site.identity(Use::Consume)?).await?;
    let id = site.stream_id();
    let stream = consumer.open_in_time(site, id).await?;
    let worker = PingPong { stream, payload: Payload::new(id), sent: vec![0; bytes], back: vec![0; bytes] };
    let mut lap = load::drive(vec![worker], plan.timing, plan.relay.as_ref()).await?;
    lap.failures.merge(provider.finish().await);

    let mut figures = Figures::default();
    figures.set(Figure::RoundsPerS, lap.rate());
    figures.set_times(&lap.times);
    if let Some(cpu) = lap.cpu_per_round() {
        figures.set(Figure::CpuUsPerRound, cpu * 1e6);
    }
    Ok(Run { figures, completed: lap.times.count(), failures: lap.failures })
}

/// Sends back what comes, and ends as the stream ends.
async fn echo(mut stream: BiStream) -> Result<(), Failure> {
    let mut buf = vec![0; ECHO_BUFFER];
    loop {
        match stream.recv.read(&mut buf).await {
            Read::Data(len) => stream.send.write_all(&buf[..len]).await.map_err(Failure::of(Step::Transfer))?,
            Read::End(End::Fin) => {
                stream.send.finish();
                return Ok(());
            }
            Read::End(end) => return Err(Failure::new(Step::Transfer, end_text(end))),
        }
    }
}

struct PingPong {
    stream: BiStream,
    payload: Payload,
    sent: Vec<u8>,
    back: Vec<u8>,
}

impl Worker for PingPong {
    async fn once(&mut self) -> Result<Duration, Trouble> {
        self.round().await.map_err(Trouble::Last)
    }

    async fn end(self) -> Result<(), Failure> {
        let BiStream { send, mut recv } = self.stream;
        send.finish();
        finished(&mut recv).await
    }
}

impl PingPong {
    async fn round(&mut self) -> Result<Duration, Failure> {
        let mut filled = 0;
        while filled < self.sent.len() {
            let more = self.payload.next(self.sent.len() - filled);
            self.sent[filled..filled + more.len()].copy_from_slice(more);
            filled += more.len();
        }
        let begun = Instant::now();
        // At once: a long message would fill the windows of both ways before it is all written.
        let write = async { self.stream.send.write_all(&self.sent).await.map_err(Failure::of(Step::Transfer)) };
        let read = async {
            let mut got = 0;
            while got < self.back.len() {
                match self.stream.recv.read(&mut self.back[got..]).await {
                    Read::Data(len) => got += len,
                    Read::End(end) => return Err(Failure::new(Step::Transfer, end_text(end))),
                }
            }
            Ok(())
        };
        tokio::try_join!(write, read)?;
        let time = begun.elapsed();
        if self.sent == self.back { Ok(time) } else { Err(Failure::new(Step::Transfer, "another message came back")) }
    }
}
