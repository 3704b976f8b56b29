//! The table of children: who is started in which order, how long each gets to stop, what is restarted.
//!
//! Started top to bottom, stopped bottom to top. A file with a folder is a supervisor, and the files in the folder are its children.

use std::sync::Arc;
use std::time::Duration;

use super::admin::{Admin, AdminArgs};
use super::link::{Link, LinkArgs, LinkMsg};
use super::listeners::listener::{Listener, ListenerArgs};
use super::streams::StreamsHandle;
use super::vault::{AgentVault, Offer};
use crate::supervise::dynamic::{Dynamic, DynamicArgs};
use crate::supervise::intensity::Limits;
use crate::supervise::one_for_one::{OneForOne, OneForOneArgs, OneForOneMsg};
use crate::supervise::slot::Slot;
use crate::supervise::spec::{ChildSpec, Restart};

/// Every kind of actor in the tree, and the kind of its supervisor; the root's is empty.
pub const KINDS: [(&str, &str); 7] = [
    ("agent", ""),
    ("link", "agent"),
    ("streams", "agent"),
    ("stream", "streams"),
    ("listeners", "agent"),
    ("listener", "listeners"),
    ("admin", "agent"),
];

/// How long a leaf gets to stop.
const LEAF: Duration = Duration::from_millis(500);
/// How long the streams get: they stop all at once.
const STREAMS: Duration = Duration::from_millis(2_500);
/// How long the listeners get, one after the other.
const LISTENERS: Duration = Duration::from_secs(5);

/// The root with everything below it.
#[must_use]
pub fn root(vault: &Arc<AgentVault>) -> OneForOneArgs {
    // Slots are made in the order of the tree: a supervisor stops its children by it.
    let root = Slot::new("agent", vault.agent().uuid());
    let link_slot = Slot::new("link", "");
    let streams = StreamsHandle::default();
    OneForOneArgs {
        children: vec![
            link(vault, &link_slot, &streams),
            streams_spec(&streams),
            listeners(vault, &streams),
            admin(vault, &root),
        ],
        slot: root,
        limits: Limits { window: Duration::from_secs(60), ..Limits::DEFAULT },
        last_words: None,
    }
}

fn link(vault: &Arc<AgentVault>, slot: &Slot<LinkMsg>, streams: &StreamsHandle) -> ChildSpec {
    let args = LinkArgs { slot: slot.clone(), vault: Arc::clone(vault), streams: streams.clone() };
    ChildSpec::new(slot, Restart::Permanent, LEAF, move || (Link, args.clone()))
}

fn streams_spec(streams: &StreamsHandle) -> ChildSpec {
    let handle = streams.supervisor().clone();
    let args = move || DynamicArgs { handle: handle.clone(), revive: Box::new(Vec::new) };
    ChildSpec::new(streams.supervisor().slot(), Restart::Permanent, STREAMS, move || (Dynamic, args()))
}

fn listeners(vault: &Arc<AgentVault>, streams: &StreamsHandle) -> ChildSpec {
    let slot = Slot::<OneForOneMsg>::new("listeners", "");
    // Made once: a listener keeps its place in the tree when its supervisor is restarted.
    let children: Vec<ListenerArgs> = vault.offers.iter().map(|offer| listener(vault, offer, streams)).collect();
    let own = slot.clone();
    ChildSpec::new(&slot, Restart::Permanent, LISTENERS, move || {
        let children = children.iter().map(|args| {
            let again = args.clone();
            ChildSpec::new(&args.slot, Restart::Permanent, LEAF, move || (Listener, again.clone()))
        });
        (
            OneForOne,
            OneForOneArgs {
                slot: own.clone(),
                children: children.collect(),
                limits: Limits::default(),
                last_words: None,
            },
        )
    })
}

fn listener(vault: &Arc<AgentVault>, offer: &Arc<Offer>, streams: &StreamsHandle) -> ListenerArgs {
    ListenerArgs {
        slot: Slot::new("listener", offer.consume.name.as_str()),
        vault: Arc::clone(vault),
        offer: Arc::clone(offer),
        streams: streams.clone(),
    }
}

fn admin(vault: &Arc<AgentVault>, root: &Slot<OneForOneMsg>) -> ChildSpec {
    let slot = Slot::new("admin", "");
    let args = AdminArgs { slot: slot.clone(), vault: Arc::clone(vault), root: Arc::clone(root.node()) };
    ChildSpec::new(&slot, Restart::Permanent, LEAF, move || (Admin, args.clone()))
}
