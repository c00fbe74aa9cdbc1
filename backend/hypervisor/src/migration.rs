//! Live migration between two hypervisors that never speak to each other but through channels
//! that their agents carry.
//!
//! The source describes the running machine, the destination prepares for it and answers with
//! what the source needs, and the source then drives. Both texts are the drivers' own: only hosts
//! of the same kind exchange machines. What a channel is for is theirs, too.

use std::{io, sync::Arc};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

/// What a driver tells the driver of the other host.
pub type Description = Vec<u8>;

/// A connection of bytes, each way.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Opens connections of one migration. At the source they lead to the other host; at the
/// destination, to what takes them there.
#[async_trait]
pub trait Channels: Send + Sync {
    /// Opens one for the use that the number stands for.
    ///
    /// # Errors
    /// When it leads nowhere, or no more.
    async fn open(&self, channel: u8) -> io::Result<Box<dyn Connection>>;
}

/// A destination that is ready for a machine.
pub struct Landing {
    /// For the source.
    pub description: Description,
    /// Where its connections are to be led. Dropping this lets no more of them in.
    pub channels: Arc<dyn Channels>,
}

impl std::fmt::Debug for Landing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Landing").finish_non_exhaustive()
    }
}
