//! Why there is no admin port.

use std::{io, net::SocketAddr};

use goulette_types::ErrorKind;

/// The admin port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there.
    #[error("admin address {address} is in use: stop what listens there, or give another -admin-address (off: none)")]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// The system does not let us listen there.
    #[error("cannot listen on admin address {address}: give another -admin-address (off: none)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

impl BindError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InUse { .. } => ErrorKind::Conflict,
            Self::Listen { .. } => ErrorKind::Unavailable,
        }
    }
}
