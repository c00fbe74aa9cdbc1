//! `fairmazon dev`: a whole platform on this machine, ready in a moment.
//!
//! Everything is kept in the data folder: a second start over the same folder has the same
//! accounts, tokens, machines and, where it is free, the same port.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc};

use clap::Args;
use fairmazon_broker::{
    ApiConfig,
    api::{Authority, CurrentCertificate, ServerTls},
    core::{CoreConfig, SystemClock},
};
use fairmazon_model::{catalogue::Catalogue, conformity::UnprovenHosts};
use tokio::time::Instant;

use crate::{
    commands::key::make_identity,
    dev::{agents::Agents, people, secrets::Secrets, sites},
    error::CommandError,
    folder::Folder,
    hypervisors::{HypervisorKind, Hypervisors},
    output,
    platform::{Platform, until_ended},
    signals::Signals,
};

/// What the customer exports: written when there is an identity, and never removed.
const CUSTOMER_FILE: &str = "env";

/// Runs a whole platform on this machine.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Where everything is kept [default: fairmazon/dev in the user's data folder].
    #[arg(long, visible_alias = "data", env = "FAIRMAZON_DEV_DATA", value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Where the broker listens [default: on loopback, on the port of the last start or a free one].
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Where the metrics listen, in plain HTTP; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    metrics: SocketAddr,
    /// What runs the machines.
    #[arg(long, value_enum, default_value_t = HypervisorKind::Auto)]
    hypervisor: HypervisorKind,
    /// Hosts at each of the sites [default: 2, or 1 with real guests].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=200))]
    hosts: Option<u16>,
    /// With real guests, what they boot: a folder with `kernel`, `initrd` and `cmdline`, as
    /// scripts/guest/build makes it.
    #[arg(
        long,
        env = "FAIRMAZON_DEV_GUEST",
        value_name = "FOLDER",
        required_if_eq("hypervisor", "qemu")
    )]
    guest: Option<PathBuf>,
}

impl Dev {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        self.run_all().await.map_err(CommandError::for_trials)
    }

    async fn run_all(self) -> Result<(), CommandError> {
        let begun = Instant::now();
        let mut signals = Signals::listen()?;
        let folder = Folder::open(&self.data_dir.clone().unwrap_or_else(Folder::usual))?;
        let key_file = folder.customer_key();
        if folder.file(CUSTOMER_FILE).exists() && !key_file.exists() {
            return Err(CommandError::NoIdentity { path: key_file });
        }
        let hypervisors = match (self.hypervisor, &self.guest) {
            (HypervisorKind::Qemu, Some(guest)) => {
                Hypervisors::qemu(&folder, guest.clone()).await?
            }
            (kind, _) => Hypervisors::choose(kind).await?,
        };
        let mut secrets = Secrets::of(&folder)?;
        let authority = Authority::in_folder(folder.tls());
        let clock = Arc::new(SystemClock);
        let certificate = CurrentCertificate::made_by(authority.clone(), names(), clock)
            .map_err(CommandError::Tls)?;

        let catalogue = hypervisors.catalogue()?;
        let platform = self.start_platform(&folder, certificate.tls(), &secrets, catalogue).await?;
        let started = tokio::select! {
            started = self.start_hosts(&platform, &folder, &mut secrets, &hypervisors) => started,
            () = signals.end() => Err(CommandError::Interrupted),
        };
        let agents = match started {
            Ok(agents) => agents,
            Err(error) => {
                let stop = async {
                    platform.stop().await;
                    hypervisors.stop().await;
                };
                unless_forced(&mut signals, stop).await;
                return Err(error);
            }
        };
        let told = tell(&folder, &platform, &secrets, &authority);
        if let Ok(exports) = &told {
            let ready = format!(
                "ready in {} ms: {} hosts at {} sites ({})",
                begun.elapsed().as_millis(),
                agents.count(),
                sites::count(),
                hypervisors.name()
            );
            say(&ready, &folder, &platform, exports);
            until_ended(&mut signals, &certificate, || {}).await;
        }
        let stop = async {
            agents.stop().await;
            platform.stop().await;
            hypervisors.stop().await;
        };
        unless_forced(&mut signals, stop).await;
        told.map(|_| ())
    }

    async fn start_platform(
        &self,
        folder: &Folder,
        tls: &ServerTls,
        secrets: &Secrets,
        catalogue: Catalogue,
    ) -> Result<Platform, CommandError> {
        let address = self.listen.unwrap_or_else(|| ([127, 0, 0, 1], secrets.port).into());
        let api = ApiConfig { metrics: Some(self.metrics), ..ApiConfig::on(address) };
        // Nothing here is proven, and all of it is for trials.
        let unproven_hosts = UnprovenHosts::AsOffered;
        let core = CoreConfig { unproven_hosts, ..CoreConfig::default() };
        let started = Platform::start(folder, tls, &api, core.clone(), catalogue.clone()).await;
        match started {
            // Only the remembered port may be given up for another one.
            Err(CommandError::Server(_)) if self.listen.is_none() && secrets.port != 0 => {
                let api = ApiConfig { listen: ([127, 0, 0, 1], 0).into(), ..api };
                Platform::start(folder, tls, &api, core, catalogue).await
            }
            started => started,
        }
    }

    async fn start_hosts(
        &self,
        platform: &Platform,
        folder: &Folder,
        secrets: &mut Secrets,
        hypervisors: &Hypervisors,
    ) -> Result<Agents, CommandError> {
        let engine = &platform.engine;
        let operator = people::ensure(engine, secrets, folder).await?;
        let usual = if matches!(hypervisors, Hypervisors::Qemu(_)) { 1 } else { 2 };
        let specs = sites::hosts(self.hosts.unwrap_or(usual));
        let ca = Authority::in_folder(folder.tls()).certificate();
        let ca_pem = fs::read_to_string(&ca).map_err(CommandError::file("read", ca))?;
        let hosts =
            people::ensure_hosts(engine, &operator, &specs, secrets, folder, &ca_pem).await?;
        let mut to_run = Vec::with_capacity(hosts.len());
        for host in hosts {
            let spec = &host.spec;
            let hypervisor = hypervisors.of(host.id, &spec.name, &spec.capacity).await?;
            to_run.push((host, hypervisor));
        }
        let address = platform.address();
        let mut agents = Agents::start(to_run, address, &ca_pem, folder).await?;
        agents.connected(engine, address).await?;
        Ok(agents)
    }
}

/// Ends in order, or at once when that is asked for a second time: what was acknowledged is
/// durable either way.
async fn unless_forced(signals: &mut Signals, stop: impl Future<Output = ()>) {
    tokio::select! {
        () = stop => {}
        () = signals.end() => tracing::warn!("ended at once, as was asked for a second time"),
    }
}

/// What the broker of `fairmazon dev` is reached by.
fn names() -> Vec<String> {
    ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec()
}

/// Keeps what a later start or another shell needs; answers the lines to export.
fn tell(
    folder: &Folder,
    platform: &Platform,
    secrets: &Secrets,
    authority: &Authority,
) -> Result<Vec<String>, CommandError> {
    let port = platform.address().port();
    Secrets { port, ..secrets.clone() }.keep(folder)?;
    let key_file = folder.customer_key();
    if !key_file.exists() {
        make_identity(&key_file)?;
    }
    let exports = |token: &str| {
        [
            ("FAIRMAZON_ENDPOINT", format!("https://{}", platform.address())),
            ("FAIRMAZON_TOKEN", token.to_owned()),
            ("FAIRMAZON_CA_CERTIFICATE", authority.certificate().display().to_string()),
        ]
        .map(|(name, value)| format!("export {name}={}", quoted(&value)))
        .to_vec()
    };
    let mut customer = exports(&secrets.customer);
    customer.push(format!("export FAIRMAZON_KEY_FILE={}", quoted(&key_file.display().to_string())));
    for (file, lines) in [
        (CUSTOMER_FILE, &customer),
        ("env.hosts", &exports(&secrets.operator)),
        ("env.platform", &exports(&secrets.platform)),
    ] {
        folder.write(file, &format!("{}\n", lines.join("\n")))?;
    }
    Ok(customer)
}

fn say(ready: &str, folder: &Folder, platform: &Platform, exports: &[String]) {
    output::line(&format!("{ready}, data in {}", folder.path().display()));
    if let Some(address) = platform.metrics_address() {
        output::line(&format!("metrics: http://{address}/metrics"));
    }
    output::line("");
    for line in exports {
        output::line(line);
    }
    output::line("");
    output::line(&format!(
        "The same for another shell: . {}   (env.hosts, env.platform: the operators')",
        quoted(&folder.file(CUSTOMER_FILE).display().to_string())
    ));
    output::line("Ctrl-C ends it.");
}

/// The value as a shell reads it back.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@%+=,".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_a_shell() {
        assert_eq!(quoted("https://127.0.0.1:1"), "https://127.0.0.1:1");
        assert_eq!(quoted("/home/a b/it's"), r"'/home/a b/it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
