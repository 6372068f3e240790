//! `goulette bench disk`: what the disk itself does with writes that are each followed by a sync.
//!
//! Two kinds of file, because they differ by a factor on most file systems: one that grows with every write, where a
//! sync must record the new length too, and one whose every block has been written before. Our write-ahead log writes
//! into the second kind.

use std::{io, path::PathBuf, time::Duration};

use goulette_env::{DiskFile, Env, OpenMode};
use serde::Serialize;

use super::{mb_per_s, round};
use crate::{
    cli::DiskFlags,
    exit::Failure,
    output::{Output, Table, print, print_json},
};

const WRITE_BYTES: [usize; 3] = [4 << 10, 64 << 10, 1 << 20];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum FileKind {
    Growing,
    Preallocated,
}

/// The result of one measurement.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    file: FileKind,
    write_bytes: usize,
    writes: u64,
    pub(super) mb_per_s: f64,
    writes_per_s: f64,
    write_ms_p50: f64,
    write_ms_p99: f64,
    write_ms_p999: f64,
}

pub(crate) fn run(flags: &DiskFlags) -> Result<(), Failure> {
    let env = Env::real();
    let path = flags.dir.join(format!(".goulette-bench-disk.{}", std::process::id()));
    let mut bench =
        Bench { env, path, file_bytes: flags.file_bytes, duration: Duration::from_millis(flags.duration_ms) };
    let mut all = Vec::new();
    for write_bytes in WRITE_BYTES {
        for kind in [FileKind::Growing, FileKind::Preallocated] {
            let figures = bench.measure(kind, write_bytes);
            // Also after an error: nothing stays behind.
            let _ = bench.env.disk.remove_file(&bench.path);
            all.push(figures.map_err(|error| {
                Failure::failed(format_args!("cannot measure in {}: {error}", flags.dir.display()))
                    .hint("name a writable folder with -dir")
            })?);
        }
    }
    match flags.output {
        Output::Json => print_json(&all),
        Output::Text => print(&table(&all).to_string()),
    }
}

pub(super) struct Bench {
    pub(super) env: Env,
    pub(super) path: PathBuf,
    pub(super) file_bytes: u64,
    pub(super) duration: Duration,
}

impl Bench {
    /// Writes and syncs one block after the other until the time is over. Only writes and syncs are timed, not what
    /// prepares a file.
    pub(super) fn measure(&mut self, kind: FileKind, write_bytes: usize) -> io::Result<Figures> {
        let block = self.random_block(write_bytes);
        let file_bytes = self.file_bytes - self.file_bytes % write_bytes as u64;
        let mut latencies = super::latencies();
        let mut busy = Duration::ZERO;
        let mut file = self.new_file(kind, &block, file_bytes)?;
        let mut position = 0;
        while busy < self.duration {
            if position == file_bytes {
                position = 0;
                if kind == FileKind::Growing {
                    file = self.new_file(kind, &block, file_bytes)?;
                }
            }
            let before = self.env.clock.now();
            file.write_all_at(&block, position)?;
            file.sync_data()?;
            let took = self.env.clock.now().saturating_sub(before);
            latencies.saturating_record(took.as_nanos() as u64);
            busy += took;
            position += write_bytes as u64;
        }
        let (writes, seconds) = (latencies.len(), busy.as_secs_f64());
        let ms = |quantile| round(latencies.value_at_quantile(quantile) as f64 / 1e6);
        Ok(Figures {
            file: kind,
            write_bytes,
            writes,
            mb_per_s: mb_per_s(writes * write_bytes as u64, seconds),
            writes_per_s: round(writes as f64 / seconds),
            write_ms_p50: ms(0.5),
            write_ms_p99: ms(0.99),
            write_ms_p999: ms(0.999),
        })
    }

    fn new_file(&self, kind: FileKind, block: &[u8], file_bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let disk = &self.env.disk;
        if disk.exists(&self.path)? {
            disk.remove_file(&self.path)?;
        }
        let file = disk.open(&self.path, OpenMode::CreateNew)?;
        if kind == FileKind::Preallocated {
            // Reserving is not enough: blocks that were never written cost the same as new ones.
            let large = block.repeat((1usize << 20).div_ceil(block.len()));
            let mut position = 0;
            while position < file_bytes {
                let length = (large.len() as u64).min(file_bytes - position);
                file.write_all_at(&large[..length as usize], position)?;
                position += length;
            }
            file.sync_data()?;
        }
        Ok(file)
    }

    /// Random, so that no layer below can save itself the work.
    fn random_block(&self, bytes: usize) -> Vec<u8> {
        let mut block = Vec::with_capacity(bytes);
        while block.len() < bytes {
            block.extend_from_slice(&self.env.random.next_u64().to_le_bytes());
        }
        block.truncate(bytes);
        block
    }
}

fn table(all: &[Figures]) -> Table {
    let mut table = Table::new(&["write", "file", "MB/s", "writes/s", "p50 ms", "p99 ms", "p99.9 ms"]);
    for figures in all {
        table.row([
            format!("{} KiB", figures.write_bytes >> 10),
            format!("{:?}", figures.file).to_lowercase(),
            format!("{:.1}", figures.mb_per_s),
            format!("{:.0}", figures.writes_per_s),
            format!("{:.3}", figures.write_ms_p50),
            format!("{:.3}", figures.write_ms_p99),
            format!("{:.3}", figures.write_ms_p999),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_file_is_measured_and_wraps_around() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut bench =
            Bench { env: Env::real(), path: path.clone(), file_bytes: 10_000, duration: Duration::from_millis(5) };
        for kind in [FileKind::Growing, FileKind::Preallocated] {
            let figures = bench.measure(kind, 4096).unwrap();
            assert!(figures.writes > 0 && figures.mb_per_s > 0.0 && figures.write_ms_p50 > 0.0, "{figures:?}");
            assert_eq!(bench.env.disk.open(&path, OpenMode::Read).unwrap().len().unwrap() % 4096, 0);
        }
    }
}
