//! Opens in flight: a provider that lets them wait, so that there is a handshake to strike.

use std::sync::Arc;

use outrelay::core::frame::Frame;
use outrelay::net::framed::write_frame;
use outrelay::net::stream::{BiStream, Read};
use outrelay::supervise::node::Node;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};

use super::world::World;
use crate::harness::{Peer, soon};

/// Opens in flight while one of their handshakes is struck.
const IN_FLIGHT: u8 = 3;

/// Clients that wait for a provider that has not answered yet.
pub struct Opens {
    provider: Peer,
    asked: Vec<BiStream>,
    clients: Vec<JoinHandle<()>>,
}

impl World {
    /// Opens that wait, and one of their handshakes.
    pub async fn opens_in_flight(&self) -> (Opens, Arc<Node>) {
        let mut provider = self.deployment.peer(&self.relay, 3, &["resume-code"]).await;
        assert!(matches!(provider.register("slow").await, Frame::RegisterAck(_)));
        let addr = self.ends.consumer.local_addr("slow").unwrap();
        let (mut asked, mut clients) = (Vec::new(), Vec::new());
        for n in 0..IN_FLIGHT {
            clients.push(tokio::spawn(question(TcpStream::connect(addr).await.unwrap(), n)));
            asked.push(provider.incoming().await.1);
        }
        let victim = self.pick("handshake").await;
        (Opens { provider, asked, clients }, victim)
    }
}

impl Opens {
    /// The provider answers, those too that are opened again; all clients are served.
    pub async fn are_served(self) {
        let Self { provider, asked, clients } = self;
        let (mut answers, quic) = (JoinSet::new(), provider.quic.clone());
        asked.into_iter().for_each(|stream| drop(answers.spawn(answer(stream))));
        let all = async {
            for client in clients {
                soon("the client is served", client).await.unwrap();
            }
        };
        tokio::pin!(all);
        loop {
            tokio::select! {
                () = &mut all => break,
                (_, stream) = provider.incoming() => drop(answers.spawn(answer(stream))),
            }
        }
        quic.close(0_u32.into(), b"that is all");
    }
}

async fn question(mut socket: TcpStream, n: u8) {
    socket.write_all(&[n; 8]).await.unwrap();
    let mut heard = [0; 8];
    socket.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, [n; 8]);
    socket.shutdown().await.unwrap();
    assert_eq!(socket.read(&mut heard).await.unwrap(), 0);
}

/// Accepts and echoes; a stream that was reset meanwhile is opened again by the other end.
async fn answer(mut stream: BiStream) {
    if write_frame(&mut stream.send, &Frame::StreamAccept).await.is_err() {
        return;
    }
    let mut buf = [0; 64];
    loop {
        match stream.recv.read(&mut buf).await {
            Read::Data(n) if stream.send.write_all(&buf[..n]).await.is_ok() => {}
            Read::Data(_) => return,
            Read::End(outrelay::net::stream::End::Fin) => return stream.send.finish(),
            Read::End(_) => return,
        }
    }
}
