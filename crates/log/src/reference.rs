//! A reference: the WAL entry of batches that stand in their fragment already, synced.
//!
//! It carries the batches' headers. So recovery knows offsets, epochs, producers and lengths without reading the fragment,
//! and what does not match them later is corrupt, never torn: the entry was written only when the bytes were durable.
//! Layout: `docs/formats/wal-entries.md`.

use bytes::{BufMut, Bytes, BytesMut};
use goulette_records::{HEADER_BYTES, Header};
use goulette_types::Offset;
use goulette_wal::Payload;

use crate::{
    codec::Reader,
    entry::Head,
    fragment::{Fragment, Stored},
    partition::Partition,
};

/// What stands behind the head: where the fragment begins, and the headers of consecutive batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) fragment_base: Offset,
    /// At least one.
    pub(crate) headers: Vec<Header>,
}

impl Reference {
    /// The most batches that a payload of so many bytes names.
    pub(crate) fn batches_max(payload_bytes_max: u32) -> usize {
        (payload_bytes_max as usize).saturating_sub(Head::BYTES + size_of::<u64>()) / HEADER_BYTES
    }

    /// The entry of consecutive batches of one fragment; none of no batch.
    pub(crate) fn payload(partition: &Partition, fragment: &Fragment, run: &[Stored]) -> Option<Payload> {
        let (first, last) = (run.first()?, run.last()?);
        let head = Head {
            partition: partition.id(),
            fragment: first.fragment,
            position: first.position.into(),
            offset: first.batch.base_offset(),
            epoch: last.batch.leader_epoch().expect("an appended batch has its epoch"),
            appended: last.appended,
        };
        let mut rest = BytesMut::with_capacity(size_of::<u64>() + run.len() * HEADER_BYTES);
        rest.put_u64(fragment.base().0);
        for stored in run {
            rest.put_slice(&stored.batch.header_bytes());
        }
        Some(Payload::new(&head.to_bytes()).with(rest.freeze()))
    }

    /// Reads what stands behind the head, or says what is wrong with it.
    pub(crate) fn decode(head: &Head, rest: &Bytes) -> Result<Self, String> {
        let mut reader = Reader::new(rest);
        let fragment_base = reader.u64().map(Offset).map_err(|_| "names no fragment")?;
        let (headers, []) = reader.rest().as_chunks::<HEADER_BYTES>() else {
            return Err("ends within a header".into());
        };
        let headers = headers.iter().map(Header::parse).collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
        let mut position = head.position;
        let mut expected = head.offset;
        for header in &headers {
            if header.base_offset != expected || header.leader_epoch.is_none() {
                return Err(format!("names a batch at {} instead of {expected}", header.base_offset));
            }
            expected = header.next_offset();
            position += header.encoded_bytes() as u64;
        }
        let last = headers.last().ok_or("names no batch")?;
        if last.leader_epoch != Some(head.epoch) || fragment_base > head.offset || u32::try_from(position).is_err() {
            return Err("names another place than its batches".into());
        }
        Ok(Self { fragment_base, headers })
    }
}
