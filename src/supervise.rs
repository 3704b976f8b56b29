//! Supervision over ractor: what a ractor supervisor does not do by itself.
//!
//! ractor restarts nothing: a parent is told that a child ended, and that is all. This module adds what OTP's
//! supervisors have: a [`spec::ChildSpec`] per child, [`one_for_one`] supervisors for a fixed list and [`dynamic`]
//! ones for children that come and go, restart [`intensity`] with backoff and escalation, a bounded stop in
//! reverse order, an address that outlives a restart ([`slot::Slot`]), and a live [`report`] of the tree.
//!
//! A supervisor holds no logic of its own. Killing a ractor actor kills its children without `post_stop`, so a
//! supervisor is also the unit of what dies together.
//!
//! | file | what it is |
//! |---|---|
//! | [`spec`] | one child: restart kind, shutdown deadline, how to start it |
//! | [`children`] | the children of one supervisor: the only place that restarts anything |
//! | [`one_for_one`], [`dynamic`] | the two supervisors, both thin over `children` |
//! | [`intensity`] | how often a child may fail, pure |
//! | [`node`] | what the tree knows of an actor, readable while the actor hangs |
//! | `incarnation` | what is counted anew each time the actor starts |
//! | [`slot`] | the address of an actor across restarts |
//! | [`watched`] | the wrapper that counts mailbox and busy time and takes injected faults |
//! | [`fault`] | kill, panic, hang |
//! | [`sweeper`] | ends actors that hang |
//! | [`tree`] | a running tree, as who started it holds it |
//! | [`recorder`] | an actor's last messages, and how its earlier incarnations ended |
//! | [`task`] | a task owned by an actor |

pub mod children;
pub mod dynamic;
pub mod fault;
mod incarnation;
pub mod intensity;
pub mod node;
pub mod one_for_one;
pub mod recorder;
pub mod report;
pub mod slot;
pub mod spec;
pub mod sweeper;
pub mod task;
pub mod tree;
pub mod watched;

#[cfg(test)]
mod tests;
