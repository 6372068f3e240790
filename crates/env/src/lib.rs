//! The outside world as three small traits: [`Disk`], [`Clock`] and [`Random`].
//!
//! Cores and the storage engine take them as arguments, so that a test can put a simulated world in their place
//! (feature `sim`) and a seed replays a run. The real ones are [`RealDisk`], [`RealClock`] and [`RealRandom`]. No code
//! outside of this crate opens a data file, reads a clock or draws a random number in the crates below the shells.
//!
//! Start with [`disk`]: what it says about durability is what the storage engine is built on.

pub mod clock;
pub mod disk;
pub mod random;
#[cfg(feature = "sim")]
pub mod sim;

use std::sync::Arc;

pub use clock::{Clock, RealClock};
pub use disk::{Disk, DiskFile, DiskLock, Entry, FileSystem, OpenMode, RealDisk, VolumeKind};
pub use random::{Random, RealRandom};

/// The world that a component lives in; cheap to clone.
#[derive(Clone)]
pub struct Env {
    /// Files and folders.
    pub disk: Arc<dyn Disk>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
}

impl Env {
    /// The machine's own disk, clock and randomness.
    pub fn real() -> Self {
        Self { disk: Arc::new(RealDisk), clock: Arc::new(RealClock::new()), random: Arc::new(RealRandom) }
    }
}
