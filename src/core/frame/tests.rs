//! The codec under good, odd and hostile bytes.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn header_of(head: u16, len: u32) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[..2].copy_from_slice(&head.to_be_bytes());
    bytes[4..].copy_from_slice(&len.to_be_bytes());
    bytes
}

#[test]
fn every_code_finds_its_type_and_no_code_stands_twice() {
    let mut codes = BTreeSet::new();
    for frame_type in FrameType::ALL {
        assert_eq!(FrameType::from_code(frame_type.code()), Some(*frame_type));
        assert!(codes.insert(frame_type.code()), "{}", frame_type.name());
        assert!(frame_type.code() <= CODE_MASK);
    }
    assert_eq!(codes.len(), 35);
    assert_eq!(FrameType::from_code(0x7ff), None);
}

#[test]
fn flags_and_reserved_bits_are_ignored() {
    let mut bytes = header_of(0x2001 | 0x1800, 5);
    bytes[2..4].copy_from_slice(&[0xff, 0xff]);
    let read = Header::decode(bytes).unwrap();
    assert_eq!(read, Header { code: 1, len: 5 });
    assert_eq!(read.encode(), header_of(0x2001, 5));
}

#[test]
fn every_other_version_is_refused() {
    for version in [0, 2, 3, 4, 5, 6, 7] {
        let head = u16::from(version) << 13 | 1;
        let refused = Header::decode(header_of(head, 0));
        assert_eq!(refused, Err(FrameError::Version(version)));
    }
}

#[test]
fn a_claim_above_2_to_the_24_is_refused_and_one_of_just_that_is_not() {
    assert!(Header::decode(header_of(0x2001, 1 << 24)).is_ok());
    for len in [(1 << 24) + 1, u32::MAX] {
        let limit = MAX_PAYLOAD;
        let refused = Header::decode(header_of(0x2001, len));
        assert_eq!(refused, Err(FrameError::TooLarge { len, limit }));
    }
}

#[test]
fn unknown_and_reserved_types_are_told_apart_and_their_payload_is_dropped() {
    let garbage = [0xff; 9];
    assert_eq!(Frame::decode(0x7ff, &garbage), Ok(Frame::Unknown(0x7ff)));
    let data = Frame::decode(0x101, &garbage).unwrap();
    assert_eq!(data, Frame::Reserved(FrameType::Data));
    assert_eq!((data.name(), Frame::Unknown(9).name()), ("DATA", "unknown"));
    assert_eq!(data.encode()[..], header_of(0x2101, 0));
    assert_eq!(Frame::Unknown(0x7fe).encode()[..], header_of(0x27fe, 0));
}

#[test]
fn a_field_that_is_not_known_is_skipped() {
    let payload = b"\x0a\x01s\x18\x07\xa2\x06\x02zz"; // 1: "s", 3: 7, 100: "zz"
    let read = Frame::decode(0x010, payload).unwrap();
    let expected = pb::OpenStream { target_service: "s".into(), method: String::new(), stream_id: 7 };
    assert_eq!(read, Frame::OpenStream(expected));
}

#[test]
fn text_that_is_not_utf_8_is_an_error_that_names_the_frame() {
    let error = Frame::decode(0x010, b"\x0a\x01\xff").unwrap_err();
    assert_eq!(error.to_string(), "the payload of OPEN_STREAM cannot be decoded");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn a_payload_cut_inside_a_field_is_an_error() {
    let whole = Frame::Register(pb::Register { service_name: "svc".into(), local_addr: String::new() }).encode();
    let payload = &whole[HEADER_LEN..];
    for end in 1..payload.len() {
        assert!(Frame::decode(0x003, &payload[..end]).is_err(), "{end} bytes");
    }
}

macro_rules! message {
    ($name:ident { $($field:ident: $strategy:expr),* $(,)? }) => {
        ($($strategy,)*)
            .prop_map(|($($field,)*)| Frame::$name(pb::$name { $($field),* }))
            .boxed()
    };
}

fn text() -> impl Strategy<Value = String> {
    ".{0,12}"
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    vec(text(), 0..4)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..20)
}

fn candidate() -> impl Strategy<Value = pb::Candidate> {
    (text(), text(), any::<u32>(), any::<u32>()).prop_map(|(kind, ip, port, priority)| pb::Candidate {
        kind,
        ip,
        port,
        priority,
    })
}

fn handshake_frame() -> Vec<BoxedStrategy<Frame>> {
    vec![
        message!(Hello { protocol_version: text(), agent_uri: text(), capabilities: texts() }),
        message!(HelloAck { session_id: text(), server_time_unix_ms: any::<i64>(), accepted_features: texts() }),
        message!(Register { service_name: text(), local_addr: text() }),
        message!(RegisterAck { service_id: text() }),
        message!(Deregister { service_name: text() }),
        message!(OpenStream { target_service: text(), method: text(), stream_id: any::<u64>() }),
        message!(IncomingStream {
            target_service: text(),
            method: text(),
            source_agent_uri: text(),
            stream_id: any::<u64>(),
        }),
        message!(StreamReject { code: any::<u32>(), reason: text(), stream_id: any::<u64>() }),
        message!(GoAway { reason: text(), deadline_unix_ms: any::<i64>(), successors: texts() }),
        message!(ForwardStream {
            target_service: text(),
            method: text(),
            source_agent_uri: text(),
            stream_id: any::<u64>(),
            p2p_mode: any::<u32>(),
            relay_mode: any::<u32>(),
            assertion: bytes(),
        }),
        message!(PeerHello { relay_uri: text(), capabilities: texts(), draining: any::<bool>() }),
        Just(Frame::StreamAccept).boxed(),
        Just(Frame::Ping).boxed(),
        Just(Frame::Pong).boxed(),
    ]
}

fn stream_frame() -> Vec<BoxedStrategy<Frame>> {
    let position = any::<u64>;
    vec![
        message!(StreamEnd {
            yamux_id: any::<u32>(),
            position: position(),
            code: any::<u32>(),
            is_stop: any::<bool>(),
        }),
        message!(StreamCheckpoint {
            stream_id: any::<u64>(),
            my_position: position(),
            peer_ack_position: position(),
            fin_sent: any::<bool>(),
            fin_consumed: any::<bool>(),
        }),
        message!(StreamResume {
            stream_id: any::<u64>(),
            my_position: position(),
            peer_ack_position: position(),
            fin_sent: any::<bool>(),
            fin_consumed: any::<bool>(),
            agent_uri: text(),
            ticket: bytes(),
        }),
        message!(ForwardResume {
            stream_id: any::<u64>(),
            my_position: position(),
            peer_ack_position: position(),
            fin_sent: any::<bool>(),
            fin_consumed: any::<bool>(),
            agent_uri: text(),
            ticket: bytes(),
        }),
        message!(MigrateToP2p {
            stream_id: any::<u64>(),
            my_position: position(),
            peer_ack_position: position(),
            selected: proptest::option::of(candidate()),
        }),
        message!(MigrateToRelay {
            stream_id: any::<u64>(),
            my_position: position(),
            peer_ack_position: position(),
            reason: text(),
            agent_uri: text(),
            ticket: bytes(),
        }),
        message!(ObservedAddrQuery { request_id: any::<u64>() }),
        message!(ObservedAddrResp { request_id: any::<u64>(), ip: text(), port: any::<u32>() }),
        message!(CandidateOffer { stream_id: any::<u64>(), candidates: vec(candidate(), 0..4) }),
        message!(CandidateAnswer { stream_id: any::<u64>(), candidates: vec(candidate(), 0..4) }),
        message!(AllocGranted {
            stream_id: any::<u64>(),
            my_allocation: any::<u32>(),
            peer_allocation: any::<u32>(),
            forward_endpoint: text(),
            token: bytes(),
            ticket: bytes(),
        }),
        message!(StreamReady { stream_id: any::<u64>(), ticket: bytes(), peer_capabilities: texts() }),
        message!(Ticket { stream_id: any::<u64>(), ticket: bytes() }),
        message!(ResumeWanted { stream_id: any::<u64>() }),
    ]
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let mut all = handshake_frame();
    all.extend(stream_frame());
    proptest::strategy::Union::new(all)
}

#[test]
fn the_strategies_below_make_every_frame_that_carries_something() {
    let made = handshake_frame().len() + stream_frame().len();
    assert_eq!(made, FrameType::ALL.len() - 7, "all but the reserved ones");
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(frame in any_frame()) {
        let bytes = frame.encode();
        let (head, payload) = bytes.split_first_chunk::<HEADER_LEN>().unwrap();
        let header = Header::decode(*head).unwrap();
        prop_assert_eq!(header.len as usize, payload.len());
        prop_assert_eq!(Some(header.code), frame.frame_type().map(FrameType::code));
        prop_assert_eq!(Frame::decode(header.code, payload), Ok(frame));
    }

    #[test]
    fn any_header_is_read_or_refused_and_what_is_read_writes_itself(bytes: [u8; HEADER_LEN]) {
        if let Ok(header) = Header::decode(bytes) {
            prop_assert_eq!(Header::decode(header.encode()), Ok(header));
        }
    }

    #[test]
    fn any_payload_is_read_or_refused_never_a_panic(
        frame_type in select(FrameType::ALL),
        payload in vec(any::<u8>(), 0..200),
    ) {
        if let Ok(frame) = Frame::decode(frame_type.code(), &payload) {
            let again = frame.encode();
            prop_assert_eq!(Frame::decode(frame_type.code(), &again[HEADER_LEN..]), Ok(frame));
        }
    }

    #[test]
    fn a_good_frame_with_one_byte_changed_and_its_end_cut_never_panics(
        frame in any_frame(), at: prop::sample::Index, to: u8, keep: prop::sample::Index,
    ) {
        let code = frame.frame_type().map_or(0, FrameType::code);
        let mut payload = frame.encode()[HEADER_LEN..].to_vec();
        if !payload.is_empty() {
            let at = at.index(payload.len());
            payload[at] = to;
            payload.truncate(keep.index(payload.len() + 1));
        }
        if let Err(error) = Frame::decode(code, &payload) {
            prop_assert!(matches!(error, FrameError::Payload { .. }), "{}", error);
        }
    }
}
