//! Starting, stopping, and the sentinel's coming and going.
