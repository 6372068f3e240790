//! What brokers say to each other, between the wire and the core's words.

use bytes::Bytes;
use goulette_proto::pb::{self, dismissed::Reason};
use goulette_records::{Batch, BatchError, Limits};
use goulette_replication::{LogEnd, Refused};
use goulette_types::{LeaderEpoch, Offset};

/// The largest batch that a log takes, and what a frame has besides.
pub(super) const MESSAGE_BYTES_MAX: usize = (1 << 30) + (2 << 20);

pub(super) fn epoch_end(end: LogEnd) -> pb::EpochEnd {
    pb::EpochEnd { epoch: end.epoch.0, end: end.end.0 }
}

pub(super) fn log_end(end: &pb::EpochEnd) -> LogEnd {
    LogEnd { epoch: LeaderEpoch(end.epoch), end: offset(end.end) }
}

/// An offset from a peer, which is no more to be trusted than any other number from the network.
pub(super) fn offset(given: u64) -> Offset {
    Offset(given).min(Offset::MAX)
}

pub(super) fn batch_to_wire(batch: &Batch) -> pb::Batch {
    pb::Batch { header: Bytes::copy_from_slice(&batch.header_bytes()), records: batch.records().clone() }
}

pub(super) fn batches(sent: Vec<pb::Batch>) -> Result<Vec<Batch>, BatchError> {
    sent.into_iter().map(|batch| Batch::parse(&batch.header, batch.records, &Limits::WIDEST)).collect()
}

pub(super) fn dismissed(handle: u32, why: &Refused) -> pb::Dismissed {
    let reason = match why {
        Refused::OtherEpoch { .. } => Reason::OtherEpoch,
        Refused::NotReplica => Reason::NoReplica,
        Refused::NoHandshake => Reason::NoHandshake,
        Refused::BeyondEnd { .. } | Refused::WentBack { .. } => Reason::Impossible,
        Refused::LostData { .. } => Reason::LostData,
    };
    pb::Dismissed { handle, reason: reason.into(), message: why.to_string() }
}

/// The core's word for a dismissal; none for those that only mean the other stream.
pub(super) fn refused(reason: Reason, given: LeaderEpoch) -> Option<Refused> {
    Some(match reason {
        Reason::Behind | Reason::CaughtUp => return None,
        Reason::NoReplica => Refused::NotReplica,
        Reason::LostData => Refused::LostData { given: Offset::ZERO, committed: Offset::ZERO },
        Reason::Impossible => Refused::BeyondEnd { given: Offset::ZERO, end: Offset::ZERO },
        Reason::OtherEpoch => Refused::OtherEpoch { given, current: None },
        Reason::NoHandshake | Reason::Unreadable | Reason::Unspecified => Refused::NoHandshake,
    })
}
