//! The images of the catalogue against what needs them.
//!
//! A machine whose image is not in the catalogue would be told to no host, and would end there. So
//! an image that something needs is never taken away.

use std::{collections::BTreeMap, sync::Arc};

use fairmazon_model::{
    DomainError, ErrorKind,
    catalogue::{Catalogue, Image},
    volume::Volume,
};

use super::{engine::Engine, state::State};

/// The most that a refusal names.
const NAMED: usize = 10;

impl Engine {
    /// Whether the catalogue has every image that an instance needs, or a volume that is still to
    /// be filled.
    ///
    /// # Errors
    /// `Precondition` with the images that are missing, and how many need each.
    pub fn check_images(&self) -> Result<(), DomainError> {
        has_all(&self.state(), &self.catalogue())
    }

    /// Puts these images in the place of the catalogue's; what waits for a version that is there now
    /// is placed, and what runs stays as it is.
    ///
    /// # Errors
    /// `Precondition` when one is missing that something needs: the catalogue is then as before.
    pub fn sell_images(&self, images: Vec<Image>) -> Result<(), DomainError> {
        let mut state = self.state();
        let catalogue = Catalogue { images, ..Catalogue::clone(state.catalogue()) };
        has_all(&state, &catalogue)?;
        self.put_catalogue(&mut state, Arc::new(catalogue));
        state.room();
        Ok(())
    }
}

fn has_all(state: &State, catalogue: &Catalogue) -> Result<(), DomainError> {
    let instances = state.world.instances.iter().filter(|row| !row.goes() && !row.carrier);
    let to_be_filled = |row: &Volume| row.deleting.is_none() && !row.is_made();
    let volumes = state.world.volumes.iter().filter(|row| to_be_filled(row));
    let needed = instances
        .map(|row| &row.spec.image)
        .chain(volumes.filter_map(|row| row.spec.image.as_ref()));
    let mut missing: BTreeMap<&String, usize> = BTreeMap::new();
    for image in needed.filter(|image| catalogue.image(image).is_none()) {
        *missing.entry(image).or_default() += 1;
    }
    if missing.is_empty() {
        return Ok(());
    }
    let mut named: Vec<_> = missing
        .iter()
        .take(NAMED)
        .map(|(image, count)| format!("{} (by {count})", image.escape_debug()))
        .collect();
    if missing.len() > NAMED {
        named.push(format!("and {} more", missing.len() - NAMED));
    }
    let message = format!("images are needed that it has not: {}", named.join(", "));
    Err(DomainError::new(ErrorKind::Precondition, message)
        .advise("describe them again, under the ids and names that they had"))
}
