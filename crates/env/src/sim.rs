//! A simulated world for tests: [`SimDisk`], [`SimClock`] and [`SimRandom`]. The same seed gives the same world.

mod clock;
mod disk;
mod machine;
mod random;

pub use clock::SimClock;
pub use disk::SimDisk;
pub use machine::{Faults, Operation, Unsynced};
pub use random::SimRandom;
