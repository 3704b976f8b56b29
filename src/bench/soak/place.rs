//! Where a soak takes place: a throw-away deployment in a folder, with the files that relays and agents are given.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::agent::Agent;
use crate::config::agent::{AgentConfig, Consume, Expose};
use crate::config::types::Tls;
use crate::core::identity::{AgentUri, RelayUri, Tenant};
use crate::pki::{Ca, Issued};

/// Region of the relays and tenant of the agents.
const NAME: &str = "soak";
/// The one service.
const SERVICE: &str = "soak";
/// How long a relay that stops waits for its streams, which the agents move meanwhile.
const DRAIN: &str = "drain.deadline=3s";
const RULES: &str = "[[allow]]\ntenant = \"soak\"\nfrom = \"outrelay://soak/agent/*\"\nto = \"soak\"\n";
/// A rule that is nobody's.
const UNRELATED: &str = "\n[[allow]]\ntenant = \"soak\"\nfrom = \"outrelay://soak/agent/nobody\"\nto = \"elsewhere\"\n";

/// Which rules are in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// The agents may reach the service.
    Needed,
    /// And there is a rule that concerns nobody.
    AndUnrelated,
}

impl Rules {
    /// The other ones.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Needed => Self::AndUnrelated,
            Self::AndUnrelated => Self::Needed,
        }
    }
}

/// A folder with a deployment.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    ca: Ca,
}

impl Place {
    /// Makes a deployment in the folder `dir`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn make(dir: &Path) -> anyhow::Result<Self> {
        let place = Self { dir: dir.to_owned(), ca: Ca::generate()? };
        place.write_rules(Rules::Needed)?;
        Ok(place)
    }

    /// The file of this name.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Puts rules in the place of those that are there, all at once.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_rules(&self, rules: Rules) -> std::io::Result<()> {
        let text = match rules {
            Rules::Needed => RULES.to_owned(),
            Rules::AndUnrelated => format!("{RULES}{UNRELATED}"),
        };
        let beside = self.file("rules.new");
        std::fs::write(&beside, text)?;
        std::fs::rename(beside, self.file("rules.toml"))
    }

    /// The arguments of the relay `id` that listens at `addr`.
    ///
    /// # Errors
    /// When its certificate cannot be made.
    pub fn relay_args(&self, id: &str, addr: SocketAddr, level: &str) -> anyhow::Result<Vec<OsString>> {
        let uri = RelayUri::new(&NAME.parse()?, &id.parse()?);
        let tls = self.tls(id, &self.ca.relay(&uri, &[])?)?;
        let mut args = Vec::<OsString>::new();
        args.extend(["relay", "--region", NAME, "--http", "", "--id", id].map(OsString::from));
        args.extend(["--listen".into(), addr.to_string().into()]);
        args.extend(["--set", "admin.fault_injection=true", "--set", DRAIN, "--set"].map(OsString::from));
        args.push(format!("log.level={level}").into());
        let file = |suffix: &str| self.file(&format!("{id}.{suffix}"));
        let files = [
            ("--cert", tls.cert),
            ("--key", tls.key),
            ("--ca", tls.ca),
            ("--rules", self.file("rules.toml")),
            ("--ready-file", file("ready")),
            ("--admin-socket", file("sock")),
        ];
        for (flag, path) in files {
            args.extend([flag.into(), path.into()]);
        }
        Ok(args)
    }

    /// An agent with the service at `to`, registered at the first of `relays` that answers.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn provider(&self, relays: &[SocketAddr], to: SocketAddr) -> anyhow::Result<Agent> {
        let mut config = self.agent("provider", relays)?;
        config.expose = vec![Expose { name: SERVICE.to_owned(), to: to.to_string().parse()? }];
        Agent::start(config).await.context("the provider's agent")
    }

    /// An agent that offers the service here, and where.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn consumer(&self, relays: &[SocketAddr]) -> anyhow::Result<(Agent, SocketAddr)> {
        let mut config = self.agent("consumer", relays)?;
        config.consume =
            vec![Consume { name: SERVICE.to_owned(), method: String::new(), listen: "127.0.0.1:0".parse()? }];
        let agent = Agent::start(config).await.context("the consumer's agent")?;
        let addr = agent.local_addr(SERVICE).context("the consumer does not listen")?;
        Ok((agent, addr))
    }

    fn agent(&self, name: &str, relays: &[SocketAddr]) -> anyhow::Result<AgentConfig> {
        let tenant: Tenant = NAME.parse()?;
        let uri = AgentUri::new(&tenant, &uuid::Uuid::new_v4().to_string())?;
        let relays = relays.iter().map(|addr| addr.to_string().parse()).collect::<Result<_, _>>()?;
        Ok(AgentConfig { relays, tls: self.tls(name, &self.ca.agent(&uri)?)?, ..AgentConfig::default() })
    }

    fn tls(&self, name: &str, issued: &Issued) -> anyhow::Result<Tls> {
        let file = |suffix: &str, text: &str| -> anyhow::Result<PathBuf> {
            let path = self.file(&format!("{name}.{suffix}"));
            std::fs::write(&path, text).with_context(|| path.display().to_string())?;
            Ok(path)
        };
        Ok(Tls {
            cert: file("crt", &issued.cert_pem)?,
            key: file("key", &issued.key_pem)?,
            ca: file("ca.crt", self.ca.cert_pem())?,
        })
    }
}
