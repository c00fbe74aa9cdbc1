//! The provider: its configuration, and the list of what it offers.

use std::path::Path;

use tfplugin::{Context, Diagnostic, Diagnostics, Offers, Provider, Schema, View, async_trait};

use crate::{
    actions,
    budget::Budget,
    client::{Claims, Client, Connection, Credential, Keys, Scope, data_folder},
    data_sources, ephemeral, functions, list,
    platform::Platform,
    resources,
    session::Session,
    settings::{self, Access, SettingsModel, Surroundings},
};

/// What the provider takes from the process it runs in.
pub struct Process {
    /// An environment variable's value.
    pub env: fn(&str) -> Option<String>,
    /// Where it was started.
    pub working_directory: std::path::PathBuf,
    /// Tells this process from all others, in keys.
    pub name: String,
    /// The run that it belongs to, where that can be told.
    pub session: Option<Session>,
}

/// The provider of Fairmazon.
pub struct Fairmazon {
    process: Process,
}

impl Fairmazon {
    /// The provider in a process.
    pub const fn new(process: Process) -> Self {
        Self { process }
    }

    fn client(&self, access: Access) -> Result<Client, Diagnostics> {
        let read = |path: &Path| std::fs::read_to_string(path).ok();
        let Process { working_directory, env, name, session } = &self.process;
        let scope = Scope::find(working_directory, env, &read);
        let data = data_folder(working_directory, env);
        let claims = session.as_ref().map(|session| Claims::of(session, &data));
        let shown = match &access.credential {
            Credential::Token(token) => token,
            Credential::Certificate { certificate_pem, .. } => certificate_pem,
        };
        let party = [access.endpoint.url.as_bytes(), shown.as_bytes()];
        let keys = Keys::new(scope, name.clone()).claimed(claims, &party);
        let connection = Connection {
            endpoint: access.endpoint,
            credential: access.credential,
            ca_pem: access.ca_pem,
            keys,
            keyring: access.keyring,
        };
        Client::new(connection).map_err(|error| {
            let reason = std::error::Error::source(&error)
                .map_or_else(String::new, |source| format!(" ({source})"));
            Diagnostic::error("The provider's settings can't be used")
                .detail(format!(
                    "It can't connect because {error}{reason}.\n\nCheck the provider block and the \
                     variables FAIRMAZON_*."
                ))
                .into()
        })
    }
}

#[async_trait]
impl Provider for Fairmazon {
    type Data = Platform;

    fn schema(&self) -> Schema {
        settings::schema()
    }

    fn offers(&self) -> Offers<Platform> {
        Offers::new()
            .resource(resources::instance::InstanceResource)
            .resource(resources::volume::Volumes::<resources::volume::VolumeModel>::new())
            .resource(resources::volume::Volumes::<resources::snapshot::SnapshotModel>::new())
            .resource(resources::placement_group::PlacementGroupResource)
            .list(list::InstanceList)
            .list(list::VolumeList::<resources::volume::VolumeModel>::new())
            .list(list::VolumeList::<resources::snapshot::SnapshotModel>::new())
            .list(list::PlacementGroupList)
            .data_source(data_sources::Flavors)
            .data_source(data_sources::Images)
            .data_source(data_sources::Sites)
            .data_source(data_sources::Instances)
            .function(functions::ParseId)
            .function(functions::IsId)
            .function(functions::DistanceKm)
            .function(functions::Nearest)
            .ephemeral(ephemeral::EphemeralToken)
            .action(actions::Reboot)
            .action(actions::Migrate)
            .action(actions::Snapshot)
    }

    async fn configure(&self, _: &Context<()>, config: View<'_>) -> Result<Platform, Diagnostics> {
        let model: SettingsModel = config.model()?;
        let env = |name: &str| (self.process.env)(name);
        let read = |path: &Path| std::fs::read_to_string(path);
        let settings = model.resolve(&Surroundings { env: &env, read: &read })?;
        if let Some(access) = &settings.access {
            access.credential.keep_secret();
        }
        let client = settings.access.map(|access| self.client(access)).transpose()?;
        let budget = Budget::new(settings.max_price_per_hour);
        Ok(Platform::new(client, settings.default_labels, budget))
    }
}
