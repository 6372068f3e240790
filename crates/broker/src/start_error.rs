//! Why a broker did not start.

use std::{io, net::SocketAddr};

use goulette_admin_http::BindError;
use goulette_log::{OpenError, REMEMBERED_BATCHES};
use goulette_types::ErrorKind;

use crate::StopReason;

/// Why a broker did not start; the text is one line and says what to do. Nothing runs, and nothing was lost.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A producer could send more than the log remembers.
    #[error("{given} batches in flight are too many: the log recognises the last {REMEMBERED_BATCHES} of a producer")]
    BatchesInFlight {
        /// As given.
        given: u32,
    },
    /// A sentinel's address cannot be dialled.
    #[error("sentinel address {address:?} is not host:port")]
    SentinelAddress {
        /// As given.
        address: String,
    },
    /// There is nobody to register at.
    #[error("no sentinel address is given: a broker needs one to register at")]
    NoSentinel,
    /// The data directory, or what is in it.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Another process listens there.
    #[error("address {address} is in use: stop what listens there, or give another -address")]
    AddressInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The system does not let us listen there.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The admin port cannot be opened.
    #[error(transparent)]
    Admin(#[from] BindError),
    /// The broker gave up before it had started.
    #[error("{0}")]
    Stopped(StopReason),
}

impl StartError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            StartError::BatchesInFlight { .. } | StartError::SentinelAddress { .. } | StartError::NoSentinel => {
                ErrorKind::Invalid
            }
            StartError::Open(error) => error.kind(),
            StartError::AddressInUse { .. } => ErrorKind::Conflict,
            StartError::Listen { .. } => ErrorKind::Unavailable,
            StartError::Admin(error) => error.kind(),
            StartError::Stopped(reason) => reason.kind(),
        }
    }
}
