//! Which partition a record goes to.

use goulette_records::partition_for_key;
use goulette_types::PartitionIndex;

/// Kafka's choice: by the key's hash, or else the same partition for a whole batch, then the next one. Few large batches
/// instead of many small ones, and equal shares over time.
#[derive(Debug)]
pub(crate) struct Partitioner {
    /// Where records without a key go for now.
    sticky: usize,
    /// By partition: whether somebody leads it.
    led: Vec<bool>,
}

impl Partitioner {
    /// `led` is not empty. `random` decides where to start, so that many producers do not start at the same place.
    pub(crate) fn new(led: Vec<bool>, random: u64) -> Self {
        let sticky = (random % led.len() as u64) as usize;
        let mut partitioner = Self { sticky, led };
        partitioner.prefer_led();
        partitioner
    }

    pub(crate) fn partitions(&self) -> usize {
        self.led.len()
    }

    pub(crate) fn choose(&self, key: Option<&[u8]>) -> PartitionIndex {
        match key {
            Some(key) => partition_for_key(key, self.led.len() as u32),
            None => PartitionIndex(self.sticky as u32),
        }
    }

    /// A batch of `partition` is closed: time to move on, if it was the one.
    pub(crate) fn batch_closed(&mut self, partition: PartitionIndex) {
        if partition.0 as usize == self.sticky {
            self.sticky = (self.sticky + 1) % self.led.len();
            self.prefer_led();
        }
    }

    /// The routes have changed; a topic never has fewer partitions than before.
    pub(crate) fn set_led(&mut self, led: Vec<bool>) {
        self.led = led;
        self.prefer_led();
    }

    /// A record without a key need not wait for a leader while another partition has one.
    fn prefer_led(&mut self) {
        let next = (0..self.led.len()).map(|step| (self.sticky + step) % self.led.len());
        self.sticky = next.into_iter().find(|&index| self.led[index]).unwrap_or(self.sticky);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_without_a_key_stay_with_a_partition_for_one_batch() {
        let mut partitioner = Partitioner::new(vec![true; 3], 4);
        assert_eq!(partitioner.choose(None), PartitionIndex(1));
        partitioner.batch_closed(PartitionIndex(0));
        assert_eq!(partitioner.choose(None), PartitionIndex(1));
        partitioner.batch_closed(PartitionIndex(1));
        assert_eq!(partitioner.choose(None), PartitionIndex(2));
        partitioner.batch_closed(PartitionIndex(2));
        assert_eq!(partitioner.choose(None), PartitionIndex(0));
    }

    #[test]
    fn a_partition_without_a_leader_is_passed_over() {
        let mut partitioner = Partitioner::new(vec![true, false, true], 1);
        assert_eq!(partitioner.choose(None), PartitionIndex(2));
        partitioner.set_led(vec![false, false, false, true]);
        assert_eq!(partitioner.choose(None), PartitionIndex(3));
        partitioner.set_led(vec![false; 4]);
        assert_eq!(partitioner.choose(None), PartitionIndex(3));
    }

    #[test]
    fn a_key_keeps_its_partition_whoever_leads() {
        let partitioner = Partitioner::new(vec![false; 10], 0);
        assert_eq!(partitioner.choose(Some(b"21")), partition_for_key(b"21", 10));
    }
}
