//! Images of machines: what hosts fill boot volumes from and how guests of them boot.
//!
//! An image is a folder with some of the files in [`PARTS`], a manifest `image.json` that names
//! each with its size and SHA-256, and the manifest's detached signature `image.json.minisig`, as
//! the tool `minisign` makes it. [`pack()`] writes both, [`add`] takes an image into a host's
//! folder of images, and [`Images`] gives its files to a driver. [`catalogue()`] reads manifests
//! alone, for who says what there is. Nothing of an image is used that a trusted key has not signed,
//! or that is not what was signed.

mod add;
mod catalogue;
mod error;
mod key;
mod manifest;
mod pack;
mod store;

pub use add::{add, publish};
pub use catalogue::catalogue;
pub use error::ImageError;
pub use key::{SigningKey, TrustedKey, key_pair};
pub use manifest::{About, Manifest, PARTS, Part, Signed};
pub use pack::pack;
pub use store::Images;

/// What every function here returns.
pub type Result<T> = std::result::Result<T, ImageError>;
