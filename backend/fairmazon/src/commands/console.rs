//! `fairmazon console`: what a guest has written last.

use clap::Args;
use fairmazon_proto::v1::{GetConsoleRequest, instances_service_client::InstancesServiceClient};

use crate::{
    client::{ClientOptions, refused},
    error::CommandError,
    output,
};

/// Shows what the guest of an instance has written last to its serial console: lines of at most
/// 64 KiB, without escape sequences. Read from its host at this moment; the platform keeps none of
/// it.
#[derive(Debug, Args)]
pub(crate) struct Console {
    #[command(flatten)]
    client: ClientOptions,
    /// The id of the instance.
    instance: String,
}

impl Console {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        let mut instances = InstancesServiceClient::new(self.client.connect().await?);
        let what = format!("unable to read the console of {}", self.instance);
        let request = GetConsoleRequest { id: self.instance };
        let console = instances.get_console(request).await.map_err(refused(what))?.into_inner();
        console.text.lines().for_each(output::line);
        Ok(())
    }
}
