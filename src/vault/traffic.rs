//! Live streams, and their bytes, counted where nobody waits: each splice has counters of its own, folded into the metrics
//! when it ends and when somebody looks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::watch;

use super::streams::{Parties, StreamFacts};
use crate::core::ids::StreamId;
use crate::metrics::{DirectionLabel, Metrics};
use crate::net::pump::PumpCount;
use crate::supervise::node::Node;

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Traffic(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    live: Mutex<Live>,
    streams: watch::Sender<usize>,
    /// Opens that were let in and have come to no end yet.
    admitted: watch::Sender<usize>,
    to_provider: Counter,
    to_consumer: Counter,
}

#[derive(Debug, Default)]
struct Live {
    next: u64,
    streams: HashMap<u64, (Lane, Lane, LiveStream)>,
}

/// A live stream, recorded in the index or not.
#[derive(Debug, Clone)]
pub struct LiveStream {
    /// Chosen by the consumer.
    pub id: StreamId,
    /// Its two agents.
    pub parties: Parties,
    /// What it is about.
    pub facts: Arc<StreamFacts>,
    /// The splice that carries it. Weak: what it shows leads back here.
    pub splice: Weak<Node>,
}

/// One direction of one stream, and how much of it is in the metrics already.
#[derive(Debug)]
struct Lane {
    count: Arc<PumpCount>,
    folded: u64,
}

impl Lane {
    fn fold(&mut self, into: &Counter) {
        let now = self.count.bytes();
        into.inc_by(now.saturating_sub(self.folded));
        self.folded = now;
    }
}

impl Traffic {
    /// Counts into `metrics`.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let counter = |direction| metrics.traffic.get_or_create_owned(&DirectionLabel { direction });
        Self(Arc::new(Inner {
            live: Mutex::default(),
            streams: watch::Sender::new(0),
            admitted: watch::Sender::new(0),
            to_provider: counter("to_provider"),
            to_consumer: counter("to_consumer"),
        }))
    }

    /// Lets one more stream be opened, unless so many live or are being opened already.
    #[must_use]
    pub fn admit(&self, limit: usize) -> Option<Admitted> {
        let live = self.streams();
        let admitted = self.0.admitted.send_if_modified(|admitted| {
            let fits = live + *admitted < limit;
            *admitted += usize::from(fits);
            fits
        });
        admitted.then(|| Admitted(Arc::clone(&self.0)))
    }

    /// A stream began; it counts until the result is dropped.
    pub fn began(&self, stream: LiveStream, to_provider: &Arc<PumpCount>, to_consumer: &Arc<PumpCount>) -> Counted {
        let lane = |count: &Arc<PumpCount>| Lane { count: Arc::clone(count), folded: 0 };
        let mut live = self.0.lock();
        let id = live.next;
        live.next += 1;
        live.streams.insert(id, (lane(to_provider), lane(to_consumer), stream));
        self.0.streams.send_replace(live.streams.len());
        Counted { traffic: Arc::clone(&self.0), id }
    }

    /// Brings the metrics up to now.
    pub fn fold(&self) {
        for (up, down, _) in self.0.lock().streams.values_mut() {
            up.fold(&self.0.to_provider);
            down.fold(&self.0.to_consumer);
        }
    }

    /// All of them, in no order.
    #[must_use]
    pub fn live(&self) -> Vec<LiveStream> {
        self.0.lock().streams.values().map(|(_, _, stream)| stream.clone()).collect()
    }

    /// How many streams live.
    #[must_use]
    pub fn streams(&self) -> usize {
        *self.0.streams.borrow()
    }

    /// Waits until no stream is being opened, and none lives. For when nothing but what lives is admitted any more.
    pub async fn wait_idle(&self) {
        while *self.0.admitted.borrow() > 0 || self.streams() > 0 {
            for count in [&self.0.admitted, &self.0.streams] {
                // The sender is in `self`, so it cannot be gone.
                if count.subscribe().wait_for(|streams| *streams == 0).await.is_err() {
                    tracing::trace!("nobody counts streams any more");
                }
            }
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open that was let in; hold it until the stream has begun, or is refused.
#[derive(Debug)]
#[must_use = "the open counts until this is dropped"]
pub struct Admitted(Arc<Inner>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.admitted.send_modify(|admitted| *admitted -= 1);
    }
}

/// A stream that is counted.
#[derive(Debug)]
#[must_use = "the stream counts until this is dropped"]
pub struct Counted {
    traffic: Arc<Inner>,
    id: u64,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut live = self.traffic.lock();
        if let Some((mut up, mut down, _)) = live.streams.remove(&self.id) {
            up.fold(&self.traffic.to_provider);
            down.fold(&self.traffic.to_consumer);
        }
        self.traffic.streams.send_replace(live.streams.len());
    }
}
