//! Measures the disk and the way to the broker.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom, Write},
    net::{TcpStream, ToSocketAddrs},
    path::Path,
    time::{Duration, Instant},
};

use rand::RngCore;
use tonic::transport::Uri;

use crate::standard::facts::{DiskSpeed, Fact};

const CHUNK: usize = 64 << 10;
/// How much is written in one go, in chunks: 64 MiB.
const CHUNKS: u32 = 1_024;
/// How often a little is written.
const SYNCS: usize = 64;
const LITTLE: usize = 4 << 10;
/// No small writes are begun after this time: a slow disk is known to be one by then.
const SYNCS_LONGEST: Duration = Duration::from_secs(5);
/// How often a connection is opened.
const TRIES: usize = 5;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// How fast the disk of a folder is. The file has no name, so that nothing stays of it.
pub(super) fn disk(folder: &Path) -> Fact<DiskSpeed> {
    measure_disk(folder)
        .map_err(|error| format!("{} can't be written to: {error}", folder.display()))
}

fn measure_disk(folder: &Path) -> io::Result<DiskSpeed> {
    let mut file = tempfile::tempfile_in(folder)?;
    // Random, for filesystems that compress.
    let mut chunk = vec![0; CHUNK];
    rand::rng().fill_bytes(&mut chunk);
    let begun = Instant::now();
    for number in 0..CHUNKS {
        chunk[..4].copy_from_slice(&number.to_le_bytes());
        file.write_all(&chunk)?;
    }
    file.sync_data()?;
    let taken = begun.elapsed();
    let megabytes = f64::from(CHUNKS) * CHUNK as f64 / 1e6;
    Ok(DiskSpeed {
        megabytes_per_second: (megabytes / taken.as_secs_f64().max(1e-6)) as u64,
        sync: syncs(&mut file, &chunk[..LITTLE])?,
    })
}

fn syncs(file: &mut File, little: &[u8]) -> io::Result<Duration> {
    let begun = Instant::now();
    let mut times = Vec::with_capacity(SYNCS);
    while times.len() < SYNCS && begun.elapsed() < SYNCS_LONGEST {
        // Each time elsewhere, as what is spread over a volume.
        let at = (times.len() * 37 % CHUNKS as usize) * CHUNK;
        file.seek(SeekFrom::Start(at as u64))?;
        let one = Instant::now();
        file.write_all(little)?;
        file.sync_data()?;
        times.push(one.elapsed());
    }
    Ok(median(times))
}

/// How long it takes to the broker and back: a TCP connection is open after one round trip.
pub(super) fn round_trip(broker: &str) -> Fact<Duration> {
    let uri: Uri = broker.parse().map_err(|error| format!("`{broker}` is no URL: {error}"))?;
    let host = uri.host().ok_or_else(|| format!("`{broker}` names no host: https://HOST:PORT"))?;
    let port = uri.port_u16().unwrap_or(443);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let failed = |error: io::Error| format!("{host} port {port} can't be reached: {error}");
    let addresses: Vec<_> = (host, port).to_socket_addrs().map_err(failed)?.collect();
    let mut last = io::Error::other("it has no address");
    for address in addresses {
        let tries: io::Result<Vec<_>> = (0..TRIES)
            .map(|_| {
                let begun = Instant::now();
                TcpStream::connect_timeout(&address, PATIENCE).map(|_| begun.elapsed())
            })
            .collect();
        match tries {
            Ok(times) => return Ok(median(times)),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or(Duration::MAX)
}
