//! Streams are opened, bring one byte back, and end.

use std::sync::Arc;
use std::time::Duration;

use super::agent::{Agent, finished};
use super::failure::Failure;
use super::figures::{Figure, Figures};
use super::load::{self, Trouble, Worker};
use super::provider::Provider;
use super::report::Run;
use super::site::{Site, Use};
use super::{Plan, STREAMS_PER_CONSUMER};
use crate::net::stream::BiStream;

pub(super) async fn run(plan: &Plan, at_once: u32) -> Result<Run, Failure> {
    let site = &plan.site;
    let (near, far) = (site.endpoint()?, site.endpoint()?);
    let agent = Agent::provide(site, &far, &site.identity(Use::Provide)?).await?;
    let provider = Provider::serve(agent, |_, stream| async move {
        let BiStream { send, mut recv } = stream;
        send.finish();
        finished(&mut recv).await
    });
    // Kept until the provider has seen the end of every stream: a close would overtake the last ones.
    let mut consumers = Vec::new();
    let mut workers = Vec::new();
    while workers.len() < at_once as usize {
        let agent = Arc::new(Agent::connect(site, &near, &site.identity(Use::Consume)?).await?);
        consumers.push(Arc::clone(&agent));
        let more = (at_once as usize - workers.len()).min(STREAMS_PER_CONSUMER as usize);
        workers.extend((0..more).map(|_| Opener { agent: Arc::clone(&agent), site: Arc::clone(site) }));
    }
    let mut lap = load::drive(workers, plan.timing, plan.relay.as_ref()).await?;
    lap.failures.merge(provider.finish().await);
    drop(consumers);

    let mut figures = Figures::default();
    figures.set(Figure::OpensPerS, lap.rate());
    figures.set_times(&lap.times);
    if let Some(cpu) = lap.cpu_per_round() {
        figures.set(Figure::CpuMsPerOpen, cpu * 1e3);
    }
    Ok(Run { figures, completed: lap.times.count(), failures: lap.failures })
}

struct Opener {
    agent: Arc<Agent>,
    site: Arc<Site>,
}

impl Worker for Opener {
    async fn once(&mut self) -> Result<Duration, Trouble> {
        let whole = async {
            let (BiStream { send, mut recv }, time) = self.agent.open(&self.site, self.site.stream_id()).await?;
            send.finish();
            finished(&mut recv).await?;
            Ok(time)
        };
        whole.await.map_err(|failure| self.agent.trouble(failure))
    }
}
