//! Repair: batches that another replica still has go back to where they stood.
//!
//! Replicas hold the same batches byte for byte, though not in the same fragments. So what a damaged range lacks is known
//! by its offsets, and fits exactly into its bytes, or it is not what stood there.

use std::{io, path::PathBuf};

use goulette_env::OpenMode;
use goulette_records::Batch;
use goulette_types::ErrorKind;

use crate::{lock, partition::Partition, quarantine::QuarantinedRange};

/// Why a range was not repaired. It stays quarantined.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The range is not there any more: it was removed, or repaired.
    #[error("the range is not quarantined any more")]
    Gone,
    /// The batches are not those that stood there.
    #[error("the batches given do not fit: {reason}")]
    Unfit {
        /// What is wrong with them.
        reason: String,
    },
    /// They could not be written, or not made durable.
    #[error("cannot write to {}: {source}", path.display())]
    Io {
        /// The fragment.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl RepairError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            RepairError::Gone => ErrorKind::NotFound,
            RepairError::Unfit { .. } => ErrorKind::Conflict,
            RepairError::Io { .. } => ErrorKind::Internal,
        }
    }
}

impl Partition {
    /// Writes batches back into a damaged range, which they fill, and takes it out of quarantine; durable on return. A
    /// crash on the way leaves the range damaged, as it was. Blocks on the disk.
    ///
    /// # Errors
    /// See [`RepairError`].
    pub fn repair(&self, range: &QuarantinedRange, batches: &[Batch]) -> Result<(), RepairError> {
        self.check_fit(range, batches).map_err(|reason| RepairError::Unfit { reason })?;
        let kept = {
            let state = lock(self.state());
            state.fragments.iter().find(|kept| kept.fragment.path() == range.file).cloned()
        };
        let kept = kept.filter(|kept| range.bytes.end <= u64::from(kept.state.length)).ok_or(RepairError::Gone)?;
        let quarantine = &self.engine().quarantine;
        if quarantine.holding(self.id(), kept.state.number, range.offsets.start).as_ref() != Some(range) {
            return Err(RepairError::Gone);
        }
        let mut bytes = Vec::with_capacity((range.bytes.end - range.bytes.start) as usize);
        for batch in batches {
            bytes.extend_from_slice(&batch.header_bytes());
            bytes.extend_from_slice(batch.records());
        }
        let disk = &*self.engine().env.disk;
        let written = disk.open(&range.file, OpenMode::Write).and_then(|file| {
            file.write_all_at(&bytes, range.bytes.start)?;
            file.sync_data()
        });
        written.map_err(|source| RepairError::Io { path: range.file.clone(), source })?;
        quarantine.forget(self.id(), kept.state.number, range);
        Ok(())
    }

    /// Whether the batches are consecutive, of the epochs that wrote these offsets, and fill offsets and bytes.
    fn check_fit(&self, range: &QuarantinedRange, batches: &[Batch]) -> Result<(), String> {
        let epochs = lock(self.state()).epochs.clone();
        let (mut next, mut bytes) = (range.offsets.start, 0);
        for batch in batches {
            if batch.base_offset() != next {
                return Err(format!("one begins at offset {} instead of {next}", batch.base_offset()));
            }
            if batch.leader_epoch() != epochs.at(next) {
                return Err(format!("the one at offset {next} is of another leader epoch"));
            }
            next = batch.next_offset();
            bytes += batch.encoded_bytes() as u64;
        }
        let wanted = range.bytes.end - range.bytes.start;
        if next != range.offsets.end || bytes != wanted {
            return Err(format!(
                "they end at offset {next} with {bytes} bytes, wanted were {} with {wanted}",
                range.offsets.end
            ));
        }
        Ok(())
    }
}
