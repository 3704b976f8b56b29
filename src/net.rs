//! Transport: TLS, QUIC, framed reads and writes, streams with an explicit end.

pub mod block;
pub mod connection_ids;
pub mod descriptors;
pub mod framed;
#[cfg(test)]
pub(crate) mod harness;
pub mod local_tcp;
pub mod pump;
pub mod quic;
pub mod receive_window;
pub mod stream;
pub mod stream_limit;
pub mod tls;
