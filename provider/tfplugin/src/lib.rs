//! A runtime for Terraform and OpenTofu providers in Rust.
//!
//! An author implements [`Provider`] and, for everything it offers, one of [`Crud`], [`Resource`],
//! [`DataSource`], [`Function`], [`EphemeralResource`], [`ListResource`] and [`Action`]; `main`
//! calls [`serve`]. The [`harness`] drives all of it in tests, without a client.
//!
//! Schemas declare what attributes mean (defaults, what forces a replacement, which values are
//! allowed); plans and checks follow from that. Handlers deal in serde types, return
//! [`Diagnostics`] with `?`, and save the state as far as they got.
//!
//! A plain resource is a [`Crud`], four calls: the one of `examples/pantry`, with defaults, checks,
//! what forces a replacement, identity and import, is a file of 60 lines. What needs more say is a
//! [`Resource`]:
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use tfplugin::{
//!     Attr, Attribute, Context, Diagnostics, Explain as _, Planned, Resource, Schema, StateSink,
//!     async_trait,
//! };
//!
//! /// A folder on this machine.
//! struct Folder;
//!
//! #[derive(Serialize, Deserialize)]
//! struct Model {
//!     path: String,
//!     mode: Option<String>,
//!     id: Attr<String>,
//! }
//!
//! #[async_trait]
//! impl Resource for Folder {
//!     type Data = ();
//!     type Model = Model;
//!
//!     fn name(&self) -> &'static str {
//!         "local_folder"
//!     }
//!
//!     fn schema(&self) -> Schema {
//!         Schema::builder()
//!             .describe("A folder on this machine.")
//!             .attribute(Attribute::string("path").required().requires_replace())
//!             .attribute(Attribute::string("mode").default("0755").requires_replace())
//!             .attribute(Attribute::string("id").computed().use_state_for_unknown())
//!             .build()
//!     }
//!
//!     async fn create(
//!         &self,
//!         _cx: &Context<()>,
//!         plan: Planned<'_, Model>,
//!         state: &mut StateSink<'_, Model>,
//!     ) -> Result<(), Diagnostics> {
//!         std::fs::create_dir(&plan.path).explain("Unable to create the folder")?;
//!         let id = Attr::Value(plan.path.clone());
//!         state.save(&Model { id, ..plan.model })
//!     }
//!
//!     async fn read(
//!         &self,
//!         _cx: &Context<()>,
//!         prior: Model,
//!         state: &mut StateSink<'_, Model>,
//!     ) -> Result<(), Diagnostics> {
//!         if !std::path::Path::new(&prior.path).is_dir() {
//!             state.gone();
//!         }
//!         Ok(())
//!     }
//!
//!     async fn delete(
//!         &self,
//!         _cx: &Context<()>,
//!         prior: Model,
//!         _state: &mut StateSink<'_, Model>,
//!     ) -> Result<(), Diagnostics> {
//!         std::fs::remove_dir(&prior.path).explain("Unable to remove the folder")
//!     }
//! }
//! ```

mod action;
#[cfg(test)]
mod arbitrary;
pub mod bridge;
pub mod codec;
mod context;
mod crud;
mod data_source;
pub mod diagnostics;
mod ephemeral;
mod function;
pub mod harness;
mod identity;
mod list;
mod log;
pub mod path;
pub mod plan;
mod private;
pub mod proto;
mod provider;
mod resource;
pub mod rules;
pub mod schema;
mod secrets;
mod serve;
mod server;
pub mod timeouts;
mod transport;
pub mod types;
pub mod validate;
pub mod value;
mod view;

pub use action::{Action, Progress};
pub use async_trait::async_trait;
pub use bridge::{Attr, ConversionError, decimal, from_value, to_value};
pub use context::{ClientCapabilities, Context};
pub use crud::Crud;
pub use data_source::DataSource;
pub use diagnostics::{Diagnostic, Diagnostics, Explain, Severity};
pub use ephemeral::{EphemeralResource, Opened};
pub use function::{Function, FunctionError, Signature};
pub use identity::{IdentityAttribute, IdentitySchema};
pub use list::{ListResource, ListSink};
pub use path::AttributePath;
pub use private::Private;
pub use provider::{Offers, Provider};
pub use resource::{
    Change, ChangeKind, ImportTarget, MoveSource, Planned, Resource, StateSink, Upgrader,
};
pub use schema::{Attribute, Schema};
pub use secrets::keep_secret;
pub use serve::serve;
pub use timeouts::Timeouts;
pub use types::Type;
pub use value::{Number, Value};
pub use view::View;
