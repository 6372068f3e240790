//! Where the broker is in its life, for everyone who has to know.

use std::fmt;

use goulette_log::OtherCluster;
use goulette_types::ErrorKind;
use tokio::sync::watch;

/// From the opened port to the closed log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not registered yet, or what was assigned is not in force yet.
    Starting,
    Serving,
    /// Told to stop: finishes what it has accepted, and takes nothing more.
    Stopping,
    /// Must not go on.
    Failed(StopReason),
}

/// Why a broker stopped by itself. The process has to exit; only a new start may serve the data again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The storage engine cannot promise anything any more: a write or a sync failed.
    Poisoned(String),
    /// The sentinel refuses this broker: another process has its id, or it belongs to another cluster.
    Refused {
        /// What the sentinel says it is.
        kind: ErrorKind,
        /// The sentinel's words.
        message: String,
    },
    /// The sentinel belongs to another cluster than the data.
    OtherCluster(OtherCluster),
    /// The disk has lost what was committed of a partition. The directory has a new storage id, so that the next start
    /// fetches everything from the other replicas before it counts again.
    LostData(String),
    /// The server that listens for clients ended.
    Server(String),
}

impl StopReason {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Poisoned(_) | Self::Server(_) => ErrorKind::Internal,
            Self::LostData(_) => ErrorKind::Corrupt,
            Self::Refused { kind, .. } => *kind,
            Self::OtherCluster(error) => error.kind(),
        }
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poisoned(reason) => write!(out, "the storage engine failed: {reason}"),
            Self::Refused { message, .. } => write!(out, "the sentinel refuses this broker: {message}"),
            Self::OtherCluster(error) => error.fmt(out),
            Self::LostData(partition) => {
                write!(out, "its disk has lost committed records of {partition}: start it again, and it fetches them")
            }
            Self::Server(reason) => write!(out, "the gRPC server ended: {reason}"),
        }
    }
}

/// The phase, and the ways to wait for a change of it.
pub(crate) struct Lifecycle {
    phase: watch::Sender<Phase>,
}

impl Lifecycle {
    pub(crate) fn new() -> Self {
        Self { phase: watch::Sender::new(Phase::Starting) }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// For a stream that has to end when the broker does.
    pub(crate) fn signal(&self) -> StopSignal {
        StopSignal { phase: self.phase.subscribe() }
    }

    /// Registered, and all that was assigned is in force. Tells whether it was starting before.
    pub(crate) fn serve(&self) -> bool {
        self.advance(|phase| *phase == Phase::Starting, Phase::Serving)
    }

    pub(crate) fn stop(&self) -> bool {
        self.advance(|phase| matches!(phase, Phase::Starting | Phase::Serving), Phase::Stopping)
    }

    /// The first reason stands.
    pub(crate) fn fail(&self, reason: StopReason) -> bool {
        self.advance(|phase| !matches!(phase, Phase::Failed(_)), Phase::Failed(reason))
    }

    fn advance(&self, from: impl FnOnce(&Phase) -> bool, to: Phase) -> bool {
        self.phase.send_if_modified(|phase| {
            let moves = from(phase);
            if moves {
                *phase = to;
            }
            moves
        })
    }
}

/// One listener's wait for the end.
pub(crate) struct StopSignal {
    phase: watch::Receiver<Phase>,
}

impl StopSignal {
    /// Resolves once the broker stops, wanted or not.
    pub(crate) async fn stopping(&mut self) {
        // An error means that the broker is gone, which is a stop too.
        let _ = self.phase.wait_for(|phase| matches!(phase, Phase::Stopping | Phase::Failed(_))).await;
    }

    /// Whether [`stopping`](Self::stopping) would resolve at once.
    pub(crate) fn is_stopping(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Stopping | Phase::Failed(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_broker_never_serves_again() {
        let life = Lifecycle::new();
        assert!(life.serve());
        assert!(life.fail(StopReason::Poisoned("x".into())));
        assert!(!life.serve() && !life.stop());
        assert!(!life.fail(StopReason::Server("y".into())), "the first reason stands");
        assert_eq!(life.phase(), Phase::Failed(StopReason::Poisoned("x".into())));
    }
}
