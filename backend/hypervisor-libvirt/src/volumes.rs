//! Volumes: one storage pool a class, one libvirt volume a volume, named by its id.

use std::str::FromStr;

use fairmazon_hypervisor::{HypervisorError, Result, Volume};
use fairmazon_model::{host::Capacity, id::VolumeId, machine::HostVolume, units::Gib};
use virt::{connect::Connect, storage_pool::StoragePool, storage_vol::StorageVol};

use crate::{
    LibvirtError,
    error::{failed, is_missing, is_unsupported},
    xml,
};

const GIB: u64 = 1 << 30;

/// The pools of one connection.
#[derive(Debug)]
pub(crate) struct Volumes {
    pools: Vec<Pool>,
    /// The volumes hold no data, so that growing one may make it anew.
    hollow: Hollow,
}

/// Whether volumes hold data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hollow {
    /// They hold none: libvirt's test driver.
    Yes,
}

#[derive(Debug)]
struct Pool {
    class: String,
    room: Gib,
    pool: StoragePool,
}

impl Volumes {
    /// Makes the pools of every storage class that are not there.
    pub(crate) fn open(
        connection: &Connect,
        capacity: &Capacity,
        folder: &str,
        hollow: Hollow,
    ) -> std::result::Result<Self, LibvirtError> {
        let open = |(class, &room): (&String, &Gib)| {
            let name = xml::pool_name(class);
            let pool = pool(connection, &name, &format!("{folder}/{class}"))
                .map_err(|source| LibvirtError::Pool { pool: name, source })?;
            Ok(Pool { class: class.clone(), room, pool })
        };
        let pools = capacity.storage.iter().map(open).collect::<std::result::Result<_, _>>()?;
        Ok(Self { pools, hollow })
    }

    pub(crate) fn list(&self) -> Result<Vec<Volume>> {
        let mut volumes = Vec::new();
        for pool in &self.pools {
            for found in listed(pool)? {
                let name = found.name().map_err(failed("read the name of a volume"))?;
                // What is not named by an id of the platform is not the platform's.
                if let Ok(volume) = VolumeId::from_str(&name) {
                    volumes.push(Volume { volume, size: size(&found)?, damage: None });
                }
            }
        }
        volumes.sort_unstable_by_key(|found| found.volume);
        Ok(volumes)
    }

    pub(crate) fn volume(&self, volume: VolumeId) -> Result<Option<Volume>> {
        match self.find(volume)? {
            Some((_, found)) => Ok(Some(Volume { volume, size: size(&found)?, damage: None })),
            None => Ok(None),
        }
    }

    /// The pool that a volume is in.
    pub(crate) fn pool_of(&self, volume: VolumeId) -> Result<Option<String>> {
        Ok(self.find(volume)?.map(|(pool, _)| xml::pool_name(&pool.class)))
    }

    pub(crate) fn create(&self, wish: &HostVolume) -> Result<()> {
        if self.find(wish.volume)?.is_some() {
            return Ok(());
        }
        let full = || HypervisorError::Full { what: format!("storage of class `{}`", wish.class) };
        let pool = self.pools.iter().find(|pool| pool.class == wish.class).ok_or_else(full)?;
        require_room(pool, wish.size)?;
        make(pool, wish.volume, wish.size)
    }

    pub(crate) fn grow(&self, volume: VolumeId, to: Gib) -> Result<()> {
        let missing = || HypervisorError::not_found(volume);
        let (pool, found) = self.find(volume)?.ok_or_else(missing)?;
        let had = size(&found)?;
        if had >= to {
            return Ok(());
        }
        require_room(pool, to.saturating_sub(had))?;
        match found.resize(to.0.saturating_mul(GIB), 0) {
            Err(error) if is_unsupported(&error) && self.hollow == Hollow::Yes => {
                found.delete(0).map_err(failed(format!("grow {volume}")))?;
                make(pool, volume, to)
            }
            other => other.map_err(failed(format!("grow {volume}"))),
        }
    }

    pub(crate) fn delete(&self, volume: VolumeId) -> Result<()> {
        let Some((_, found)) = self.find(volume)? else { return Ok(()) };
        match found.delete(0) {
            Err(error) if is_missing(&error) => Ok(()),
            other => other.map_err(failed(format!("delete {volume}"))),
        }
    }

    fn find(&self, volume: VolumeId) -> Result<Option<(&Pool, StorageVol)>> {
        let name = volume.to_string();
        for pool in &self.pools {
            match pool.pool.lookup_storage_vol_by_name(&name) {
                Ok(found) => return Ok(Some((pool, found))),
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(failed(format!("look {volume} up"))(error)),
            }
        }
        Ok(None)
    }
}

fn make(pool: &Pool, volume: VolumeId, size: Gib) -> Result<()> {
    let xml = xml::volume(&volume.to_string(), size);
    let made = StorageVol::create_xml(&pool.pool, &xml, 0);
    made.map(drop).map_err(failed(format!("make {volume}")))
}

/// Volumes take their room as they are written to, so what was promised is what counts.
fn require_room(pool: &Pool, more: Gib) -> Result<()> {
    let mut promised = Gib(0);
    for found in listed(pool)? {
        promised = promised.saturating_add(size(&found)?);
    }
    if promised.saturating_add(more) > pool.room {
        return Err(HypervisorError::Full { what: format!("storage of class `{}`", pool.class) });
    }
    Ok(())
}

fn listed(pool: &Pool) -> Result<Vec<StorageVol>> {
    pool.pool.list_all_volumes(0).map_err(failed("list its volumes"))
}

fn size(volume: &StorageVol) -> Result<Gib> {
    let info = volume.info().map_err(failed("read the size of a volume"))?;
    Ok(Gib(info.capacity / GIB))
}

fn pool(
    connection: &Connect,
    name: &str,
    folder: &str,
) -> std::result::Result<StoragePool, virt::error::Error> {
    let pool = match connection.lookup_storage_pool_by_name(name) {
        Ok(pool) => pool,
        Err(_) => connection.define_storage_pool_xml(&xml::pool(name, folder), 0)?,
    };
    if !pool.is_active()? {
        pool.create(0)?;
    }
    Ok(pool)
}
