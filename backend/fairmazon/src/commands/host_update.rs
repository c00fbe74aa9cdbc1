//! `fairmazon host update`: what a host offers, changed where it is said.

use clap::Args;
use fairmazon_proto::v1::{
    GetHostRequest, HostSpec, UpdateHostRequest, hosts_service_client::HostsServiceClient,
};

use crate::{
    client::{ClientOptions, refused},
    commands::host_show::lines,
    error::CommandError,
    keys, output,
    standard::storage,
};

/// Change what a host offers; what is not given stays. What it is then is shown.
#[derive(Debug, Args)]
pub(super) struct HostUpdate {
    #[command(flatten)]
    client: ClientOptions,
    /// Its id.
    host: String,
    #[command(flatten)]
    change: Change,
}

/// What changes.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Change {
    /// Its name, unique in the account.
    #[arg(long)]
    name: Option<String>,
    /// The site it stands at.
    #[arg(long)]
    site: Option<String>,
    /// The town of the site.
    #[arg(long)]
    town: Option<String>,
    /// The country, as two capital letters.
    #[arg(long)]
    country: Option<String>,
    /// The region of the platform.
    #[arg(long)]
    region: Option<String>,
    /// Degrees north.
    #[arg(long, allow_negative_numbers = true)]
    latitude: Option<f64>,
    /// Degrees east.
    #[arg(long, allow_negative_numbers = true)]
    longitude: Option<f64>,
    /// Hardware threads.
    #[arg(long)]
    vcpus: Option<u32>,
    /// Memory for guests, in MiB.
    #[arg(long)]
    memory_mib: Option<u64>,
    /// Disk for guests, as CLASS=GIB; classes that are not given stay, and 0 takes one away. May be
    /// given several times.
    #[arg(long, value_parser = storage, value_name = "CLASS=GIB")]
    storage: Vec<(String, u64)>,
    /// vCPU sold for each hardware thread, in percent.
    #[arg(long)]
    cpu_overcommit_percent: Option<u32>,
    /// Memory sold for what there is, in percent, 100 to 200.
    #[arg(long)]
    memory_overcommit_percent: Option<u32>,
    /// Host standard level to offer, 0 to 3.
    #[arg(long)]
    conformity: Option<u32>,
    /// Price against the catalogue's, in percent.
    #[arg(long)]
    price_percent: Option<u32>,
    /// What it can do, all of it (`confidential`). May be given several times.
    #[arg(long = "feature")]
    features: Vec<String>,
    /// It can do nothing special any more.
    #[arg(long, conflicts_with = "features")]
    no_features: bool,
    /// Whether new machines may come; those that are there stay in any case.
    #[arg(long, value_name = "true|false")]
    schedulable: Option<bool>,
}

impl HostUpdate {
    pub(super) async fn run(self) -> Result<(), CommandError> {
        let mut hosts = HostsServiceClient::new(self.client.connect().await?);
        let id = self.host;
        let failed = |verb: &str| refused(format!("unable to {verb} the host {id}"));
        let read = hosts.get_host(GetHostRequest { id: id.clone() }).await;
        let old = read.map_err(failed("read"))?.into_inner().spec.unwrap_or_default();
        let spec = Some(self.change.of(old));
        let request =
            UpdateHostRequest { id: id.clone(), spec, idempotency_key: keys::idempotency()? };
        let new = hosts.update_host(request).await.map_err(failed("change"))?.into_inner();
        lines(&new).iter().for_each(|line| output::line(line));
        Ok(())
    }
}

impl Change {
    fn of(self, old: HostSpec) -> HostSpec {
        let mut storage_gib = old.storage_gib;
        storage_gib.extend(self.storage);
        storage_gib.retain(|_, size| *size > 0);
        let keeps_features = self.features.is_empty() && !self.no_features;
        HostSpec {
            name: self.name.unwrap_or(old.name),
            site: self.site.unwrap_or(old.site),
            town: self.town.unwrap_or(old.town),
            country: self.country.unwrap_or(old.country),
            region: self.region.unwrap_or(old.region),
            latitude: self.latitude.unwrap_or(old.latitude),
            longitude: self.longitude.unwrap_or(old.longitude),
            vcpus: self.vcpus.unwrap_or(old.vcpus),
            memory_mib: self.memory_mib.unwrap_or(old.memory_mib),
            storage_gib,
            cpu_overcommit_percent: self
                .cpu_overcommit_percent
                .unwrap_or(old.cpu_overcommit_percent),
            memory_overcommit_percent: self
                .memory_overcommit_percent
                .unwrap_or(old.memory_overcommit_percent),
            conformity: self.conformity.unwrap_or(old.conformity),
            features: if keeps_features { old.features } else { self.features },
            price_percent: self.price_percent.unwrap_or(old.price_percent),
            schedulable: self.schedulable.unwrap_or(old.schedulable),
        }
    }
}
