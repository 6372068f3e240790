//! The data folder of a new cluster's member, made from a snapshot.

use goulette_env::{Disk, DiskFile};

use super::{StartError, identity};
use crate::{
    config::Config,
    raft::{cluster_id, initial_configuration},
    snapshot::{self, RestoreError, RestoreOptions, Restored, RestoredMember},
    store::tables,
};

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The folder is somebody's.
    #[error("data-dir {path:?} not empty or could not be read")]
    NotEmpty {
        /// The folder.
        path: String,
    },
    /// The flags.
    #[error(transparent)]
    Flags(#[from] StartError),
    /// The snapshot, or the disk.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The disk.
    #[error("cannot make the data folder")]
    Io(#[from] std::io::Error),
}

/// Makes the folder of the member that the flags describe, with what the snapshot `file` holds; see
/// [`RestoreOptions`] for the other arguments. Blocks.
///
/// A folder that an interrupted restore left is taken; any other that is not empty is refused.
///
/// # Errors
/// [`MakeError`]; then there is no member to start.
pub fn restore(
    disk: &dyn Disk,
    file: &dyn DiskFile,
    config: &Config,
    skip_hash_check: bool,
    bump_revision: Option<u64>,
) -> Result<Restored, MakeError> {
    let dir = &config.data_dir;
    let folder = dir.join("member/store");
    let strangers = |names: Vec<goulette_env::disk::Entry>, known: &str| names.iter().any(|entry| entry.name != known);
    let is_taken = disk.exists(dir)?
        && (strangers(disk.read_dir(dir)?, "member")
            || disk.exists(&dir.join("member"))? && strangers(disk.read_dir(&dir.join("member"))?, "store")
            || disk.exists(&folder.join(tables::FILE_NAME))?);
    if is_taken {
        return Err(MakeError::NotEmpty { path: dir.display().to_string() });
    }
    let members = identity::first_members(config)?;
    let named = identity::named(config)?;
    let options = RestoreOptions {
        skip_hash_check,
        bump_revision,
        cluster: cluster_id(&members.iter().map(|member| member.id).collect::<Vec<_>>()),
        member: identity::own_id(config)?,
        configuration: initial_configuration(&members),
        members: members
            .into_iter()
            .zip(named)
            .map(|(member, (name, peer_urls))| RestoredMember { id: member.id, name, peer_urls })
            .collect(),
    };
    disk.create_dir_all(&folder)?;
    Ok(snapshot::restore(disk, file, &folder, &options)?)
}
