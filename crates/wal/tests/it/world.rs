//! A log on a simulated disk, and a model of what was sent and what was acknowledged.

use std::{path::Path, sync::mpsc, time::Duration};

use bytes::Bytes;
use goulette_env::{Random, sim::SimDisk, sim::SimRandom};
use goulette_wal::{
    Committed, Entry, OpenError, Payload, RecoverError, Recovery, Sink, Wal, WalError, WalOptions, WalPosition,
};

pub(crate) const DIR: &str = "/wal";
/// No wait of a test is longer; none of them is meant to come near.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// What a [`Sink`] hears.
#[derive(Debug)]
#[allow(dead_code, reason = "a failing test prints it all")]
pub(crate) enum Event {
    Committed { tag: u64, position: WalPosition, end: WalPosition },
    Failed(Vec<u64>, WalError),
}

pub(crate) struct Events(pub(crate) mpsc::Sender<Event>);

impl Sink<u64> for Events {
    fn committed(&mut self, entries: &mut Vec<Committed<u64>>) {
        for Committed { tag, position, end } in entries.drain(..) {
            let _ = self.0.send(Event::Committed { tag, position, end });
        }
    }

    fn failed(&mut self, tags: Vec<u64>, error: &WalError) {
        let _ = self.0.send(Event::Failed(tags, error.clone()));
    }
}

/// The smallest segments, so that a few groups fill one; nothing happens on another thread's time.
pub(crate) fn small() -> WalOptions {
    WalOptions { segment_bytes: 16 << 10, spare_segments_max: 2, prepare_inline: true, ..WalOptions::default() }
}

/// Something went wrong that a dying disk explains.
#[derive(Debug)]
pub(crate) struct Died;

/// What the log ought to hold.
#[derive(Clone, Default)]
pub(crate) struct Model {
    /// Payloads in order; the index is the tag.
    pub(crate) sent: Vec<Bytes>,
    /// So many of them must be found.
    pub(crate) acknowledged: usize,
    /// The position of the first one that is still needed, and its tag.
    pub(crate) from: Option<(WalPosition, usize)>,
    /// Counts openings: the same tag never has the same payload in two of them.
    life: u64,
}

impl Model {
    /// The payload for a tag in this life, at most 6 KiB long; some are empty, some of the same length in all lives.
    pub(crate) fn payload(&self, tag: usize) -> Bytes {
        let random = SimRandom::from_seed((self.life << 32) + tag as u64);
        let length = match tag % 5 {
            0 => 0,
            1 => 700,
            2 => random.next_u64() % 60,
            3 => 3_000 + random.next_u64() % 3_000,
            _ => random.next_u64() % 900,
        };
        (0..length).map(|_| random.next_u64() as u8).collect()
    }

    /// Reads the log and checks it: what was acknowledged, or more that was sent, in order. What was read is from now
    /// on as good as acknowledged.
    pub(crate) fn recover(&mut self, disk: &SimDisk, options: WalOptions) -> Result<Recovery, RecoverError> {
        let (from, mut tag) = self.from.map_or((None, 0), |(from, tag)| (Some(from), tag));
        let sent = &self.sent;
        let recovery = Wal::<u64>::recover(&disk.env(), Path::new(DIR), options, from, &mut |entry| {
            assert!(tag < sent.len(), "entry {tag} was never sent");
            assert_eq!(entry.payload, sent[tag], "entry {tag}");
            assert_eq!(entry.kind, tag as u8);
            assert!(entry.position < entry.end);
            tag += 1;
            Ok(())
        })?;
        assert!(tag >= self.acknowledged, "{} were acknowledged, {tag} found", self.acknowledged);
        assert_eq!(recovery.lost, None);
        self.sent.truncate(tag);
        self.acknowledged = tag;
        Ok(recovery)
    }

    pub(crate) fn open(&mut self, disk: &SimDisk, options: WalOptions) -> Result<Session, Died> {
        let recovery = self.recover(disk, options).map_err(|error| died(disk, &error))?;
        self.life += 1;
        let (sender, events) = mpsc::channel();
        match Wal::open(recovery, Box::new(Events(sender))) {
            Ok(wal) => Ok(Session { wal, events }),
            Err(error @ OpenError::Io { .. }) => Err(died(disk, &error)),
            Err(error) => panic!("{error}"),
        }
    }
}

fn died(disk: &SimDisk, error: &dyn std::error::Error) -> Died {
    let source = error.source().map(ToString::to_string).unwrap_or_default();
    let explained = source.contains("os error 5") || source.contains("no storage space");
    assert!(disk.is_stopped() || explained, "{error}: {source}");
    Died
}

/// An open log.
pub(crate) struct Session {
    pub(crate) wal: Wal<u64>,
    pub(crate) events: mpsc::Receiver<Event>,
}

impl Session {
    /// Appends a group of `count` entries and waits for it.
    pub(crate) fn group(&self, model: &mut Model, count: usize) -> Result<WalPosition, Died> {
        let first = model.sent.len();
        for tag in first..first + count {
            model.sent.push(model.payload(tag));
        }
        let entries = (first..first + count).map(|tag| entry(model, tag)).collect();
        self.wal.append_all(entries).map_err(|_| Died)?;
        let mut start = None;
        for expected in first..first + count {
            match self.events.recv_timeout(DEADLINE).expect("a group completes or fails in time") {
                Event::Committed { tag, position, .. } => {
                    assert_eq!(tag, expected as u64);
                    start.get_or_insert(position);
                    model.acknowledged = expected + 1;
                }
                Event::Failed(tags, _) => {
                    assert_eq!(tags, (expected as u64..(first + count) as u64).collect::<Vec<_>>());
                    return Err(Died);
                }
            }
        }
        Ok(start.unwrap())
    }
}

/// The entry for a tag, its payload in up to three pieces.
pub(crate) fn entry(model: &Model, tag: usize) -> Entry<u64> {
    let payload = &model.sent[tag];
    let head = payload.len().min(tag % 40);
    let middle = head + (payload.len() - head) / 3;
    let payload = Payload::new(&payload[..head]).with(payload.slice(head..middle)).with(payload.slice(middle..));
    Entry { kind: tag as u8, payload, tag: tag as u64 }
}
