//! How much may be unacknowledged at a time.

/// Counts what is unacknowledged, in records and in bytes.
#[derive(Debug)]
pub(crate) struct Window {
    records_max: usize,
    bytes_max: usize,
    records: usize,
    bytes: usize,
}

impl Window {
    pub(crate) fn new(records_max: usize, bytes_max: usize) -> Self {
        Self { records_max, bytes_max, records: 0, bytes: 0 }
    }

    /// Whether one more record may be taken. The last one may overshoot the bytes: so a large record never starves
    /// behind small ones, and one that is larger than the window can be sent at all.
    pub(crate) fn has_room(&self) -> bool {
        self.records < self.records_max && self.bytes < self.bytes_max
    }

    pub(crate) fn take(&mut self, bytes: usize) {
        self.records += 1;
        self.bytes += bytes;
    }

    pub(crate) fn give_back(&mut self, records: usize, bytes: usize) {
        self.records -= records;
        self.bytes -= bytes;
    }

    /// Records that are unacknowledged.
    pub(crate) fn records(&self) -> usize {
        self.records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_bounds_records_and_bytes() {
        let mut window = Window::new(2, 100);
        window.take(10);
        assert!(window.has_room());
        window.take(10);
        assert!(!window.has_room());
        window.give_back(2, 20);
        window.take(500);
        assert!(!window.has_room());
        window.give_back(1, 500);
        assert!(window.has_room());
    }
}
