//! `outrelay demo`: the whole system in one process, with a throw-away PKI and real HTTP through it.
//!
//! A relay, a provider agent before a small HTTP server, a consumer agent. Requests go through, then a large download. In the
//! middle of it the relay's actor for the consumer's connection is killed, then the splice that carries the download, then the
//! relay itself, which is started again at the same address. Nothing is lost.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::stop::StopSignals;
use crate::admin::draw::print;
use crate::agent::Agent;
use crate::config::agent::{AgentConfig, Consume, Expose};
use crate::config::relay::RelayConfig;
use crate::config::types::{Log, Tls};
use crate::core::identity::{AgentUri, RelayUri, Tenant};
use crate::pki::{Ca, Issued};
use crate::relay::{Relay, StartError};
use crate::supervise::fault::Fault;
use crate::telemetry;

mod web;

/// The one service of the demo.
const SERVICE: &str = "web";
/// Small requests before the download.
const REQUESTS: u32 = 20;
/// What is downloaded in one piece, in bytes.
const DOWNLOAD_BYTES: u64 = 128 << 20;
/// How long the system may take to be up, and a request to be answered.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the address of a relay that is gone is waited for at a time.
const REBIND: Duration = Duration::from_millis(5);
const RULES: &str = "[[allow]]\ntenant = \"demo\"\nfrom = \"outrelay://demo/agent/*\"\nto = \"web\"\n";

/// Shows the whole system at work in one process: a relay, two agents, a web server.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// One JSON object with the result, and nothing else
    #[arg(long)]
    json: bool,
    /// Leave it running afterwards, and print the URL to try
    #[arg(long)]
    keep: bool,
}

/// What the demo found.
#[derive(Debug, serde::Serialize)]
struct Outcome {
    ok: bool,
    requests: u32,
    bytes: u64,
    sha256_match: bool,
    killed: Vec<&'static str>,
    relays_killed: u32,
    stall_ms_max: u64,
}

/// What is killed during the download, one after the other.
#[derive(Debug, Clone, Copy)]
enum Victim {
    /// The relay's actor for the consumer's connection.
    Connection,
    /// The actor that carries the download.
    Splice,
    /// All of the relay.
    Relay,
}

const VICTIMS: [Victim; 3] = [Victim::Connection, Victim::Splice, Victim::Relay];

/// Everything that runs.
struct Stage {
    /// None only between the first and the second.
    relay: Option<Relay>,
    relay_config: RelayConfig,
    provider: Agent,
    consumer: Agent,
    consumer_uri: AgentUri,
    web: web::Server,
    url: SocketAddr,
    dir: tempfile::TempDir,
}

/// Runs the demo.
///
/// # Errors
/// When a part does not come up, or a request fails.
pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    telemetry::init(&Log { level: "warn".to_owned(), ..Log::default() })?;
    let mut signals = StopSignals::new()?;
    let say = |line: &str| if args.json { Ok(()) } else { print(line) };
    say("Starting a relay, a web server with its agent, and a consumer's agent …")?;
    let play = async {
        let mut stage = Stage::set_up().await?;
        let outcome = stage.play(&say).await?;
        anyhow::Ok((stage, outcome))
    };
    let (stage, outcome) = tokio::select! {
        played = play => played?,
        signal = signals.next() => anyhow::bail!("stopped by {signal}"),
    };
    if args.json {
        print(&serde_json::to_string(&outcome)?)?;
    } else {
        print(&summary(&outcome))?;
    }
    if args.keep {
        say(&format!(
            "\nStill running. Try:\n  curl http://{}/\n  outrelay admin --socket {} tree\nCtrl-C ends it.",
            stage.url,
            stage.admin_socket().display()
        ))?;
        signals.next().await;
    }
    stage.strike().await;
    Ok(if outcome.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn summary(outcome: &Outcome) -> String {
    format!(
        "\n{} requests answered, {} MiB downloaded, checksum {}.\nKilled on the way: {}, and the relay itself {}. Longest stall: {} ms.\n{}",
        outcome.requests,
        outcome.bytes >> 20,
        if outcome.sha256_match { "equal" } else { "DIFFERENT" },
        outcome.killed.join(", "),
        if outcome.relays_killed == 1 { "once" } else { "NOT AS OFTEN AS PLANNED" },
        outcome.stall_ms_max,
        if outcome.ok { "Nothing was lost." } else { "SOMETHING WENT WRONG." },
    )
}

impl Stage {
    async fn set_up() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("outrelay-demo-").tempdir()?;
        let ca = Ca::generate()?;
        let tenant: Tenant = "demo".parse()?;
        let new_uri = || AgentUri::new(&tenant, &uuid::Uuid::new_v4().to_string());
        let (provider_uri, consumer_uri) = (new_uri()?, new_uri()?);
        let mut relay_config = relay_config(dir.path(), &ca)?;
        let relay = Relay::start(relay_config.clone()).await.context("the relay")?;
        // The next one is to be found where this one is.
        relay_config.listen = relay.quic_addr()?;
        let web = web::Server::start().await.context("the web server")?;
        let mut provider = agent_config(dir.path(), "provider", &relay, &ca, &ca.agent(&provider_uri)?)?;
        provider.expose = vec![Expose { name: SERVICE.to_owned(), to: web.addr.to_string().parse()? }];
        let mut consumer = agent_config(dir.path(), "consumer", &relay, &ca, &ca.agent(&consumer_uri)?)?;
        consumer.consume =
            vec![Consume { name: SERVICE.to_owned(), method: String::new(), listen: "127.0.0.1:0".parse()? }];
        let provider = Agent::start(provider).await.context("the provider's agent")?;
        let consumer = Agent::start(consumer).await.context("the consumer's agent")?;
        let up = async { tokio::join!(provider.wait_registered(), consumer.wait_registered()) };
        tokio::time::timeout(PATIENCE, up).await.context("the agents do not reach the relay")?;
        let url = consumer.local_addr(SERVICE).context("the consumer does not listen")?;
        Ok(Self { relay: Some(relay), relay_config, provider, consumer, consumer_uri, web, url, dir })
    }

    async fn play(&mut self, say: &impl Fn(&str) -> std::io::Result<()>) -> anyhow::Result<Outcome> {
        say(&format!("{REQUESTS} requests to http://{}/, through the relay …", self.url))?;
        for n in 0..REQUESTS {
            let path = format!("/hello/{n}");
            let page = tokio::time::timeout(PATIENCE, web::get_page(self.url, &path)).await.context(path)??;
            ensure!(page == web::greeting(n), "request {n} was answered {page:?}");
        }
        say(&format!(
            "A download of {} MiB; meanwhile the actor of the consumer's connection is killed, then that of the download itself, then the whole relay …",
            DOWNLOAD_BYTES >> 20
        ))?;
        let (mut killed, mut relays_killed) = (Vec::new(), 0);
        let mut victims = (1..).map(|n| n * DOWNLOAD_BYTES / 4).zip(VICTIMS).peekable();
        let mut download = web::Download::start(self.url, DOWNLOAD_BYTES).await?;
        while let Some(bytes) =
            tokio::time::timeout(PATIENCE, download.next()).await.context("the download stalls")??
        {
            let Some((_, victim)) = victims.next_if(|(at, _)| bytes >= *at) else { continue };
            match victim {
                Victim::Connection => {
                    self.kill(&format!("connection:{}", self.consumer_uri)).await?;
                    killed.push("connection");
                }
                Victim::Splice => {
                    self.kill("splice").await?;
                    killed.push("splice");
                }
                Victim::Relay => {
                    self.replace_relay().await?;
                    relays_killed += 1;
                }
            }
        }
        let sha256_match = Some(download.digest()) == self.web.sent_digest();
        let bytes = download.bytes();
        Ok(Outcome {
            ok: sha256_match && bytes == DOWNLOAD_BYTES && killed.len() + 1 == VICTIMS.len() && relays_killed == 1,
            requests: REQUESTS,
            bytes,
            sha256_match,
            killed,
            relays_killed,
            stall_ms_max: u64::try_from(download.longest_stall().as_millis()).unwrap_or(u64::MAX),
        })
    }

    async fn kill(&self, actor: &str) -> anyhow::Result<()> {
        let relay = self.relay.as_ref().context("there is no relay")?;
        relay.inject(actor, Fault::Kill).await.map_err(anyhow::Error::msg)
    }

    /// Kills the relay, and starts another one at its address that knows nothing of the first one's streams.
    async fn replace_relay(&mut self) -> anyhow::Result<()> {
        if let Some(first) = self.relay.take() {
            first.kill().await;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Relay::start(self.relay_config.clone()).await {
                Ok(second) => {
                    self.relay = Some(second);
                    return Ok(());
                }
                // Its socket is closed a moment after it.
                Err(StartError::Bind { .. }) if Instant::now() < deadline => tokio::time::sleep(REBIND).await,
                Err(error) => return Err(error).context("the second relay"),
            }
        }
    }

    fn admin_socket(&self) -> std::path::PathBuf {
        self.dir.path().join("admin.sock")
    }

    /// Takes everything down, in order.
    async fn strike(self) {
        self.consumer.shutdown().await;
        self.provider.shutdown().await;
        if let Some(relay) = self.relay {
            relay.shutdown().await;
        }
    }
}

fn relay_config(dir: &Path, ca: &Ca) -> anyhow::Result<RelayConfig> {
    let uri = RelayUri::new(&"demo".parse()?, &"r1".parse()?);
    let mut config = RelayConfig {
        id: "r1".to_owned(),
        region: "demo".to_owned(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        tls: tls(dir, "relay", ca, &ca.relay(&uri, &[])?)?,
        ..RelayConfig::default()
    };
    let rules = dir.join("rules.toml");
    std::fs::write(&rules, RULES)?;
    config.directory.rules = Some(rules);
    config.admin.socket = Some(dir.join("admin.sock"));
    config.admin.fault_injection = true;
    config.http.listen = None;
    Ok(config)
}

fn agent_config(dir: &Path, name: &str, relay: &Relay, ca: &Ca, issued: &Issued) -> anyhow::Result<AgentConfig> {
    Ok(AgentConfig {
        relays: vec![relay.quic_addr()?.to_string().parse()?],
        tls: tls(dir, name, ca, issued)?,
        ..AgentConfig::default()
    })
}

fn tls(dir: &Path, name: &str, ca: &Ca, issued: &Issued) -> anyhow::Result<Tls> {
    let file = |suffix: &str, text: &str| -> anyhow::Result<std::path::PathBuf> {
        let path = dir.join(format!("{name}.{suffix}"));
        std::fs::write(&path, text)?;
        Ok(path)
    };
    Ok(Tls {
        cert: file("crt", &issued.cert_pem)?,
        key: file("key", &issued.key_pem)?,
        ca: file("ca.crt", ca.cert_pem())?,
    })
}
