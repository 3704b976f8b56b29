//! A relay to which streams of another one come has limits of its own.

use outrelay::metrics::LimitLabel;

use super::*;

#[tokio::test]
async fn streams_that_come_with_a_ticket_count_toward_the_limit_and_may_come_again() {
    let fleet = Fleet::new();
    let mut first = fleet.relay("r1").await;
    let mut config = fleet.config("r2", OPEN_WORLD);
    config.limits.streams = 1;
    let second = fleet.relay_of(config).await;
    let tickets = [first.ticket(7).await, first.ticket(8).await];
    let mut one = second.consumers(7, &tickets[0]).await;
    let mut other = second.providers(7, &tickets[0]).await;
    flows(&mut one, &mut other).await;

    let halves = [second.consumers(8, &tickets[1]).await, second.providers(8, &tickets[1]).await];
    for mut half in halves {
        assert_eq!(drain(&mut half.recv).await.1, End::Reset(ResetCode::LIMIT));
    }
    let limit = LimitLabel { limit: "streams" };
    assert_eq!(second.relay.vault().metrics.limits_hit.get_or_create(&limit).get(), 1);
    second.audited("as many streams as it may").await;

    drop((one, other));
    eventually("there is room", || (second.relay.vault().traffic.streams() == 0).then_some(())).await;
    let mut one = second.consumers(8, &tickets[1]).await;
    let mut other = second.providers(8, &tickets[1]).await;
    flows(&mut one, &mut other).await;
}
