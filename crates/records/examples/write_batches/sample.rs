//! Records of every shape, for judges outside: the log written by `write_batches`, and what a client sends.

use bytes::Bytes;
use goulette_records::RecordHeader;
use goulette_types::Timestamp;

/// A record that depends on its offset alone.
pub(crate) struct Sample {
    pub(crate) timestamp: Timestamp,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<RecordHeader>,
}

impl Sample {
    pub(crate) fn new(n: u64) -> Self {
        let key = match n % 7 {
            0 => None,
            1 => Some(String::new()),
            _ => Some(format!("key-{}-é", n % 1000)),
        };
        let value = match n % 11 {
            0 => None,
            1 => Some(String::new()),
            2 => Some(format!("several\nlines of {n}\n")),
            3 => Some(format!("value {n}, 消息, payload: ").repeat((n % 97) as usize)),
            _ => Some(format!("value {n} ").repeat((n % 23) as usize)),
        };
        let headers = (0..n % 4)
            .map(|i| RecordHeader {
                key: Bytes::from(format!("header-{i}")),
                value: (i != 1).then(|| Bytes::from(vec![i as u8; (n % 50) as usize])),
            })
            .collect();
        // Not in order: deltas are negative too.
        let timestamp = Timestamp(1_700_000_000_000 + n as i64 * 10 - (n as i64 % 13) * 40);
        Self { timestamp, key: key.map(Bytes::from), value: value.map(Bytes::from), headers }
    }
}
