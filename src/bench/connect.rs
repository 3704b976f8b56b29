//! Agents connect, say HELLO, and leave.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::agent::{hello, late, leave};
use super::failure::{Failure, Step};
use super::figures::{Figure, Figures};
use super::load::{self, Trouble, Worker};
use super::report::Run;
use super::site::{Identity, Site, Use};
use super::{Plan, SETUP};

pub(super) async fn run(plan: &Plan, at_once: u32) -> Result<Run, Failure> {
    let site = &plan.site;
    let endpoint = site.endpoint()?;
    let mut workers = Vec::new();
    for _ in 0..at_once {
        let who = site.identity(Use::Consume)?;
        workers.push(Comer { site: Arc::clone(site), endpoint: endpoint.clone(), who });
    }
    let lap = load::drive(workers, plan.timing, plan.relay.as_ref()).await?;

    let mut figures = Figures::default();
    figures.set(Figure::ConnectsPerS, lap.rate());
    figures.set_times(&lap.times);
    if let Some(cpu) = lap.cpu_per_round() {
        figures.set(Figure::CpuMsPerConnect, cpu * 1e3);
    }
    Ok(Run { figures, completed: lap.times.count(), failures: lap.failures })
}

/// One identity, again and again: its sessions follow one another, as an agent's do.
struct Comer {
    site: Arc<Site>,
    endpoint: quinn::Endpoint,
    who: Identity,
}

impl Worker for Comer {
    async fn once(&mut self) -> Result<Duration, Trouble> {
        let begun = Instant::now();
        let said = timeout(SETUP, hello(&self.site, &self.endpoint, &self.who)).await;
        let time = begun.elapsed();
        match said {
            Ok(Ok((quic, _control))) => {
                leave(&quic);
                Ok(time)
            }
            Ok(Err(failure)) => Err(Trouble::Once(failure)),
            Err(_) => Err(Trouble::Once(late(Step::Connect))),
        }
    }
}
