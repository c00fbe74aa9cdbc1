//! What machines have used: blocking calls, for the host's threads.

use std::{collections::BTreeMap, sync::Arc};

use fairmazon_hypervisor::{HypervisorError, Result, Statistics, Traffic};
use fairmazon_model::id::{InstanceId, VolumeId};
use virt::domain::{Domain, DomainInfo};

use super::{
    Network,
    host::Inner,
    session::Session,
    xml::{live_cards, live_disks},
};
use crate::{error::failed, note::Note, xml::mac};

impl Inner {
    /// What a machine has used in its run; none while it is off or not there.
    pub(super) fn statistics(
        &self,
        session: &Session,
        instance: InstanceId,
    ) -> Result<Option<Statistics>> {
        let known = session.measured.lock().get(&instance).cloned();
        let domain = match known {
            Some(domain) => domain,
            None => match session.domains.domain(instance)? {
                Some(domain) => Arc::new(domain),
                None => return Ok(None),
            },
        };
        let measured = self.measure_running(session, &domain).or_else(|error| {
            // One that has ended meanwhile, or runs again, is no failure. Looked up anew: a domain
            // keeps the number of the run that it was found in.
            match session.domains.domain(instance)? {
                Some(now)
                    if now.id() == domain.id() && session.domains.running(&now)?.is_some() =>
                {
                    Err(error)
                }
                _ => Ok(None),
            }
        });
        // One that has not been measured is looked up again the next time.
        let mut known = session.measured.lock();
        match &measured {
            Ok(Some(_)) => known.insert(instance, domain),
            Ok(None) | Err(_) => known.remove(&instance),
        };
        measured
    }

    fn measure_running(&self, session: &Session, domain: &Domain) -> Result<Option<Statistics>> {
        // One that comes has not run here yet.
        let Some((note, info)) = session.domains.running(domain)? else { return Ok(None) };
        self.measure(session, (domain, &info), &note).map(Some)
    }

    fn measure(
        &self,
        session: &Session,
        seen: (&Domain, &DomainInfo),
        Note { spec, in_flux, .. }: &Note,
    ) -> Result<Statistics> {
        let mut files = Vec::with_capacity(1 + spec.disks.len());
        for disk in spec.all_disks() {
            files.extend(self.files.find(disk.volume)?.map(|found| (disk.volume, found.path)));
        }
        // By what libvirt has them under as well, which spares its description of the machine.
        let names =
            files.iter().map(|(volume, path)| (*volume, path.to_string_lossy().into_owned()));
        let has_card = matches!(self.config.network, Network::Bridge(_));
        let cards = has_card.then(|| mac(spec)).into_iter().collect();
        if let Ok(measured) = self.read_counters(seen, spec.instance, (names.collect(), cards)) {
            return Ok(measured);
        }
        let attempted = failed(format!("measure what {} uses", spec.instance));
        let xml = seen.0.xml_desc(0).map_err(attempted)?;
        let (mut live, mut gone) = (Vec::new(), Vec::new());
        let plugged = live_disks(&xml);
        for (volume, path) in files {
            match plugged.iter().find(|disk| disk.file == path) {
                Some(disk) => live.push((volume, disk.device.clone())),
                None => gone.push(volume),
            }
        }
        if gone.iter().any(|volume| !in_flux.contains(volume)) {
            // Its guest has given a disk back that nobody had asked for.
            self.write(session, spec.instance, |note| note.in_flux.extend(gone))?;
        }
        self.read_counters(seen, spec.instance, (live, live_cards(&xml)))
    }

    /// Reads the counters of these disks and cards, by names that libvirt has for them.
    fn read_counters(
        &self,
        (domain, info): (&Domain, &DomainInfo),
        instance: InstanceId,
        (disks, cards): (Vec<(VolumeId, String)>, Vec<String>),
    ) -> Result<Statistics> {
        let attempted = || format!("measure what {instance} uses");
        let incarnation = self.seeds.incarnation(instance).map_err(|error| {
            HypervisorError::Driver { attempted: attempted(), source: error.into() }
        })?;
        let mut volumes = BTreeMap::new();
        for (volume, disk) in disks {
            let seen = domain.block_stats(&disk).map_err(failed(attempted()))?;
            volumes.insert(volume, traffic(seen.rd_bytes, seen.wr_bytes));
        }
        let mut network = Traffic::default();
        for card in cards {
            let seen = domain.interface_stats(&card).map_err(failed(attempted()))?;
            let seen = traffic(seen.rx_bytes, seen.tx_bytes);
            network.read_bytes += seen.read_bytes;
            network.written_bytes += seen.written_bytes;
        }
        let (cpu_ns, memory_bytes) = (info.cpu_time, info.memory.saturating_mul(1_024));
        Ok(Statistics { incarnation, cpu_ns, memory_bytes, volumes, network })
    }
}

/// libvirt has -1 for what it does not know.
fn traffic(read: i64, written: i64) -> Traffic {
    let known = |bytes| u64::try_from(bytes).unwrap_or(0);
    Traffic { read_bytes: known(read), written_bytes: known(written) }
}
