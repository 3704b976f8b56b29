//! Fields and their frames; the model of two agents and a relay.

mod model;

use super::*;

fn fields() -> Fields {
    Fields { stream_id: StreamId(7), my_position: 300, peer_ack_position: 1, fin_sent: true, fin_consumed: true }
}

#[test]
fn fields_survive_the_frames_that_carry_them() {
    let fields = fields();
    assert_eq!(Fields::from(&fields.to_checkpoint()), fields);
    let resume = fields.to_resume(vec![1, 2]);
    assert_eq!((Fields::from(&resume), resume.ticket), (fields, vec![1, 2]));
    let migrate = pb::MigrateToRelay { stream_id: 7, my_position: 300, peer_ack_position: 1, ..Default::default() };
    assert_eq!(Fields::from(&migrate), fields.without_fin());
}

#[test]
fn a_legacy_peer_sees_no_byte_of_the_fin_state() {
    use prost::Message;

    let legacy = fields().without_fin();
    let checkpoint = legacy.to_checkpoint().encode_to_vec();
    assert_eq!(checkpoint, [0x08, 7, 0x10, 0xac, 0x02, 0x18, 1]);
    assert_eq!(legacy.to_resume(Vec::new()).encode_to_vec(), checkpoint);
}
