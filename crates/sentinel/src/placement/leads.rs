//! Who of a partition's replicas leads by preference.

use std::collections::BTreeMap;

use goulette_types::BrokerId;

use super::{Load, Member};

/// Spreads the preferred leaders: the ring evens out what brokers hold, and where each holds a replica of everything that
/// says nothing of who does the work.
#[derive(Debug)]
pub(crate) struct Leads {
    shares: BTreeMap<BrokerId, usize>,
    led: Load,
}

impl Leads {
    /// For partitions led by preference as `led` says, and so many more.
    pub(crate) fn new(members: &BTreeMap<BrokerId, Member>, led: Load, more: usize) -> Self {
        let total = led.values().sum::<usize>() + more;
        let weight = |member: &Member| u64::from(member.weight.max(1));
        let weights = members.values().map(weight).sum::<u64>().max(1);
        let share = |member: &Member| (total as u64 * weight(member)).div_ceil(weights) as usize;
        Self { shares: members.iter().map(|(broker, member)| (broker.clone(), share(member))).collect(), led }
    }

    /// Puts the one first that is to lead by preference: `present`, if it is among them, or else the first of them that has
    /// not its share of the leaderships yet; where all have theirs, the one with the fewest. The others keep their order.
    pub(crate) fn choose(&mut self, replicas: &mut [BrokerId], present: Option<&BrokerId>) {
        let led = |broker: &BrokerId| self.led.get(broker).copied().unwrap_or(0);
        let has_room = |broker: &BrokerId| led(broker) < self.shares.get(broker).copied().unwrap_or(0);
        let stays = replicas.iter().position(|broker| Some(broker) == present && has_room(broker));
        let first = stays.or_else(|| replicas.iter().position(has_room));
        let first = first.or_else(|| (0..replicas.len()).min_by_key(|&place| led(&replicas[place])));
        let Some(first) = first else { return };
        replicas[..=first].rotate_right(1);
        *self.led.entry(replicas[0].clone()).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(names: &str) -> Vec<BrokerId> {
        names.split(' ').map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn each_leads_its_share_and_keeps_what_it_leads() {
        let members: BTreeMap<_, _> = ids("a b c").into_iter().map(|id| (id, Member::default())).collect();
        let mut leads = Leads::new(&members, Load::new(), 6);
        let mut chosen = Vec::new();
        for present in [None, None, None, Some("a"), Some("c"), Some("c")] {
            let mut replicas = ids("a b c");
            leads.choose(&mut replicas, present.map(|id| id.parse().unwrap()).as_ref());
            chosen.push(replicas[0].to_string());
        }
        assert_eq!(chosen, ["a", "a", "b", "b", "c", "c"]);
    }

    #[test]
    fn a_heavier_one_leads_more_and_where_none_has_room_the_least_laden_does() {
        let mut members: BTreeMap<_, _> = ids("a b").into_iter().map(|id| (id, Member::default())).collect();
        members.insert("b".parse().unwrap(), Member { weight: 3, rack: None });
        let led = Load::from([("a".parse().unwrap(), 2)]);
        let mut leads = Leads::new(&members, led, 4);
        let mut replicas = ids("a b");
        leads.choose(&mut replicas, Some(&"a".parse().unwrap()));
        assert_eq!(replicas, ids("b a"));
        let mut alone = ids("a");
        leads.choose(&mut alone, None);
        assert_eq!(alone, ids("a"));
    }
}
