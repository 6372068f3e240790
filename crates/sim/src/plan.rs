//! What a run is made of: drawn from its seed, so that runs differ in kind and not only in chance (swarm testing).

use crate::{
    random::Random,
    time::{Time, millis, seconds},
};

/// The shape of one run. Chances are per mille: of a message, or of a moment at which faults are drawn.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) brokers: u8,
    pub(crate) replicas: u8,
    pub(crate) sentinels: u8,
    pub(crate) producers: u8,
    pub(crate) consumers: u8,
    pub(crate) min_wanted: Option<u32>,
    /// Faults happen until then.
    pub(crate) faults_until: Time,
    /// A fault is drawn this often.
    pub(crate) fault_every: Time,
    pub(crate) loss: u64,
    pub(crate) repeats: u64,
    pub(crate) breaks: u64,
    pub(crate) store_lost: u64,
    /// Kinds of faults and their weights.
    pub(crate) weights: [u64; KINDS],
    /// The slowest sync without a fault.
    pub(crate) sync: Time,
    /// How wrong clocks may run, per mille.
    pub(crate) drift: u64,
    /// The mean pause between a producer's records.
    pub(crate) pause: Time,
    /// Whether so many other partitions are concerned that this one is settled in a transaction after that which changes a broker.
    pub(crate) crowded: bool,
    /// Whether a checkpoint keeps up with `committed`.
    pub(crate) checkpoints: u64,
}

pub(crate) const KINDS: usize = 15;

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x706c_616e);
        let brokers = [3, 3, 3, 4, 5][random.below(5) as usize];
        let replicas = if random.chance(80) { random.between(1, 3) } else { 3 } as u8;
        let mut weights = [0; KINDS];
        for weight in &mut weights {
            // A third of the kinds is absent from a run, so that the others have room.
            *weight = if random.chance(330) { 0 } else { random.between(1, 10) };
        }
        let level = random.below(4);
        Self {
            brokers,
            replicas,
            sentinels: [1, 2, 3, 3][random.below(4) as usize],
            producers: random.between(1, 4) as u8,
            consumers: random.between(1, 3) as u8,
            min_wanted: [None, None, None, Some(1), Some(2), Some(u32::from(replicas))][random.below(6) as usize]
                .map(|minimum: u32| minimum.min(u32::from(replicas))),
            faults_until: seconds(random.between(20, 60)),
            fault_every: millis([300, 1000, 2000, 4000][random.below(4) as usize]),
            loss: [0, 2, 20, 80][level as usize],
            repeats: [0, 10, 50][random.below(3) as usize],
            breaks: [0, 1, 5, 20][random.below(4) as usize],
            store_lost: [0, 5, 30, 100][random.below(4) as usize],
            weights,
            sync: millis([1, 5, 30][random.below(3) as usize]),
            drift: [0, 10, 200][random.below(3) as usize],
            pause: millis([5, 20, 60][random.below(3) as usize]),
            crowded: random.chance(500),
            checkpoints: random.between(0, 300),
        }
    }
}
