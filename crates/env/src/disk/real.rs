//! The machine's own file system.

use std::{
    fs,
    io::{self, IoSlice},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::Path,
};

use rustix::{fs as sys, io::Errno};

use super::{Disk, DiskFile, DiskLock, Entry, OpenMode};

/// The machine's own file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;
