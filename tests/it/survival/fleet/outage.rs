//! An agent whose own network is away for a while takes no other relay for it than before: its partner has not moved. If that relay
//! drains meanwhile, the two meet at the next one.

use std::time::{Duration, Instant};

use outrelay::core::frame::Frame;

use super::Fleet;
use super::legacy::{begins_to_drain, legacy};
use crate::crowd::{Crowd, Shapes};
use crate::harness::{ALONE, eventually, pair};
use crate::matrix::ends::{Ends, PROVIDER, link};
use crate::survival::forwarder::{Forwarder, Wire};

/// Two relays, and agents that know both; the provider over these wires.
async fn scene() -> (Fleet, [Forwarder; 2], Ends) {
    let fleet = Fleet::start(2, |_, _| Vec::new()).await;
    let relays = [0, 1].map(|nth| fleet.relays[nth].addr);
    let wires = [Forwarder::to(relays[0]).await, Forwarder::to(relays[1]).await];
    let knows = |n: u8, config: &mut outrelay::config::agent::AgentConfig| {
        let known = if n == PROVIDER { [0, 1].map(|nth| wires[nth].addr) } else { relays };
        config.relays = known.map(|addr| addr.to_string().parse().unwrap()).into();
    };
    let ends = Ends::start(&fleet.deployment, relays[0], knows).await;
    (fleet, wires, ends)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_was_away_while_its_relay_drained_meets_its_partner_at_the_next_one_within_seconds() {
    let _alone = ALONE.lock().await;
    let (fleet, wires, ends) = scene().await;
    let mut crowd = Crowd::open(&ends, Shapes { bulk: 1, chats: 4, idle: 1, half_closed: 2 }).await;
    // Keeps the first relay to its deadline.
    let mut provider = legacy(&fleet.deployment, &fleet.relays[0], 9).await;
    assert!(matches!(provider.register("svc").await, Frame::RegisterAck(_)));
    let consumer = legacy(&fleet.deployment, &fleet.relays[0], 8).await;
    let _stays = pair(&consumer, &provider, 1).await;

    wires.iter().for_each(|wire| wire.set(Wire::Drops));
    begins_to_drain(&fleet.relays[0]).await;
    eventually("the consumer's streams look for the other agent", || {
        let tree = ends.consumer.tree();
        let mut streams = tree.walk().filter(|actor| actor.kind == "stream");
        streams.all(|stream| stream.detail["carried"]["phase"] == "resuming").then_some(())
    })
    .await;
    let resuming = Instant::now();
    // Longer than they look at the next relay before they go back.
    eventually("they went back", || (resuming.elapsed() > Duration::from_secs(6)).then_some(())).await;
    wires.iter().for_each(|wire| wire.set(Wire::Passes));
    let back = Instant::now();
    let longest = crowd.moves_since(back).await.into_iter().max().unwrap();
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    eventually("both have left the first relay", || {
        let provider = link(&ends.provider);
        let is_there = provider["address"] == wires[1].addr.to_string() && provider["leaving"].is_null();
        (is_there && fleet.relay_of(&ends.consumer) == Some(1)).then_some(())
    })
    .await;
    crowd.complete().await;
    ends.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_network_is_back_while_it_asks_the_next_relay_comes_back_to_its_partner() {
    let (_fleet, wires, ends) = scene().await;
    let mut crowd = Crowd::open(&ends, Shapes { bulk: 1, chats: 4, idle: 1, half_closed: 2 }).await;

    wires.iter().for_each(|wire| wire.set(Wire::Drops));
    eventually("it asks the second relay", || (wires[1].asked() > 0).then_some(())).await;
    wires.iter().for_each(|wire| wire.set(Wire::Passes));
    crowd.moves_since(Instant::now()).await;
    assert_eq!(link(&ends.provider)["address"], wires[0].addr.to_string());
    crowd.complete().await;
    ends.shutdown().await;
}
