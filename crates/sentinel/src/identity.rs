//! Whose folder it is: `sentinel.json`.

use std::{io, path::Path};

use goulette_env::{Disk, OpenMode};
use goulette_types::SentinelId;
use serde::{Deserialize, Serialize};

use crate::StartError;

const VERSION: u32 = 1;
const NAME: &str = "sentinel.json";
const BYTES_MAX: u64 = 4096;

#[derive(Serialize, Deserialize)]
struct Identity {
    version: u32,
    sentinel_id: String,
}

/// Refuses a folder that is another sentinel's, and only reads: before the store is opened, which writes. True if the
/// folder is `id`'s, false if it is nobody's.
///
/// # Errors
/// [`StartError::FolderOfAnother`], [`StartError::Identity`].
pub(crate) fn check(disk: &dyn Disk, folder: &Path, id: &SentinelId) -> Result<bool, StartError> {
    let path = folder.join(NAME);
    match read(disk, &path).map_err(|source| StartError::Identity { path, source })? {
        Some(owner) if owner != *id => {
            Err(StartError::FolderOfAnother { folder: folder.to_path_buf(), owner, id: id.clone() })
        }
        owner => Ok(owner.is_some()),
    }
}

/// Makes sure that the folder is `id`'s: takes it if it is nobody's. The caller holds the folder's lock.
///
/// # Errors
/// As [`check`].
pub(crate) fn claim(disk: &dyn Disk, folder: &Path, id: &SentinelId) -> Result<(), StartError> {
    if !check(disk, folder, id)? {
        write(disk, folder, id).map_err(|source| StartError::Identity { path: folder.join(NAME), source })?;
    }
    Ok(())
}

fn read(disk: &dyn Disk, path: &Path) -> io::Result<Option<SentinelId>> {
    match disk.exists(path) {
        Ok(true) => {}
        Ok(false) => return Ok(None),
        // A folder that cannot be is nobody's; whoever makes it says so best.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
        Err(error) => return Err(error),
    }
    let file = disk.open(path, OpenMode::Read)?;
    let length = file.len()?;
    if length > BYTES_MAX {
        return Err(invalid(format!("it has {length} bytes, which no sentinel wrote")));
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0)?;
    let identity: Identity = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
    if identity.version > VERSION {
        return Err(invalid(format!(
            "it has format {}, this binary knows formats up to {VERSION}: use a newer binary",
            identity.version
        )));
    }
    identity.sentinel_id.parse().map(Some).map_err(|error: goulette_types::NameError| invalid(error.to_string()))
}

/// Written whole under another name first, so that a crash leaves either no file or a whole one.
fn write(disk: &dyn Disk, folder: &Path, id: &SentinelId) -> io::Result<()> {
    let identity = Identity { version: VERSION, sentinel_id: id.to_string() };
    let bytes = serde_json::to_vec(&identity)?;
    let draft = folder.join(format!("{NAME}.tmp"));
    let file = disk.open(&draft, OpenMode::CreateOrOpen)?;
    file.set_len(0)?;
    file.write_all_at(&bytes, 0)?;
    file.sync_data()?;
    disk.rename(&draft, &folder.join(NAME))?;
    disk.sync_dir(folder)
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
