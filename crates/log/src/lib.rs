//! The storage engine: a directory in, offsets out. Partitions are kept as fragments over one shared WAL.
//!
//! An append is durable, and answered, when the WAL has it; the batch then stands in memory, where most readers find it,
//! and is carried into its fragment later, in large writes. Where much comes at once for a partition it goes straight to
//! its fragment, and only a reference to it into the WAL. A checkpoint makes the fragments durable and lets the WAL go.
//! After a crash the checkpoint and the WAL behind it tell everything; what else lies on the disk counts for nothing.
//!
//! Knows nothing of replication, of topics' settings, of the wire. Synchronous: the WAL has a thread, the flusher, the
//! checkpointer and retention have one each, and callers bring their own. What comes back from a call holds no lock, and
//! closures are called without one.
//!
//! Start with [`Log`] and [`Partition`], then follow a batch: `append` gives it its place, `gatherer` chooses the way to its
//! `fragment` (`direct`, or through the WAL), `applier` makes it readable
//! when it is durable, `flusher` writes it to its `fragment`, `checkpointer` makes that stick, `recovery` does it all
//! again from what is left, and `retention` ends its life. Formats: `docs/formats/`.

use std::sync::{Mutex, MutexGuard};

mod log;
mod options;

mod append;
mod applier;
mod direct;
mod engine;
mod flusher;
mod gatherer;
mod handles;
mod partition;
mod producers;
mod read;
mod tail_cache;

mod checkpointer;
mod clock_watch;
mod fragment_pool;
mod recovery;
mod retention;
mod space;
mod truncate;

mod repair;
mod replay;
mod replica;

mod quarantine;
mod scrub;
mod source;
mod tidy;
mod trigger;

mod checkpoint;
mod checkpoint_file;
mod codec;
mod entry;
mod epochs;
mod error;
mod fragment;
mod identity;
mod index;
mod reference;

mod inspect;

pub use append::{AppendDone, Appended, Placed};
pub use applier::PositionDone;
pub use engine::PoisonListener;
pub use epochs::EpochStart;
pub use error::{AppendError, ChangeError, FlushError, OpenError, Poisoned, ReadError};
pub use goulette_wal::{SyncPolicy, WalOptions, WalStats, segment_name};
pub use identity::{Identity, OtherCluster};
pub use inspect::{Contents, Damage, Dumped, InspectError, Inspection, PartitionFacts, Selection, Verified, WalFacts};
pub use log::{JoinError, Log, LogStats};
pub use options::{LogOptions, Roll};
pub use partition::{EndListener, Partition};
pub use producers::REMEMBERED_BATCHES;
pub use quarantine::{QuarantineListener, QuarantinedRange};
pub use recovery::RecoveryReport;
pub use repair::RepairError;
pub use retention::{Retention, RetentionEvent, RetentionListener};
pub use scrub::{ScrubOptions, ScrubStats};
pub use space::{SpaceEvent, SpaceListener, SpaceOptions, SpaceStats};
pub use truncate::TruncateError;

/// Takes a lock. Nobody panics while holding one: release builds abort, and in tests the panic is the story.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics while holding a lock")
}
