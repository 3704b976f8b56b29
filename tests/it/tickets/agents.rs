//! The project's own agents: the relay is killed and started again, and lets nobody go on without a proof.

use std::net::SocketAddr;

use outrelay::relay::StartError;

use super::*;
use crate::matrix::ends::Ends;
use crate::survival::raw::Raw;

const KIB: u64 = 1 << 10;

async fn started_at(addr: SocketAddr, config: &RelayConfig) -> Relay {
    let config = RelayConfig { listen: addr, ..config.clone() };
    let start = async {
        loop {
            match Relay::start(config.clone()).await {
                Ok(relay) => return relay,
                Err(StartError::Bind { .. } | StartError::Tree(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    soon("the address is free", start).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_outlives_its_relay_where_the_next_one_has_the_key_and_is_reset_where_it_has_not() {
    for has_the_key in [true, false] {
        let fleet = Fleet::new();
        let config = fleet.config("r1", OPEN_WORLD);
        let relay = Relay::start(config.clone()).await.unwrap();
        let addr = relay.quic_addr().unwrap();
        let ends = Ends::start(&fleet.deployment, addr, |_, _| {}).await;
        let mut raw = Raw::open(&ends).await;
        raw.client.say(100 * KIB).await;
        raw.served.hear(100 * KIB).await;
        raw.served.say(KIB).await;
        relay.kill().await;
        if !has_the_key {
            fleet.write(&[2]);
        }
        let relay = started_at(addr, &config).await;
        if has_the_key {
            raw.client.say(100 * KIB).await;
            raw.client.hear(KIB).await;
            raw.served.hear(100 * KIB).await;
            raw.complete().await;
            let metrics = relay.vault().metrics.render().unwrap();
            assert!(metrics.contains("outcome=\"matched_ticket\"} 1"), "{metrics}");
        } else {
            raw.client.is_reset().await;
            raw.served.is_reset().await;
        }
        ends.shutdown().await;
    }
}
