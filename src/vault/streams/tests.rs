//! The index, its memory, and its tickets.

use super::*;

fn agent(tenant: &str, n: u8) -> AgentUri {
    format!("outrelay://{tenant}/agent/00000000-0000-0000-0000-0000000000{n:02}").parse().unwrap()
}

fn parties(tenant: &str, consumer: u8, provider: u8) -> Parties {
    Parties { consumer: agent(tenant, consumer), provider: agent(tenant, provider) }
}

#[test]
fn an_id_of_another_pair_is_a_conflict_until_it_is_free() {
    let index = StreamIndex::default();
    let held = index.reserve(StreamId(7), parties("acme", 1, 2)).unwrap();
    assert!(index.reserve(StreamId(7), parties("acme", 1, 3)).is_err());
    assert!(index.reserve(StreamId(7), parties("acme", 2, 1)).is_err(), "the roles count");
    drop(held);
    let _held = index.reserve(StreamId(7), parties("acme", 1, 3)).unwrap();
}

#[test]
fn tenants_do_not_meet() {
    let index = StreamIndex::default();
    let _one = index.reserve(StreamId(7), parties("acme", 1, 2)).unwrap();
    let _two = index.reserve(StreamId(7), parties("beta", 3, 4)).unwrap();
    assert_eq!(index.len(), 2);
    let known = index.known(agent("beta", 3).tenant(), StreamId(7)).unwrap();
    assert_eq!(known.parties, parties("beta", 3, 4));
}

#[test]
fn the_same_pair_again_takes_the_record_and_the_older_one_frees_nothing() {
    let index = StreamIndex::default();
    let older = index.reserve(StreamId(7), parties("acme", 1, 2)).unwrap();
    let newer = index.reserve(StreamId(7), parties("acme", 1, 2)).unwrap();
    drop(older);
    assert_eq!(index.len(), 1);
    drop(newer);
    assert!(index.is_empty());
}

#[test]
fn id_zero_is_never_recorded_and_never_collides() {
    let index = StreamIndex::default();
    let _one = index.reserve(StreamId(0), parties("acme", 1, 2)).unwrap();
    let _two = index.reserve(StreamId(0), parties("acme", 3, 4)).unwrap();
    assert!(index.is_empty());
}

fn carried(index: &StreamIndex, id: u64) -> (Reservation, Arc<Node>) {
    let reservation = index.reserve(StreamId(id), parties("acme", 1, 2)).unwrap();
    let node = Node::new("splice", "");
    reservation.carried_by(&node, &facts());
    (reservation, node)
}

fn facts() -> Arc<StreamFacts> {
    Arc::new(StreamFacts {
        target: "svc".into(),
        method: String::new(),
        p2p_mode: P2pMode::default(),
        opened_at: SystemTime::now(),
    })
}

#[test]
fn a_stream_that_was_carried_is_remembered_and_its_id_is_kept_from_others_only_if_it_was_cut() {
    let index = StreamIndex::default();
    let acme = agent("acme", 1).tenant().clone();
    let (held, node) = carried(&index, 7);
    let known = index.known(&acme, StreamId(7)).unwrap();
    assert_eq!(known.splice.map(|splice| splice.id()), Some(node.id()));
    drop(held);
    assert!(index.is_empty());
    let known = index.known(&acme, StreamId(7)).unwrap();
    assert_eq!((known.parties, known.splice.is_none()), (parties("acme", 1, 2), true));
    assert_eq!(known.facts.unwrap().target, "svc");
    assert!(index.reserve(StreamId(7), parties("acme", 1, 3)).is_err(), "it was cut, and may be resumed");
    drop(index.reserve(StreamId(7), parties("acme", 1, 2)).unwrap());
    let known = index.known(&acme, StreamId(7)).unwrap();
    assert_eq!(known.facts.unwrap().target, "svc", "an attempt that came to nothing takes nothing away");
    let (held, _node) = carried(&index, 7);
    held.finished();
    drop(held);
    assert!(index.known(&acme, StreamId(7)).is_some(), "its agents may still ask how it ended");
    let _other = index.reserve(StreamId(7), parties("acme", 1, 3)).unwrap();
    assert_eq!(index.known(&acme, StreamId(7)).unwrap().parties, parties("acme", 1, 3));
    assert_eq!(index.len(), 1);
}

#[test]
fn an_open_that_came_to_nothing_leaves_nothing() {
    let index = StreamIndex::default();
    drop(index.reserve(StreamId(7), parties("acme", 1, 2)).unwrap());
    assert!(index.known(agent("acme", 1).tenant(), StreamId(7)).is_none());
}

#[test]
fn what_is_remembered_is_bounded() {
    let index = StreamIndex::default();
    for id in 1..=(SHARDS * REMEMBERED * 2) as u64 {
        drop(carried(&index, id));
    }
    let kept: usize = index.0.shards.iter().map(|shard| shard.lock().unwrap().records.len()).sum();
    assert!(kept <= SHARDS * REMEMBERED, "{kept}");
    let last = StreamId((SHARDS * REMEMBERED * 2) as u64);
    assert!(index.known(agent("acme", 1).tenant(), last).is_some(), "the newest stay");
}

#[test]
fn a_ticket_is_due_once_it_is_old_or_where_there_is_none_and_only_while_a_splice_carries_the_stream() {
    const NOW: Duration = Duration::ZERO;
    const HOUR: Duration = Duration::from_secs(3_600);
    let index = StreamIndex::default();
    let due = |age| index.tickets_due(age).iter().map(|due| due.id.0).collect::<Vec<_>>();
    let opening = index.reserve(StreamId(6), parties("acme", 1, 2)).unwrap();
    assert_eq!(due(NOW), [0; 0], "it is not open yet");
    drop(opening);
    let (held, _node) = carried(&index, 7);
    assert_eq!(due(HOUR), [7], "it has none");
    index.ticketed(&index.tickets_due(HOUR)[0]);
    assert_eq!((due(HOUR), due(NOW)), (vec![], vec![7]));

    // Resumed here, it keeps its ticket.
    drop(held);
    assert_eq!(due(NOW), [0; 0], "nothing carries it");
    let (held, _node) = carried(&index, 7);
    assert_eq!((due(HOUR), due(NOW)), (vec![], vec![7]));
    drop(held);
    let (other, _node) = carried(&index, 8);
    other.ticketed();
    assert_eq!((due(HOUR), due(NOW)), (vec![], vec![8]));
}
