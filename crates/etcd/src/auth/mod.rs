//! Who may do what: users, roles and their permissions on ranges of keys, as etcd has them.
//!
//! [`AuthState`] is the part that all members agree on: a plain struct, changed by log entries alone, so that the check of
//! a write and the write itself see the same users. Who logged in shows a token: one that each member remembers
//! ([`Tokens`]), or one that is signed ([`Jwt`]). Passwords are hashed before they enter the log; the log and the disk
//! never hold one.
//!
//! Start with `state`; what a request needs is in `check`.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use crate::EtcdError;

mod apply;
mod check;
mod der;
mod intervals;
mod jwt;
mod password;
mod permission;
mod record;
mod state;
mod token;

pub(crate) use apply::AuthReply;
pub(crate) use check::{check_delete, check_lease_readable, check_lease_writable, check_put, check_range, check_txn};
pub use jwt::{Jwt, JwtError, JwtOptions};
pub(crate) use password::{COST_DEFAULT, COSTS, hash, is_password};
pub(crate) use permission::Permission;
pub(crate) use record::Row;
pub(crate) use state::{AuthState, Caller, ROOT};
pub(crate) use token::Tokens;

/// What a login gives.
#[derive(Clone, Debug)]
pub enum TokenKind {
    /// A token that every member remembers until it was not used for so long.
    Simple(Duration),
    /// A signed token, which nobody remembers.
    Jwt(Arc<Jwt>),
}

/// Users, roles and logins of one member.
#[derive(Debug)]
pub(crate) struct Auth {
    state: RwLock<AuthState>,
    logins: Logins,
}

#[derive(Debug)]
enum Logins {
    Simple(Mutex<Tokens>),
    Jwt(Arc<Jwt>),
}

impl Auth {
    pub(crate) fn new(state: AuthState, kind: TokenKind) -> Self {
        let logins = match kind {
            TokenKind::Simple(ttl) => Logins::Simple(Mutex::new(Tokens::new(ttl))),
            TokenKind::Jwt(jwt) => Logins::Jwt(jwt),
        };
        Self { state: RwLock::new(state), logins }
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

    /// Who sent a request with `token`. The caller has waited until the entry [`Auth::index_of`] the token is applied.
    /// `wall_ms` is the time of day, by which signed tokens end.
    pub(crate) fn caller(&self, now: Duration, wall_ms: i64, token: &str) -> Result<Caller, EtcdError> {
        let caller = match &self.logins {
            Logins::Simple(tokens) => {
                let user = lock(tokens).user(now, token);
                user.map(|user| Caller { user, revision: self.state().revision() })
            }
            Logins::Jwt(jwt) => jwt.verify(wall_ms, token),
        };
        caller.ok_or(EtcdError::InvalidAuthToken)
    }

    /// The index of the log entry that must be applied before this member can know the token.
    pub(crate) fn index_of(&self, token: &str) -> Option<u64> {
        match &self.logins {
            Logins::Simple(_) => token::index_of(token),
            Logins::Jwt(_) => None,
        }
    }

    /// What signs tokens, if they are signed.
    pub(crate) fn jwt(&self) -> Option<&Arc<Jwt>> {
        match &self.logins {
            Logins::Simple(_) => None,
            Logins::Jwt(jwt) => Some(jwt),
        }
    }

    /// The server itself, which may do what root may.
    pub(crate) fn root_caller(&self) -> Caller {
        Caller { user: ROOT.to_owned(), revision: self.state().revision() }
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, AuthState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is remembered of logins, if anything is.
    fn remember<T>(&self, change: impl FnOnce(&mut Tokens) -> T) -> Option<T> {
        match &self.logins {
            Logins::Simple(tokens) => Some(change(&mut lock(tokens))),
            Logins::Jwt(_) => None,
        }
    }
}

fn lock(tokens: &Mutex<Tokens>) -> MutexGuard<'_, Tokens> {
    tokens.lock().unwrap_or_else(PoisonError::into_inner)
}
