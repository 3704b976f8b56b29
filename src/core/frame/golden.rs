//! Every message of wire.md §2 and §9, byte for byte. The hex is written by hand from the tables of wire.md, a line per
//! field: key (number × 8 + wire type), length, value. What other programs send and expect is this.

use bytes::BytesMut;

use super::{Frame, HEADER_LEN, Header};
use crate::proto::orp as pb;

/// Reads hex digits; what follows a `#` on a line is a comment.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text
        .lines()
        .filter_map(|line| line.split('#').next())
        .flat_map(str::chars)
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).expect("a hex digit"))
        .collect();
    let byte = |pair: &[u32]| u8::try_from(pair[0] * 16 + pair[1]).expect("a byte");
    digits.chunks(2).map(byte).collect()
}

#[track_caller]
fn golden(frame: Frame, text: &str) {
    let bytes = hex(text);
    assert_eq!(frame.encode(), bytes, "written: {frame:?}");
    let mut appended = BytesMut::from(&b"before"[..]);
    frame.encode_into(&mut appended);
    assert_eq!(appended[6..], bytes, "appended: {frame:?}");

    let (head, payload) = bytes.split_first_chunk::<HEADER_LEN>().expect("a header");
    let header = Header::decode(*head).expect("a good header");
    assert_eq!(header.len as usize, payload.len(), "length of {frame:?}");
    assert_eq!(Frame::decode(header.code, payload), Ok(frame), "read");
}

fn candidates() -> Vec<pb::Candidate> {
    vec![
        pb::Candidate { kind: "host".into(), ip: "::1".into(), port: 300, priority: 2 },
        pb::Candidate { kind: "srflx".into(), ip: "9.9.9.9".into(), port: 0, priority: 1 },
    ]
}

/// The two candidates above as field 2.
const CANDIDATES: &str = "
    12 10                  # 2: a message of 16 bytes
      0a 04 686f7374       #   1: host
      12 03 3a3a31         #   2: ::1
      18 ac02              #   3: 300 = 2 × 128 + 44
      20 02                #   4: 2
    12 12                  # 2: a message of 18 bytes
      0a 05 7372666c78     #   1: srflx
      12 07 392e392e392e39 #   2: 9.9.9.9
                           #   3: 0 is not written
      20 01                #   4: 1
";

#[test]
fn hello_and_its_answer_are_as_on_the_wire() {
    golden(
        Frame::Hello(pb::Hello {
            protocol_version: "orp/1".into(),
            agent_uri: "ab".into(),
            capabilities: vec!["c".into(), "de".into()],
        }),
        "2001 0000 00000012  # version 1 = 001 in the three high bits, type 0x001; flags; 18 bytes
         0a 05 6f72702f31    # 1: orp/1
         12 02 6162          # 2: ab
         1a 01 63            # 3: c
         1a 02 6465          # 3: de",
    );
    golden(
        Frame::HelloAck(pb::HelloAck {
            session_id: "s1".into(),
            server_time_unix_ms: 1000,
            accepted_features: vec!["c".into()],
        }),
        "2002 0000 0000000a
         0a 02 7331  # 1: s1
         10 e807     # 2: 1000 = 7 × 128 + 104
         1a 01 63    # 3: c",
    );
    golden(
        Frame::HelloAck(pb::HelloAck { server_time_unix_ms: -1, ..Default::default() }),
        "2002 0000 0000000b
         10 ffffffffffffffffff01  # 2: -1 as 64 bits, plain int64",
    );
    golden(Frame::HelloAck(pb::HelloAck::default()), "2002 0000 00000000  # a legacy relay's");
}

#[test]
fn registration_is_as_on_the_wire() {
    golden(
        Frame::Register(pb::Register { service_name: "svc".into(), local_addr: "x:1".into() }),
        "2003 0000 0000000a
         0a 03 737663  # 1: svc
         12 03 783a31  # 2: x:1",
    );
    golden(
        Frame::RegisterAck(pb::RegisterAck { service_id: "t/svc".into() }),
        "2004 0000 00000007
         0a 05 742f737663  # 1: t/svc",
    );
    golden(
        Frame::Deregister(pb::Deregister { service_name: "svc".into() }),
        "2007 0000 00000005
         0a 03 737663  # 1: svc",
    );
}

#[test]
fn opening_a_stream_is_as_on_the_wire() {
    golden(
        Frame::OpenStream(pb::OpenStream { target_service: "svc".into(), method: "GET".into(), stream_id: u64::MAX }),
        "2010 0000 00000015
         0a 03 737663              # 1: svc
         12 03 474554              # 2: GET
         18 ffffffffffffffffff01   # 3: 2^64 - 1",
    );
    golden(
        Frame::IncomingStream(pb::IncomingStream {
            target_service: "svc".into(),
            method: "GET".into(),
            source_agent_uri: "ab".into(),
            stream_id: 7,
        }),
        "2011 0000 00000010
         0a 03 737663  # 1: svc
         12 03 474554  # 2: GET
         1a 02 6162    # 3: ab
         20 07         # 4: 7",
    );
    golden(Frame::StreamAccept, "2012 0000 00000000");
    golden(
        Frame::StreamReject(pb::StreamReject { code: 403, reason: "no".into(), stream_id: 7 }),
        "2013 0000 00000009
         08 9303    # 1: 403 = 3 × 128 + 19
         12 02 6e6f # 2: no
         18 07      # 3: 7",
    );
}

#[test]
fn ping_pong_and_goaway_are_as_on_the_wire() {
    golden(Frame::Ping, "2020 0000 00000000");
    golden(Frame::Pong, "2021 0000 00000000");
    golden(
        Frame::GoAway(pb::GoAway {
            reason: "up".into(),
            deadline_unix_ms: 1000,
            successors: vec!["b:1".into(), "c:2".into()],
        }),
        "20ff 0000 00000011
         0a 02 7570    # 1: up
         10 e807       # 2: 1000
         1a 03 623a31  # 3: b:1
         1a 03 633a32  # 3: c:2",
    );
    golden(
        Frame::StreamEnd(pb::StreamEnd { yamux_id: 5, position: 300, code: 16, is_stop: true }),
        "2103 0000 00000009
         08 05    # 1: 5
         10 ac02  # 2: 300
         18 10    # 3: 16
         20 01    # 4: true",
    );
}

#[test]
fn checkpoint_and_resume_are_as_on_the_wire() {
    golden(
        Frame::StreamCheckpoint(pb::StreamCheckpoint {
            stream_id: 7,
            my_position: 300,
            peer_ack_position: 1,
            fin_sent: true,
            fin_consumed: true,
        }),
        "2110 0000 0000000b
         08 07    # 1: 7
         10 ac02  # 2: 300
         18 01    # 3: 1
         20 01    # 4: true
         28 01    # 5: true",
    );
    golden(
        Frame::StreamResume(pb::StreamResume {
            stream_id: 7,
            my_position: 300,
            peer_ack_position: 1,
            fin_sent: false,
            fin_consumed: true,
            agent_uri: "ab".into(),
            ticket: vec![0xde, 0xad],
        }),
        "2111 0000 00000011
         08 07      # 1: 7
         10 ac02    # 2: 300
         18 01      # 3: 1
         28 01      # 5: true
         72 02 6162 # 14: ab
         7a 02 dead # 15: bytes",
    );
    golden(
        Frame::ForwardResume(pb::ForwardResume {
            stream_id: 7,
            my_position: 300,
            peer_ack_position: 1,
            fin_sent: true,
            fin_consumed: false,
            agent_uri: "ab".into(),
            ticket: vec![0xde, 0xad],
        }),
        "2153 0000 00000011
         08 07      # 1: 7
         10 ac02    # 2: 300
         18 01      # 3: 1
         20 01      # 4: true
         72 02 6162 # 14: ab
         7a 02 dead # 15: bytes",
    );
    golden(
        Frame::Ticket(pb::Ticket { stream_id: 7, ticket: vec![0xbe, 0xef] }),
        "2154 0000 00000006
         08 07      # 1: 7
         12 02 beef # 2: bytes",
    );
    golden(
        Frame::ResumeWanted(pb::ResumeWanted { stream_id: 7 }),
        "2155 0000 00000002
         08 07  # 1: 7",
    );
}

#[test]
fn observed_addresses_and_candidates_are_as_on_the_wire() {
    golden(
        Frame::ObservedAddrQuery(pb::ObservedAddrQuery { request_id: 9 }),
        "2120 0000 00000002
         08 09  # 1: 9",
    );
    golden(
        Frame::ObservedAddrResp(pb::ObservedAddrResp { request_id: 9, ip: "::1".into(), port: 300 }),
        "2121 0000 0000000a
         08 09        # 1: 9
         12 03 3a3a31 # 2: ::1
         18 ac02      # 3: 300",
    );
    golden(
        Frame::CandidateOffer(pb::CandidateOffer { stream_id: 7, candidates: candidates() }),
        // 2 for the id, 2 + 16 and 2 + 18 for the candidates.
        &format!("2122 0000 00000028 08 07 {CANDIDATES}"),
    );
    golden(
        Frame::CandidateAnswer(pb::CandidateAnswer { stream_id: 7, candidates: candidates() }),
        &format!("2123 0000 00000028 08 07 {CANDIDATES}"),
    );
}

#[test]
fn migration_is_as_on_the_wire() {
    golden(
        Frame::MigrateToP2p(pb::MigrateToP2p {
            stream_id: 7,
            my_position: 300,
            peer_ack_position: 1,
            selected: Some(candidates().remove(0)),
        }),
        "2124 0000 00000019
         08 07               # 1: 7
         10 ac02             # 2: 300
         18 01               # 3: 1
         22 10               # 4: a message of 16 bytes
           0a 04 686f7374    #   1: host
           12 03 3a3a31      #   2: ::1
           18 ac02           #   3: 300
           20 02             #   4: 2",
    );
    golden(
        Frame::MigrateToRelay(pb::MigrateToRelay {
            stream_id: 7,
            my_position: 300,
            peer_ack_position: 1,
            reason: "peer_close".into(),
            agent_uri: "ab".into(),
            ticket: vec![0xde, 0xad],
        }),
        "2125 0000 0000001b
         08 07                       # 1: 7
         10 ac02                     # 2: 300
         18 01                       # 3: 1
         22 0a 706565725f636c6f7365  # 4: peer_close
         72 02 6162                  # 14: ab
         7a 02 dead                  # 15: bytes",
    );
}

#[test]
fn what_relays_say_to_each_other_is_as_on_the_wire() {
    golden(
        Frame::ForwardStream(pb::ForwardStream {
            target_service: "svc".into(),
            method: "GET".into(),
            source_agent_uri: "ab".into(),
            stream_id: 7,
            p2p_mode: 2,
            relay_mode: 1,
            assertion: vec![0xca, 0xfe],
        }),
        "2140 0000 00000018
         0a 03 737663  # 1: svc
         12 03 474554  # 2: GET
         1a 02 6162    # 3: ab
         20 07         # 4: 7
         28 02         # 5: 2, required
         30 01         # 6: 1, forward
         7a 02 cafe    # 15: bytes",
    );
    golden(
        Frame::PeerHello(pb::PeerHello {
            relay_uri: "ab".into(),
            capabilities: vec!["c".into(), "de".into()],
            draining: true,
        }),
        "2141 0000 0000000d
         0a 02 6162  # 1: ab
         12 01 63    # 2: c
         12 02 6465  # 2: de
         18 01       # 3: true",
    );
}

#[test]
fn the_mode_signals_are_as_on_the_wire() {
    golden(
        Frame::AllocGranted(pb::AllocGranted {
            stream_id: 7,
            my_allocation: 300,
            peer_allocation: u32::MAX,
            forward_endpoint: "1.2.3.4:5".into(),
            token: vec![0xca, 0xfe],
            ticket: vec![0xbe, 0xef],
        }),
        "2151 0000 0000001e
         08 07                     # 1: 7
         10 ac02                   # 2: 300
         18 ffffffff0f             # 3: 2^32 - 1
         22 09 312e322e332e343a35  # 4: 1.2.3.4:5
         2a 02 cafe                # 5: bytes
         32 02 beef                # 6: bytes",
    );
    golden(
        Frame::StreamReady(pb::StreamReady {
            stream_id: 7,
            ticket: vec![0xbe, 0xef],
            peer_capabilities: vec!["c".into()],
        }),
        "2152 0000 00000009
         08 07      # 1: 7
         12 02 beef # 2: bytes
         1a 01 63   # 3: c",
    );
}
