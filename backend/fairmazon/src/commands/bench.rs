//! `fairmazon bench`: figures of the platform on this machine, one line each.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, Subcommand};
use fairmazon_broker::{
    ApiConfig,
    api::{Authority, Rate, ServerTls},
    core::{Caller, CoreConfig},
};
use fairmazon_model::{access::Role, catalogue::Catalogue};
use fairmazon_proto::v1::{
    BootVolume, CreateInstanceRequest, InstanceSpec, OnUserDataChange, PowerState, RestartPolicy,
    instances_service_client::InstancesServiceClient,
};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    client::{Client, ClientOptions, refused},
    error::CommandError,
    folder::Folder,
    keys, output,
    platform::{Platform, now_ms},
};

/// Measures the platform.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Durable creations of instances through gRPC with TLS and the embedded store.
    Creations(Creations),
}

#[derive(Debug, Args)]
struct Creations {
    /// Clients at once, each with a connection of its own.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// How long to measure, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Where the store is made; the disk is a part of what is measured.
    #[arg(long, value_name = "FOLDER")]
    data_dir: PathBuf,
}

impl Bench {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        match self.what {
            What::Creations(creations) => creations.run().await,
        }
    }
}

impl Creations {
    async fn run(self) -> Result<(), CommandError> {
        let folder = Folder::open(&self.data_dir)?;
        let authority = Authority::in_folder(folder.tls());
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        authority.ensure(&names, now_ms()).map_err(CommandError::Tls)?;
        let tls = ServerTls::load(authority.server_files(), now_ms()).map_err(CommandError::Tls)?;
        let unlimited = Rate { per_second: 1e9, burst: 1e9 };
        let on = ApiConfig::on(([127, 0, 0, 1], 0).into());
        let api = ApiConfig { credential_rate: unlimited, ..on };
        let core = CoreConfig {
            instances_per_account: u64::MAX,
            volumes_per_account: u64::MAX,
            ..CoreConfig::default()
        };
        let platform =
            Platform::start(&folder, &tls, &api, core, Catalogue::default_catalogue()).await?;
        let measured = self.measure(&platform, &authority).await;
        platform.stop().await;
        measured
    }

    async fn measure(
        &self,
        platform: &Platform,
        authority: &Authority,
    ) -> Result<(), CommandError> {
        let failed = || CommandError::refused("unable to set up the account");
        let (caller, key) = (Caller::platform(), keys::idempotency()?);
        let made = platform.engine.create_account(&caller, "bench", &key).await;
        let (account, _) = made.map_err(failed())?;
        let token = keys::token()?;
        let ensured = platform.engine.ensure_token(account.id, Role::Customer, "bench", &token);
        ensured.await.map_err(failed())?;
        let endpoint = format!("https://{}", platform.address());
        let options = ClientOptions::new(endpoint, token, authority.certificate());
        let mut clients = Vec::with_capacity(self.clients);
        for _ in 0..self.clients {
            clients.push(options.connect().await?);
        }
        let begun = Instant::now();
        let until = begun + Duration::from_secs(self.seconds);
        let run = Arc::new(keys::idempotency()?);
        let mut tasks = JoinSet::new();
        for (number, client) in clients.into_iter().enumerate() {
            tasks.spawn(create_until(client, until, run.clone(), number));
        }
        let mut times = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            times.extend(ended.map_err(|error| CommandError::System(error.into()))??);
        }
        let seconds = begun.elapsed().as_secs_f64();
        times.sort_unstable();
        let at = |part: f64| {
            let index = (times.len() as f64 * part) as usize;
            times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        output::line(&format!(
            "creations: {:.0} per second ({} in {seconds:.1} s, {} clients), p50 {:.1} ms, p99 {:.1} ms, peak {} MiB",
            times.len() as f64 / seconds,
            times.len(),
            self.clients,
            at(0.5),
            at(0.99),
            peak_mib()
        ));
        Ok(())
    }
}

/// Creates instances one after the other; answers how long each took.
async fn create_until(
    client: Client,
    until: Instant,
    run: Arc<String>,
    number: usize,
) -> Result<Vec<Duration>, CommandError> {
    let mut instances = InstancesServiceClient::new(client);
    let mut times = Vec::new();
    while Instant::now() < until {
        let key = format!("{}-{number}-{}", &run[..32], times.len());
        let begun = Instant::now();
        let request = CreateInstanceRequest { spec: Some(spec()), idempotency_key: key };
        instances.create_instance(request).await.map_err(refused("unable to create"))?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

fn spec() -> InstanceSpec {
    InstanceSpec {
        name: "bench".to_owned(),
        flavor: "tiny".to_owned(),
        image: "alpine-3.22".to_owned(),
        boot_volume: Some(BootVolume {
            size_gib: 5,
            class: "standard".to_owned(),
            delete_with_instance: true,
        }),
        on_user_data_change: OnUserDataChange::NextBoot.into(),
        power_state: PowerState::Running.into(),
        restart_policy: RestartPolicy::Always.into(),
        ..InstanceSpec::default()
    }
}

/// The most memory that this process has had, in MiB; 0 where the system does not tell.
fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1_024
}
