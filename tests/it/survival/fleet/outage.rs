//! An agent whose own network is away for a while takes no other relay for it than before: its partner has not moved.

use std::time::Instant;

use super::Fleet;
use crate::crowd::{Crowd, Shapes};
use crate::harness::eventually;
use crate::matrix::ends::{Ends, PROVIDER, link};
use crate::survival::forwarder::{Forwarder, Wire};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_network_is_back_while_it_asks_the_next_relay_comes_back_to_its_partner() {
    let fleet = Fleet::start(2, |_, _| Vec::new()).await;
    let relays = [0, 1].map(|nth| fleet.relays[nth].addr);
    let wires = [Forwarder::to(relays[0]).await, Forwarder::to(relays[1]).await];
    let knows = |n: u8, config: &mut outrelay::config::agent::AgentConfig| {
        let known = if n == PROVIDER { [0, 1].map(|nth| wires[nth].addr) } else { relays };
        config.relays = known.map(|addr| addr.to_string().parse().unwrap()).into();
    };
    let ends = Ends::start(&fleet.deployment, relays[0], knows).await;
    let mut crowd = Crowd::open(&ends, Shapes { bulk: 1, chats: 4, idle: 1, half_closed: 2 }).await;

    wires.iter().for_each(|wire| wire.set(Wire::Drops));
    eventually("it asks the second relay", || (wires[1].asked() > 0).then_some(())).await;
    wires.iter().for_each(|wire| wire.set(Wire::Passes));
    crowd.moves_since(Instant::now()).await;
    assert_eq!(link(&ends.provider)["address"], wires[0].addr.to_string());
    crowd.complete().await;
    ends.shutdown().await;
}
