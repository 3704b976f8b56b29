//! A wire between an agent and a relay that can be cut without a word to either, and mended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What becomes of a datagram, either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Passes,
    /// It is lost.
    Drops,
    /// It waits until it passes again, as far as the socket has room.
    Holds,
}

/// See the module's documentation. For one agent, which has one socket.
#[derive(Debug)]
pub struct Forwarder {
    pub addr: SocketAddr,
    wire: watch::Sender<Wire>,
    front: Arc<UdpSocket>,
    asked: Arc<AtomicU64>,
    relay: SocketAddr,
    task: std::sync::Mutex<JoinHandle<()>>,
}

impl Forwarder {
    pub async fn to(relay: SocketAddr) -> Self {
        let front = Arc::new(outgoing().await);
        let wire = watch::Sender::new(Wire::Passes);
        let asked = Arc::default();
        let task = carry(Arc::clone(&front), outgoing().await, relay, wire.subscribe(), Arc::clone(&asked));
        let task = tokio::spawn(task).into();
        Self { addr: front.local_addr().unwrap(), wire, front, asked, relay, task }
    }

    pub fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }

    /// Datagrams that the agent has sent, whatever became of them.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// The agent comes from another address from now on: what the relay sends to the old one is never seen again.
    pub async fn moves(&self) {
        let (front, asked) = (Arc::clone(&self.front), Arc::clone(&self.asked));
        let fresh = carry(front, outgoing().await, self.relay, self.wire.subscribe(), asked);
        std::mem::replace(&mut *self.task.lock().unwrap(), tokio::spawn(fresh)).abort();
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.lock().unwrap().abort();
    }
}

async fn outgoing() -> UdpSocket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    // As much as an endpoint asks for: a wire that loses what comes in bursts would be another test.
    socket.set_recv_buffer_size(4 << 20).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    UdpSocket::from_std(socket.into()).unwrap()
}

async fn carry(
    front: Arc<UdpSocket>,
    back: UdpSocket,
    relay: SocketAddr,
    mut wire: watch::Receiver<Wire>,
    asked: Arc<AtomicU64>,
) {
    let mut agent = None;
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        if wire.wait_for(|wire| *wire != Wire::Holds).await.is_err() {
            return;
        }
        tokio::select! {
            got = front.recv_from(&mut up) => {
                let Ok((n, from)) = got else { continue };
                agent = Some(from);
                asked.fetch_add(1, Ordering::SeqCst);
                if *wire.borrow() != Wire::Drops {
                    back.send_to(&up[..n], relay).await.ok();
                }
            }
            got = back.recv_from(&mut down) => {
                let (Ok((n, _)), Some(agent)) = (got, agent) else { continue };
                if *wire.borrow() != Wire::Drops {
                    front.send_to(&down[..n], agent).await.ok();
                }
            }
            changed = wire.changed() => if changed.is_err() { return },
        }
    }
}
