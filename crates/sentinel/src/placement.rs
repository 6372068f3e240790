//! Who is to hold a new partition.

use std::collections::BTreeMap;

use goulette_types::BrokerId;

/// Chooses among live brokers: the one that holds the fewest partitions, the least id among equals.
///
/// `load` has every live broker with the partitions that it holds; the choice is counted in it, so that repeated
/// calls spread.
pub(crate) fn choose(load: &mut BTreeMap<BrokerId, usize>) -> Option<BrokerId> {
    let (broker, partitions) = load.iter_mut().min_by_key(|(_, partitions)| **partitions)?;
    *partitions += 1;
    Some(broker.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emptiest_broker_gets_the_next_partition() {
        let id = |name: &str| name.parse::<BrokerId>().unwrap();
        let mut load = BTreeMap::from([(id("b1"), 2), (id("b2"), 0), (id("b3"), 1)]);
        let chosen: Vec<_> = (0..5).map(|_| choose(&mut load).unwrap().to_string()).collect();
        assert_eq!(chosen, ["b2", "b2", "b3", "b1", "b2"]);
        assert_eq!(choose(&mut BTreeMap::new()), None);
    }
}
