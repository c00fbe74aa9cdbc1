//! The broker's core: all rows in memory, commands that change them, and views of them.
//!
//! [`Engine`] is the door: each command is planned purely on the state, made durable in one
//! atomic commit, and only then shown. Nothing here knows the wire.

mod accounts;
pub(crate) mod answers;
mod attachments;
pub(crate) mod audit;
pub(crate) mod books;
pub(crate) mod boot_volumes;
mod caller;
pub(crate) mod carriers;
mod clock;
mod config;
pub(crate) mod draft;
mod drains;
pub(crate) mod engine;
mod follow;
mod groups;
mod hosts;
pub(crate) mod hosts_now;
mod images;
pub(crate) mod instances;
mod joining;
pub(crate) mod keys;
pub(crate) mod lost;
pub(crate) mod migrations;
mod operations;
pub(crate) mod preferences;
pub(crate) mod rules;
pub(crate) mod state;
mod table;
pub(crate) mod together;
pub(crate) mod view;
mod volumes;
pub(crate) mod world;

pub use accounts::{AccountView, NewToken, TOKEN_PREFIX, TokenRequest, hash_secret};
pub use caller::Caller;
pub use clock::{Clock, Randomness, SystemClock};
pub use config::CoreConfig;
pub use drains::{DrainItem, DrainState, DrainView};
pub use engine::{Engine, Parts};
pub use hosts_now::Standing;
pub use instances::{InstanceChange, InstanceUpdate, Labels};
pub use joining::MadeCertificate;
pub use keys::KeysOf;
pub use operations::OperationWatch;
pub use table::{Page, PageRequest};
pub use view::{
    HostImage, HostView, InstanceState, InstanceView, SiteView, Usage, VolumeState, VolumeView,
};
pub use volumes::{VolumeChange, VolumeUpdate};
