//! Who may do what: users, roles and their permissions on ranges of keys, as etcd has them.
//!
//! [`AuthState`] is the part that all members agree on: a plain struct, changed by log entries alone, so that the check of
//! a write and the write itself see the same users. [`Tokens`] is what one member remembers of who logged in. Passwords
//! are hashed before they enter the log; the log and the disk never hold one.
//!
//! Start with `state`; what a request needs is in `check`.

use std::{
    sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use crate::EtcdError;

mod apply;
mod check;
mod password;
mod permission;
mod record;
mod state;
mod token;

pub(crate) use apply::AuthReply;
pub(crate) use check::{check_delete, check_lease_readable, check_lease_writable, check_put, check_range, check_txn};
pub(crate) use password::{COST_DEFAULT, COSTS, hash, is_password};
pub(crate) use permission::Permission;
pub(crate) use record::Row;
pub(crate) use state::{AuthState, Caller, ROOT};
pub(crate) use token::{Tokens, index_of};

/// Users, roles and logins of one member.
#[derive(Debug)]
pub(crate) struct Auth {
    state: RwLock<AuthState>,
    tokens: Mutex<Tokens>,
}

impl Auth {
    /// `tokens_ttl`: how long an unused token lives.
    pub(crate) fn new(state: AuthState, tokens_ttl: Duration) -> Self {
        Self { state: RwLock::new(state), tokens: Mutex::new(Tokens::new(tokens_ttl)) }
    }

    /// Users and roles as of the last applied entry.
    pub(crate) fn state(&self) -> RwLockReadGuard<'_, AuthState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the entries since the last call changed; the store writes it with them.
    pub(crate) fn take_rows(&self) -> Vec<Row> {
        self.state_mut().take_changes().iter().map(state::Change::row).collect()
    }

    /// Takes the state of an installed snapshot; logins stay.
    pub(crate) fn replace(&self, state: AuthState) {
        *self.state_mut() = state;
    }

    /// Who sent a request with `token`. The caller has waited until the entry [`index_of`] the token is applied.
    pub(crate) fn caller(&self, now: Duration, token: &str) -> Result<Caller, EtcdError> {
        let user = self.tokens().user(now, token).ok_or(EtcdError::InvalidAuthToken)?;
        Ok(Caller { user, revision: self.state().revision() })
    }

    /// The server itself, which may do what root may.
    pub(crate) fn root_caller(&self) -> Caller {
        Caller { user: ROOT.to_owned(), revision: self.state().revision() }
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, AuthState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
