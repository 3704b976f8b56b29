//! The table of children: who is started in which order, how long each gets to stop, what is restarted.
//!
//! Started top to bottom, stopped bottom to top. The folders under `src/relay/` are this table drawn as files:
//! `foo.rs` with a folder `foo/` is a supervisor, the files in the folder are its children. `actors.md` says the same in
//! words, and a test compares the ids.

use std::sync::Arc;
use std::time::Duration;

use super::admin::{Admin, AdminArgs, AdminMsg};
use super::audit::{Audit, AuditArgs, AuditMsg};
use super::credentials::{Credentials, CredentialsArgs, CredentialsMsg};
use super::http::{Http, HttpArgs, HttpMsg};
use super::ingress::connections::ConnectionsHandle;
use super::ingress::quic_listener::{QuicListener, QuicListenerArgs, QuicListenerMsg};
use super::policy::{Policy, PolicyArgs, PolicyMsg};
use super::registry::{Registry, RegistryArgs, RegistryHandle};
use super::resume::ResumeHandle;
use super::splices::SplicesHandle;
use crate::metrics::Limit;
use crate::supervise::dynamic::{Dynamic, DynamicArgs, DynamicHandle};
use crate::supervise::intensity::Limits;
use crate::supervise::node::Node;
use crate::supervise::one_for_one::{LastWords, OneForOne, OneForOneArgs, OneForOneMsg};
use crate::supervise::slot::Slot;
use crate::supervise::spec::{ChildSpec, Restart};
use crate::vault::Vault;

/// Every kind of actor in the tree, and the kind of its supervisor; the root's is empty.
pub const KINDS: [(&str, &str); 17] = [
    ("relay", ""),
    ("audit", "relay"),
    ("policy", "relay"),
    ("credentials", "relay"),
    ("registry", "relay"),
    ("splices", "relay"),
    ("splice", "splices"),
    ("resume", "relay"),
    ("entry", "resume"),
    ("ingress", "relay"),
    ("connections", "ingress"),
    ("connection", "connections"),
    ("control", "connection"),
    ("handshake", "connection"),
    ("quic_listener", "ingress"),
    ("admin", "relay"),
    ("http", "relay"),
];

/// A supervisor below the root takes some seconds to give up: the root must remember for longer than that.
const ROOT: Limits = Limits { window: Duration::from_secs(60), ..Limits::DEFAULT };
/// How long a leaf gets to stop.
const LEAF: Duration = Duration::from_millis(500);
/// How long a dynamic supervisor gets: its children stop all at once, each within its own deadline.
const DYNAMIC: Duration = Duration::from_millis(2_500);
/// How long ingress gets: its two children, one after the other.
const INGRESS: Duration = Duration::from_millis(3_500);

/// The root with everything below it.
#[must_use]
pub fn root(vault: &Arc<Vault>) -> OneForOneArgs {
    let registry =
        RegistryHandle::new(vault.config.now().limits.registry_call, vault.metrics.limit(Limit::RegistryCall));
    let splices = SplicesHandle::default();
    let resume = ResumeHandle::new(Arc::clone(vault), splices.clone());
    let connections = ConnectionsHandle::new(Arc::clone(vault), registry.clone(), splices.clone(), resume.clone());
    let root = Slot::new("relay", vault.relay.id().as_str());
    let children = vec![
        audit(vault),
        policy(vault),
        credentials(vault),
        registry_spec(vault, &registry),
        dynamic(splices.supervisor()),
        dynamic(resume.supervisor()),
        ingress(vault, connections, &root),
        admin(vault, &root),
        http(vault, &root),
    ];
    children.iter().for_each(|child| vault.metrics.count_restarts(child.node()));
    let told = Arc::clone(vault);
    let last_words = LastWords::new(|| async move { super::tell_where_to_go(&told).await });
    OneForOneArgs { slot: root, children, limits: ROOT, last_words: Some(last_words) }
}

/// The actors that are there for as long as the relay is: the root, its children, and those of ingress.
#[must_use]
pub fn fixed(root: &Arc<Node>) -> Vec<Arc<Node>> {
    let children = root.children();
    let of_ingress = children.iter().filter(|child| child.kind() == "ingress").flat_map(|ingress| ingress.children());
    std::iter::once(Arc::clone(root)).chain(of_ingress).chain(children.iter().cloned()).collect()
}

fn audit(vault: &Arc<Vault>) -> ChildSpec {
    let slot = Slot::<AuditMsg>::new("audit", "");
    let args = {
        let (slot, vault) = (slot.clone(), Arc::clone(vault));
        move || AuditArgs { slot: slot.clone(), vault: Arc::clone(&vault) }
    };
    ChildSpec::new(&slot, Restart::Permanent, LEAF, move || (Audit, args()))
}

fn policy(vault: &Arc<Vault>) -> ChildSpec {
    let slot = Slot::<PolicyMsg>::new("policy", "");
    let args = PolicyArgs { slot: slot.clone(), vault: Arc::clone(vault) };
    ChildSpec::new(&slot, Restart::Permanent, LEAF, move || (Policy, args.clone()))
}

fn credentials(vault: &Arc<Vault>) -> ChildSpec {
    let slot = Slot::<CredentialsMsg>::new("credentials", "");
    let args = CredentialsArgs { slot: slot.clone(), vault: Arc::clone(vault) };
    ChildSpec::new(&slot, Restart::Permanent, LEAF, move || (Credentials, args.clone()))
}

fn registry_spec(vault: &Arc<Vault>, handle: &RegistryHandle) -> ChildSpec {
    let args = {
        let (handle, vault) = (handle.clone(), Arc::clone(vault));
        move || RegistryArgs { handle: handle.clone(), vault: Arc::clone(&vault) }
    };
    ChildSpec::new(handle.slot(), Restart::Permanent, LEAF, move || (Registry, args()))
}

/// A supervisor that starts anew with no children.
fn dynamic(supervisor: &DynamicHandle) -> ChildSpec {
    let handle = supervisor.clone();
    let args = move || DynamicArgs { handle: handle.clone(), revive: Box::new(Vec::new) };
    ChildSpec::new(supervisor.slot(), Restart::Permanent, DYNAMIC, move || (Dynamic, args()))
}

fn ingress(vault: &Arc<Vault>, connections: ConnectionsHandle, root: &Slot<OneForOneMsg>) -> ChildSpec {
    let slot = Slot::<OneForOneMsg>::new("ingress", "");
    let (vault, own, root) = (Arc::clone(vault), slot.clone(), root.clone());
    let listener = Slot::<QuicListenerMsg>::new("quic_listener", "");
    ChildSpec::new(&slot, Restart::Permanent, INGRESS, move || {
        let supervised = connections.clone();
        let connections_spec =
            ChildSpec::new(connections.supervisor().slot(), Restart::Permanent, DYNAMIC, move || supervised.make());
        let children = vec![connections_spec, quic_listener(&vault, &listener, &connections, &root)];
        children.iter().for_each(|child| vault.metrics.count_restarts(child.node()));
        (OneForOne, OneForOneArgs { slot: own.clone(), children, limits: Limits::default(), last_words: None })
    })
}

fn quic_listener(
    vault: &Arc<Vault>,
    slot: &Slot<QuicListenerMsg>,
    connections: &ConnectionsHandle,
    root: &Slot<OneForOneMsg>,
) -> ChildSpec {
    let args = QuicListenerArgs {
        slot: slot.clone(),
        vault: Arc::clone(vault),
        connections: connections.clone(),
        root: root.clone(),
    };
    ChildSpec::new(slot, Restart::Permanent, LEAF, move || (QuicListener, args.clone()))
}

fn admin(vault: &Arc<Vault>, root: &Slot<OneForOneMsg>) -> ChildSpec {
    let slot = Slot::<AdminMsg>::new("admin", "");
    let (vault, root, own) = (Arc::clone(vault), Arc::clone(root.node()), slot.clone());
    ChildSpec::new(&slot, Restart::Permanent, LEAF, move || {
        (Admin, AdminArgs { slot: own.clone(), vault: Arc::clone(&vault), root: Arc::clone(&root) })
    })
}

fn http(vault: &Arc<Vault>, root: &Slot<OneForOneMsg>) -> ChildSpec {
    let slot = Slot::<HttpMsg>::new("http", "");
    let (vault, root, own) = (Arc::clone(vault), Arc::clone(root.node()), slot.clone());
    ChildSpec::new(&slot, Restart::Permanent, LEAF, move || {
        (Http, HttpArgs { slot: own.clone(), vault: Arc::clone(&vault), root: Arc::clone(&root) })
    })
}
