//! The machine's own disk, with all threads on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use goulette_env::Env;
use goulette_log::{AppendError, Log, LogOptions, Partition, WalOptions};
use goulette_types::Offset;

use crate::support::*;

fn busy() -> LogOptions {
    LogOptions {
        wal: WalOptions { segment_bytes: 256 << 10, ..WalOptions::default() },
        roll: crate::support::roll(100 << 10),
        unflushed_bytes_max: 400 << 10,
        direct_bytes: 4 << 10,
        tail_cache_bytes: 100 << 10,
        flush_bytes: 8 << 10,
        flush_age: Duration::from_millis(2),
        checkpoint_bytes: 300 << 10,
        checkpoint_interval: Duration::from_millis(20),
        ..LogOptions::default()
    }
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Appends batches of one producer, again while the log is busy; returns its values.
fn produce(partition: &Arc<Partition>, producer: u64, first: u32, count: u32) -> Vec<String> {
    let mut all = Vec::new();
    let mut waiting = Vec::new();
    for sequence in first..first + count {
        let value = format!("{producer} {sequence} {}", "x".repeat((sequence as usize * 13) % 700));
        all.push(value.clone());
        loop {
            let outcome = send(partition, EPOCH, batch_of(producer, 0, sequence, &[&value]));
            match outcome.try_recv() {
                Ok(Err(AppendError::Busy)) => std::thread::yield_now(),
                Ok(Err(other)) => panic!("{other}"),
                Ok(Ok(_)) => break,
                Err(_) => {
                    waiting.push(outcome);
                    break;
                }
            }
        }
        if waiting.len() >= 16 {
            waiting.remove(0).recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
        }
    }
    for outcome in waiting {
        outcome.recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
    }
    all
}

/// Follows a partition until `stop`, checking that it sees each offset once, in order.
fn follow(partition: &Partition, stop: &AtomicBool) -> u64 {
    let mut from = partition.start();
    loop {
        let stopping = stop.load(Ordering::Acquire);
        let batches = match partition.read_cached(from, Offset::MAX, 64 << 10) {
            Some(batches) => batches,
            None => partition.read(from, Offset::MAX, 64 << 10).unwrap(),
        };
        for batch in &batches {
            assert_eq!(batch.base_offset(), from);
            from = batch.next_offset();
        }
        if batches.is_empty() {
            if stopping {
                return from.0;
            }
            std::thread::yield_now();
        }
    }
}

#[test]
fn concurrent_producers_and_readers_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let (partitions, producers, count) = (2, 3, 400);
    let mut sent = vec![Vec::new(); (partitions * producers) as usize];
    for life in 0..3u32 {
        let (log, report) = Log::open(Env::real(), dir.path(), busy()).unwrap();
        assert_eq!(report.lost, None);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Whatever happens, so that the readers end.
            let stopper = StopOnDrop(&stop);
            let mut writers = Vec::new();
            let mut readers = Vec::new();
            for index in 0..partitions {
                let partition = log.create_partition(id(7, index), &topic("busy")).unwrap();
                for producer in 0..producers {
                    let partition = partition.clone();
                    let number = u64::from(index * producers + producer);
                    writers.push(scope.spawn(move || produce(&partition, number, life * count, count)));
                }
                let stop = &stop;
                readers.push((partition.clone(), scope.spawn(move || follow(&partition, stop))));
            }
            for (writer, sent) in writers.into_iter().zip(&mut sent) {
                sent.extend(writer.join().unwrap());
            }
            drop(stopper);
            for (partition, reader) in readers {
                assert_eq!(reader.join().unwrap(), partition.end().0);
            }
        });
        // One orderly end, the other ones not.
        if life == 1 {
            log.close().unwrap();
        }
    }
    let (log, _) = Log::open(Env::real(), dir.path(), busy()).unwrap();
    for index in 0..partitions {
        let found = values(&log.partition(id(7, index)).unwrap());
        assert_eq!(found.len(), (3 * producers * count) as usize);
        for producer in 0..producers {
            let number = index * producers + producer;
            let own: Vec<_> = found.iter().filter(|value| value.starts_with(&format!("{number} "))).collect();
            assert_eq!(own, sent[number as usize].iter().collect::<Vec<_>>());
        }
    }
    assert!(log.stats().tail_cache_bytes <= 100 << 10);
    log.close().unwrap();
}
