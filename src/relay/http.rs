//! The HTTP actor: `/metrics`, `/healthz`, `/readyz`.
//!
//! | | |
//! |---|---|
//! | Owns | the task that serves, and through it its clients |
//! | Receives | the end of that task |
//! | Sends | nothing: it reads the tree and the vault, which wait for nobody |
//! | Restart | permanent, over the same socket |
//! | Lost on crash | the requests in progress |

use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::metrics::ActorLabel;
use crate::relay::serve_http::{Bounds, serve};
use crate::relay::tree;
use crate::supervise::node::Node;
use crate::supervise::slot::Slot;
use crate::supervise::task::{self, Owned, Panicked};
use crate::vault::Vault;

/// The OpenMetrics text format, version 1.0.0.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Messages of the HTTP actor.
#[derive(Debug)]
pub enum HttpMsg {
    /// The serving task ended, which it does only by a panic.
    ServerEnded(Result<Infallible, Panicked>),
}

/// What the HTTP actor is started with.
#[derive(Debug)]
pub struct HttpArgs {
    /// Its own address.
    pub slot: Slot<HttpMsg>,
    /// What it reads, and where its socket is.
    pub vault: Arc<Vault>,
    /// The tree whose mailboxes are measured.
    pub root: Arc<Node>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Http;

impl Actor for Http {
    type Msg = HttpMsg;
    type State = Option<Owned>;
    type Arguments = HttpArgs;

    async fn pre_start(&self, _myself: ActorRef<HttpMsg>, args: HttpArgs) -> Result<Option<Owned>, ActorProcessingErr> {
        let Some(socket) = &args.vault.http else { return Ok(None) };
        let listener = tokio::net::TcpListener::from_std(socket.try_clone()?)?;
        let addr = listener.local_addr()?.to_string();
        args.slot.node().describe(move || serde_json::json!({ "listen": addr }));
        let app = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .with_state(Scope { vault: args.vault, root: args.root });
        let serve = serve(listener, app, Bounds::default());
        Ok(Some(task::owned(&args.slot, serve, HttpMsg::ServerEnded)))
    }

    async fn handle(
        &self,
        _myself: ActorRef<HttpMsg>,
        HttpMsg::ServerEnded(end): HttpMsg,
        _server: &mut Option<Owned>,
    ) -> Result<(), ActorProcessingErr> {
        match end? {}
    }
}

#[derive(Debug, Clone)]
struct Scope {
    vault: Arc<Vault>,
    root: Arc<Node>,
}

async fn metrics(State(scope): State<Scope>) -> impl IntoResponse {
    measure(&scope.vault, &scope.root);
    match scope.vault.metrics.render() {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, OPENMETRICS)], text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], error.to_string()),
    }
}

/// Ready: the rules are published, and new streams are taken.
async fn ready(State(scope): State<Scope>) -> (StatusCode, &'static str) {
    if scope.vault.drain.has_begun() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if scope.vault.policy.current().at.is_none() {
        (StatusCode::SERVICE_UNAVAILABLE, "no rules published yet\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

/// What is not counted as it happens is measured when somebody asks.
fn measure(vault: &Vault, root: &Arc<Node>) {
    let metrics = &vault.metrics;
    vault.traffic.fold();
    metrics.connections.set(gauge(vault.connections.len()));
    metrics.parked.set(gauge(vault.parking.len()));
    metrics.handshakes_in_progress.set(gauge(vault.arrivals.in_progress()));
    metrics.streams.set(gauge(vault.traffic.streams()));
    metrics.audit_waiting.set(gauge(vault.audit.len()));
    metrics.draining.set(i64::from(vault.drain.has_begun()));
    let published = vault.policy.current();
    metrics.policy_rules.set(gauge(published.snapshot.len()));
    let age = published.at.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
    metrics.policy_snapshot_age.set(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
    metrics.policy_outdated.set(published.outdated.map_or(0.0, |since| since.elapsed().as_secs_f64()));
    for singleton in tree::fixed(root) {
        let label = ActorLabel { actor: singleton.kind() };
        metrics.actor_mailbox.get_or_create(&label).set(gauge(singleton.mailbox()));
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
