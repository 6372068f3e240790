//! How many files the process may have open: each connection is one, and each fragment that is written to or read.

use goulette_logging::warn;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for everything but fragments: connections, the WAL, log files.
const OTHERS: u64 = 4_096;

/// Raises the soft limit to the hard one, and returns it.
fn raise_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Where it is refused the old limit is in force.
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    current.unwrap_or(u64::MAX)
}

/// How many fragments may be kept open, out of `wanted`: fewer, with a warning, where the limit leaves no room for them.
pub(crate) fn fragment_handles(wanted: usize) -> usize {
    let (limit, needed) = (raise_limit(), OTHERS + wanted as u64);
    let granted = share(limit, wanted);
    if granted < wanted {
        warn!(
            "this process may open {limit} files: many partitions and connections need {needed}, so fragments are opened and \
             closed all the time; raise the hard limit (ulimit -Hn, or LimitNOFILE= of the systemd unit)"
        );
    }
    granted
}

fn share(limit: u64, wanted: usize) -> usize {
    // Half of few, and all but those for the others of many.
    let left = limit.saturating_sub(OTHERS).max(limit / 2);
    usize::try_from(left).unwrap_or(wanted).clamp(16, wanted.max(16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_get_what_they_want_or_what_others_leave() {
        assert_eq!(share(u64::MAX, 4_096), 4_096);
        assert_eq!(share(8_192, 4_096), 4_096);
        assert_eq!(share(20_000, 30_000), 15_904);
        assert_eq!(share(1_024, 4_096), 512);
        assert_eq!(share(3, 4_096), 16);
    }
}
