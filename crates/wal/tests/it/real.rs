//! On the machine's own disk.

use std::sync::mpsc;

use bytes::Bytes;
use goulette_env::Env;
use goulette_wal::{Committed, Entry, Payload, Sink, Wal, WalError, WalOptions};

struct Tags(mpsc::Sender<u64>);

impl Sink<u64> for Tags {
    fn committed(&mut self, entries: &mut Vec<Committed<u64>>) {
        for entry in entries.drain(..) {
            self.0.send(entry.tag).unwrap();
        }
    }

    fn failed(&mut self, _tags: Vec<u64>, error: &WalError) {
        panic!("{error}");
    }
}

#[test]
fn entries_come_back_over_many_segments_and_openings() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("wal");
    let options = WalOptions { segment_bytes: 64 << 10, ..WalOptions::default() };
    let mut sent = 0_u64;
    for opening in 0..4 {
        let mut found = 0;
        let recovery = Wal::<u64>::recover(&Env::real(), &dir, options.clone(), None, &mut |entry| {
            assert_eq!(entry.payload, payload(found).concat());
            found += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!((found, recovery.entries, recovery.torn, recovery.lost.clone()), (sent, sent, None, None));
        let (done, completed) = mpsc::channel();
        let wal = Wal::open(recovery, Box::new(Tags(done))).unwrap();
        for _ in 0..100 {
            let [head, body] = payload(sent);
            wal.append(Entry { kind: 7, payload: Payload::new(&head).with(body), tag: sent }).unwrap();
            sent += 1;
        }
        wal.close().unwrap();
        assert_eq!(completed.iter().collect::<Vec<_>>(), (opening * 100..sent).collect::<Vec<_>>());
    }
}

fn payload(number: u64) -> [Bytes; 2] {
    [Bytes::copy_from_slice(&number.to_le_bytes()), Bytes::from(vec![number as u8; (number * 37 % 5_000) as usize])]
}
