//! Reads random records of a large file with every reader and prints GB/s: `readers [DIRECTORY [GIB [RECORD_KB [DEPTH]]]]`.
//!
//! The file is made in DIRECTORY (the current one), used and removed. Runs alternate, because disks are shared and noisy; the
//! first column is what the caller waited for, the last what the processors spent.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use flashmill_layout::{Extent, FileId};
use flashmill_store::{Files, Order, ReaderKind, Records, Store, StoreOptions};

const PICKS: usize = 8;
const ROUNDS: usize = 3;
const SECONDS: u64 = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let directory = PathBuf::from(args.next().unwrap_or_else(|| ".".to_owned()));
    let bytes = args.next().map_or(Ok(8), |text| text.parse::<u64>())? << 30;
    let record_bytes = args.next().map_or(Ok(1_800), |text| text.parse::<u64>())? * 1000;
    let depth = args.next().map_or(Ok(StoreOptions::default().depth), |text| text.parse())?;

    let file = make_file(&directory, bytes)?;
    let paths = [file.path().to_owned()];
    println!(
        "{bytes} bytes in records of {record_bytes}, {PICKS} a fetch, depth {depth}, unaligned, page cache dropped before each run"
    );
    for parts in [1, 9] {
        for round in 0..ROUNDS {
            for reader in [ReaderKind::Uring, ReaderKind::Pread, ReaderKind::PageCache] {
                let files = Arc::new(Files::open(&paths)?);
                drop_cached(&file)?;
                let records = records(bytes, record_bytes, parts);
                let options =
                    StoreOptions { reader, depth, slot_bytes: 256 << 20, ..StoreOptions::default() };
                let mut store = Store::open(files, records, &options)?;
                measure(&mut store, (bytes / record_bytes) as u32 - 1, parts, round)?;
            }
        }
    }
    Ok(())
}

/// A file of bytes that no disk can guess, written through to the disk.
fn make_file(directory: &std::path::Path, bytes: u64) -> Result<tempfile::NamedTempFile, Box<dyn Error>> {
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    let mut block = vec![0u8; 8 << 20];
    let mut state = 1u64;
    for _ in 0..bytes / block.len() as u64 {
        for word in block.chunks_exact_mut(8) {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            word.copy_from_slice(&(state ^ (state >> 31)).to_le_bytes());
        }
        file.write_all(&block)?;
    }
    file.as_file().sync_all()?;
    Ok(file)
}

fn drop_cached(file: &tempfile::NamedTempFile) -> Result<(), Box<dyn Error>> {
    #[cfg(target_os = "linux")]
    rustix::fs::fadvise(file.as_file(), 0, None, rustix::fs::Advice::DontNeed)?;
    #[cfg(not(target_os = "linux"))]
    let _ = file;
    Ok(())
}

/// Records of `parts` parts that lie far apart, as in stacked tensors; parts start 24 bytes into a page.
fn records(bytes: u64, record_bytes: u64, parts: u64) -> Records {
    let n = bytes / record_bytes - 1;
    let part_bytes = record_bytes / parts;
    let extents = (0..n)
        .flat_map(|at| (0..parts).map(move |part| (part * n + at) * part_bytes + 24))
        .map(|offset| Extent { file: FileId(0), offset, len: part_bytes });
    let mut records = Records::new();
    records.push_layer(parts as usize, extents.collect());
    records
}

fn measure(store: &mut Store, n_records: u32, parts: u64, round: usize) -> Result<(), Box<dyn Error>> {
    let mut state = round as u64;
    let mut checksum = 0u64;
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    while begun.elapsed().as_secs() < SECONDS {
        let mut picks = [0; PICKS];
        for (at, pick) in picks.iter_mut().enumerate() {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            *pick = (state >> 33) as u32 % (n_records / PICKS as u32) * PICKS as u32 + at as u32;
        }
        let mut fetch = store.fetch(0, &picks, Order::Arrival)?;
        while let Some((_, lease)) = fetch.next()? {
            checksum = checksum.wrapping_add(u64::from(lease.part(0)[0]));
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let stats = store.stats();
    println!(
        "{parts} part(s)  {:5.2} GB/s of records  {:5.2} from the device  {} reads, median {} us, p99 {} us  {:.3} cpu-s a GB  {} ({checksum:x})",
        stats.bytes_read as f64 / 1e9 / seconds,
        stats.bytes_from_device as f64 / 1e9 / seconds,
        stats.reads,
        stats.latency.percentile_us(500),
        stats.latency.percentile_us(990),
        (cpu_seconds() - cpu) / (stats.bytes_read as f64 / 1e9),
        store.reader_name(),
    );
    Ok(())
}

/// Seconds of processor time of this process, user and system.
#[cfg(unix)]
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(not(unix))]
fn cpu_seconds() -> f64 {
    f64::NAN
}
