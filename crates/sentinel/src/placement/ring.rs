//! The consistent-hash ring (Karger et al., 1997) with virtual nodes and bounded loads (Mirrokni, Thorup, Zadimoghaddam,
//! 2016).
//!
//! A broker stands on the ring at many points, a partition at one; walking on from there, the partition goes to the first
//! brokers that have room. So a broker that comes or goes moves about its own share and little else, and none carries more
//! than a quarter over the mean. What is hashed, and how, is fixed by golden vectors: every sentinel, whatever its
//! version, must build the same ring.

use std::collections::BTreeMap;

use goulette_types::{BrokerId, PartitionId};
use xxhash_rust::xxh3::xxh3_64;

/// Points of a broker of weight 1.
pub(crate) const POINTS: u32 = 150;

/// What the ring knows of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its share beside the others'; 1 or more.
    pub(crate) weight: u32,
    /// Replicas of one partition avoid each other's racks while there are others.
    pub(crate) rack: Option<String>,
}

impl Default for Member {
    fn default() -> Self {
        Self { weight: 1, rack: None }
    }
}

/// Partitions that each broker carries; replicas count each.
pub(crate) type Load = BTreeMap<BrokerId, usize>;

/// Partitions that each broker may carry at most.
#[derive(Debug)]
pub(crate) struct Bounds<'a>(BTreeMap<&'a BrokerId, usize>);

/// The ring of the brokers that may be given partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ring {
    members: BTreeMap<BrokerId, Member>,
    /// Sorted; equal points, which nobody has seen, by broker.
    points: Vec<(u64, BrokerId)>,
}

impl Ring {
    pub(crate) fn new(members: BTreeMap<BrokerId, Member>) -> Self {
        let mut points: Vec<_> = members
            .iter()
            .flat_map(|(broker, member)| {
                let count = POINTS * member.weight.max(1);
                (0..count).map(move |number| (point(broker, number), broker.clone()))
            })
            .collect();
        points.sort_unstable();
        Self { members, points }
    }

    /// The brokers that it is made of.
    pub(crate) fn members(&self) -> &BTreeMap<BrokerId, Member> {
        &self.members
    }

    /// The brokers for a partition's replicas, first the one that leads by preference: distinct, of distinct racks as long
    /// as there are enough, none loaded beyond its bound as long as one has room. Fewer than `replicas` only if there are
    /// fewer brokers. The choice is counted in `load`.
    pub(crate) fn place(
        &self,
        partition: PartitionId,
        replicas: usize,
        bounds: &Bounds<'_>,
        load: &mut Load,
    ) -> Vec<BrokerId> {
        self.place_beside(partition, &[], replicas, bounds, load)
    }

    /// As [`place`](Self::place), but keeps the brokers that hold the partition already, and adds others up to `replicas`.
    pub(crate) fn place_beside(
        &self,
        partition: PartitionId,
        kept: &[BrokerId],
        replicas: usize,
        bounds: &Bounds<'_>,
        load: &mut Load,
    ) -> Vec<BrokerId> {
        let walk: Vec<_> = self.walk(partition).collect();
        let mut chosen: Vec<BrokerId> = kept.to_vec();
        // What cannot all be had is given up in this order: distinct racks, then room, then both.
        for (needs_rack, needs_room) in [(true, true), (false, true), (true, false), (false, false)] {
            for &broker in &walk {
                if chosen.len() >= replicas {
                    break;
                }
                let rack_is_new = || match &self.members[broker].rack {
                    Some(rack) => {
                        let rack_of =
                            |other: &BrokerId| self.members.get(other).and_then(|member| member.rack.as_ref());
                        !chosen.iter().any(|other| rack_of(other) == Some(rack))
                    }
                    None => true,
                };
                let has_room = || load.get(broker).copied().unwrap_or(0) < bounds.0[broker];
                if !chosen.contains(broker) && (!needs_rack || rack_is_new()) && (!needs_room || has_room()) {
                    chosen.push(broker.clone());
                }
            }
        }
        for broker in &chosen[kept.len()..] {
            *load.entry(broker.clone()).or_default() += 1;
        }
        chosen
    }

    /// The brokers in the order in which a partition meets them, each once.
    fn walk(&self, partition: PartitionId) -> impl Iterator<Item = &BrokerId> {
        let hash = partition_hash(partition);
        let first = self.points.partition_point(|&(at, _)| at < hash);
        let round = self.points[first..].iter().chain(&self.points[..first]).map(|(_, broker)| broker);
        let mut met = std::collections::HashSet::with_capacity(self.members.len());
        round.filter(move |&broker| met.insert(broker)).take(self.members.len())
    }

    /// What each broker may carry once so many more replicas are placed: 1.25 times its fair share, and at least one.
    ///
    /// Of many partitions that are placed together all are told before the first: a bound that grew with each would push
    /// early ones from where a larger or smaller ring would put them.
    pub(crate) fn bounds(&self, replicas: usize, load: &Load) -> Bounds<'_> {
        let carried: usize = self.members.keys().filter_map(|broker| load.get(broker)).sum();
        let total = (carried + replicas) as u128;
        let weights: u128 = self.members.values().map(|member| u128::from(member.weight.max(1))).sum();
        let bound = |member: &Member| {
            let share = total * 5 * u128::from(member.weight.max(1)) / (weights * 4);
            usize::try_from(share).unwrap_or(usize::MAX).max(1)
        };
        Bounds(self.members.iter().map(|(broker, member)| (broker, bound(member))).collect())
    }
}

/// XXH3 (64 bits, no seed) of the broker's id, a NUL and the point's number as four big-endian bytes.
fn point(broker: &BrokerId, number: u32) -> u64 {
    let mut bytes = broker.as_str().as_bytes().to_vec();
    bytes.push(0);
    bytes.extend_from_slice(&number.to_be_bytes());
    xxh3_64(&bytes)
}

/// XXH3 of the topic's id and the partition's index, both big-endian: 20 bytes.
fn partition_hash(partition: PartitionId) -> u64 {
    let mut bytes = [0; 20];
    bytes[..16].copy_from_slice(&partition.topic.to_bytes());
    bytes[16..].copy_from_slice(&partition.index.0.to_be_bytes());
    xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use goulette_types::{PartitionIndex, TopicId};

    use super::*;

    const TOPIC: TopicId = TopicId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);

    fn id(number: usize) -> BrokerId {
        format!("broker{number}").parse().unwrap()
    }

    fn partition(index: u32) -> PartitionId {
        PartitionId { topic: TOPIC, index: PartitionIndex(index) }
    }

    fn members(brokers: usize) -> BTreeMap<BrokerId, Member> {
        (1..=brokers).map(|number| (id(number), Member::default())).collect()
    }

    fn place_all(ring: &Ring, partitions: u32, replicas: usize) -> (Vec<Vec<BrokerId>>, Load) {
        let mut load = Load::new();
        let bounds = ring.bounds(partitions as usize * replicas, &load);
        let placed = (0..partitions).map(|index| ring.place(partition(index), replicas, &bounds, &mut load)).collect();
        (placed, load)
    }

    /// Computed by another program, with the reference implementation of XXH3. If this fails, sentinels of two versions
    /// would place differently.
    #[test]
    fn golden_vectors() {
        assert_eq!(point(&id(1), 0), GOLDEN_POINTS[0]);
        assert_eq!(point(&id(1), 149), GOLDEN_POINTS[1]);
        assert_eq!(point(&"b.x_Y-9".parse().unwrap(), 7), GOLDEN_POINTS[2]);
        assert_eq!(partition_hash(partition(0)), GOLDEN_POINTS[3]);
        assert_eq!(partition_hash(partition(9_999)), GOLDEN_POINTS[4]);
        let (placed, _) = place_all(&Ring::new(members(5)), 8, 3);
        let shown: Vec<_> = placed
            .iter()
            .map(|replicas| replicas.iter().map(|broker| &broker.as_str()[6..]).collect::<Vec<_>>().join(""))
            .collect();
        assert_eq!(shown, GOLDEN_PLACES);
    }

    const GOLDEN_POINTS: [u64; 5] =
        [1509677989389890556, 10945466072182471043, 18132239609509831892, 12464367232340764215, 16824535699784632375];
    const GOLDEN_PLACES: [&str; 8] = ["452", "312", "124", "135", "345", "432", "134", "521"];

    #[test]
    fn no_broker_carries_more_than_a_quarter_over_the_mean() {
        for brokers in [3, 5, 10, 30] {
            for replicas in [1, 3] {
                let (placed, load) = place_all(&Ring::new(members(brokers)), 1_000, replicas);
                let mean = 1_000.0 * replicas as f64 / brokers as f64;
                let most = load.values().max().copied().unwrap() as f64;
                println!("{brokers} brokers, factor {replicas}: most {most}, mean {mean:.1}, ratio {:.3}", most / mean);
                assert!(most <= 1.25 * mean);
                for replicas_of_one in placed {
                    let distinct: std::collections::BTreeSet<_> = replicas_of_one.iter().collect();
                    assert_eq!(distinct.len(), replicas);
                }
            }
        }
    }

    /// Replicas that stand elsewhere when a broker has joined or left, over all replicas; averaged over every broker that
    /// could be the one.
    #[test]
    fn a_join_or_leave_moves_little_more_than_one_share() {
        for brokers in [3usize, 5, 10, 30] {
            for replicas in [1usize, 3] {
                let all = members(brokers + 1);
                let (with_all, _) = place_all(&Ring::new(all.clone()), 1_000, replicas);
                let mut moves = Vec::new();
                for gone in all.keys() {
                    let mut rest = all.clone();
                    rest.remove(gone);
                    let (without, _) = place_all(&Ring::new(rest), 1_000, replicas);
                    let pairs = with_all.iter().zip(&without);
                    let kept: usize = pairs
                        .map(|(before, after)| before.iter().filter(|broker| after.contains(broker)).count())
                        .sum();
                    moves.push(1.0 - kept as f64 / (1_000 * replicas) as f64);
                }
                // n brokers with the one that comes or goes.
                let n = (brokers + 1) as f64;
                let mean = moves.iter().sum::<f64>() / moves.len() as f64;
                let worst = moves.iter().copied().fold(0.0, f64::max);
                println!(
                    "{n} brokers, factor {replicas}: moved {mean:.3} ({:.2}/n), worst {:.2}/n",
                    mean * n,
                    worst * n
                );
                if brokers >= replicas {
                    assert!(mean * n <= 1.3, "{brokers} brokers, factor {replicas}: {:.2}/n", mean * n);
                }
            }
        }
    }

    #[test]
    fn weights_are_shares() {
        let mut members = members(4);
        members.insert(id(9), Member { weight: 4, rack: None });
        let (_, load) = place_all(&Ring::new(members), 1_000, 1);
        assert!((400..=625).contains(&load[&id(9)]), "{load:?}");
        assert!(load.values().filter(|&&carried| carried <= 157).count() == 4, "{load:?}");
    }

    #[test]
    fn replicas_stand_in_distinct_racks_while_there_are_enough() {
        let rack = |name: &str| Member { weight: 1, rack: Some(name.to_owned()) };
        let members: BTreeMap<_, _> =
            [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c")].map(|(number, name)| (id(number), rack(name))).into();
        let ring = Ring::new(members.clone());
        let racks = |replicas: &[BrokerId]| {
            replicas.iter().map(|broker| members[broker].rack.clone()).collect::<std::collections::BTreeSet<_>>().len()
        };
        let (placed, _) = place_all(&ring, 200, 2);
        assert!(placed.iter().all(|replicas| racks(replicas) == 2));
        // Three racks for four replicas: one rack twice, and still four brokers.
        let (placed, _) = place_all(&ring, 200, 4);
        assert!(placed.iter().all(|replicas| replicas.len() == 4 && racks(replicas) == 3));
    }

    #[test]
    fn there_may_be_fewer_brokers_than_replicas() {
        assert!(place_all(&Ring::default(), 1, 3).0[0].is_empty());
        let (placed, load) = place_all(&Ring::new(members(2)), 10, 3);
        assert!(placed.iter().all(|replicas| replicas.len() == 2));
        assert_eq!(load.values().copied().collect::<Vec<_>>(), [10, 10]);
    }
}
