//! Users, roles, and whether anybody asks for them: the same on every member, changed by log entries alone.

use std::collections::BTreeMap;

use super::{
    intervals::Intervals,
    permission::{Access, Permission},
};
use crate::EtcdError;

/// The user that must exist, with the role of the same name, before authentication can be turned on.
pub(crate) const ROOT: &str = "root";

/// Who sent a request, by its token; the default is nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Empty without a token.
    pub(crate) user: String,
    /// Revision of users and roles for which the token was believed; 0 without a token.
    pub(crate) revision: u64,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    /// bcrypt's text form; empty for a user who logs in by certificate only.
    pub(crate) password: Vec<u8>,
    /// Sorted.
    pub(crate) roles: Vec<String>,
    pub(crate) no_password: bool,
}

impl User {
    fn is_root(&self) -> bool {
        self.roles.iter().any(|role| role == ROOT)
    }
}

/// A role: permissions sorted by their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Role {
    pub(crate) permissions: Vec<Permission>,
}

/// What the store must write with the log entry that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Enabled(bool),
    Revision(u64),
    User(String, Option<User>),
    Role(String, Option<Role>),
}

/// See the module. Each method that changes anything leaves what changed in [`AuthState::take_changes`].
#[derive(Debug, Default)]
pub(crate) struct AuthState {
    enabled: bool,
    /// Rises with each change of users, roles and permissions; 1 in a new cluster.
    revision: u64,
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, Role>,
    /// What each user may read and write by all roles together.
    granted: BTreeMap<String, Granted>,
    changes: Vec<Change>,
}

#[derive(Debug, Default)]
struct Granted {
    read: Intervals,
    write: Intervals,
}

impl AuthState {
    /// The state that the store holds; revision 0 is that of a store that never held one.
    pub(crate) fn load(
        enabled: bool,
        revision: u64,
        users: BTreeMap<String, User>,
        roles: BTreeMap<String, Role>,
    ) -> Self {
        let mut state = Self { enabled, revision: revision.max(1), users, roles, ..Self::default() };
        state.regrant();
        state
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Names of the users, sorted.
    pub(crate) fn users(&self) -> impl Iterator<Item = &String> {
        self.users.keys()
    }

    /// Names of the roles, sorted.
    pub(crate) fn roles(&self) -> impl Iterator<Item = &String> {
        self.roles.keys()
    }

    /// What changed since it was last asked, in order.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Turns authentication on, if it is not.
    pub(crate) fn enable(&mut self) -> Result<(), EtcdError> {
        if self.enabled {
            return Ok(());
        }
        let root = self.users.get(ROOT).ok_or(EtcdError::RootUserNotExist)?;
        if !root.is_root() {
            return Err(EtcdError::RootRoleNotExist);
        }
        self.enabled = true;
        self.changes.push(Change::Enabled(true));
        Ok(())
    }

    /// Turns authentication off, if it is on.
    pub(crate) fn disable(&mut self) {
        if self.enabled {
            self.enabled = false;
            self.changes.push(Change::Enabled(false));
            self.rise();
        }
    }

    pub(crate) fn user_add(&mut self, name: &str, password: Vec<u8>, no_password: bool) -> Result<(), EtcdError> {
        if name.is_empty() {
            return Err(EtcdError::UserEmpty);
        }
        if self.users.contains_key(name) {
            return Err(EtcdError::UserAlreadyExist);
        }
        let password = if no_password { Vec::new() } else { password };
        self.put_user(name, User { password, roles: Vec::new(), no_password });
        self.rise();
        Ok(())
    }

    pub(crate) fn user_delete(&mut self, name: &str) -> Result<(), EtcdError> {
        if self.enabled && name == ROOT {
            return Err(EtcdError::InvalidAuthMgmt);
        }
        self.users.remove(name).ok_or(EtcdError::UserNotFound)?;
        self.changes.push(Change::User(name.to_owned(), None));
        self.rise();
        Ok(())
    }

    pub(crate) fn user_change_password(&mut self, name: &str, password: Vec<u8>) -> Result<(), EtcdError> {
        let mut user = self.users.get(name).ok_or(EtcdError::UserNotFound)?.clone();
        user.password = if user.no_password { Vec::new() } else { password };
        self.put_user(name, user);
        self.rise();
        Ok(())
    }

    pub(crate) fn user_grant_role(&mut self, name: &str, role: &str) -> Result<(), EtcdError> {
        let mut user = self.users.get(name).ok_or(EtcdError::UserNotFound)?.clone();
        if role != ROOT && !self.roles.contains_key(role) {
            return Err(EtcdError::RoleNotFound);
        }
        let Err(place) = user.roles.binary_search_by(|held| held.as_str().cmp(role)) else { return Ok(()) };
        user.roles.insert(place, role.to_owned());
        self.put_user(name, user);
        self.rise();
        Ok(())
    }

    pub(crate) fn user_revoke_role(&mut self, name: &str, role: &str) -> Result<(), EtcdError> {
        if self.enabled && name == ROOT && role == ROOT {
            return Err(EtcdError::InvalidAuthMgmt);
        }
        let mut user = self.users.get(name).ok_or(EtcdError::UserNotFound)?.clone();
        let held = user.roles.len();
        user.roles.retain(|other| other != role);
        if user.roles.len() == held {
            return Err(EtcdError::RoleNotGranted);
        }
        self.put_user(name, user);
        self.rise();
        Ok(())
    }

    /// Roles of a user, for root and for the user.
    pub(crate) fn user_get(&self, caller: &Caller, name: &str) -> Result<Vec<String>, EtcdError> {
        match self.check_admin(caller) {
            Err(error) if caller.user != name => Err(error),
            _ => Ok(self.users.get(name).ok_or(EtcdError::UserNotFound)?.roles.clone()),
        }
    }

    pub(crate) fn role_add(&mut self, name: &str) -> Result<(), EtcdError> {
        if name.is_empty() {
            return Err(EtcdError::RoleEmpty);
        }
        if self.roles.contains_key(name) {
            return Err(EtcdError::RoleAlreadyExist);
        }
        self.put_role(name, Role::default());
        self.rise();
        Ok(())
    }

    pub(crate) fn role_delete(&mut self, name: &str) -> Result<(), EtcdError> {
        if self.enabled && name == ROOT {
            return Err(EtcdError::InvalidAuthMgmt);
        }
        self.roles.remove(name).ok_or(EtcdError::RoleNotFound)?;
        self.changes.push(Change::Role(name.to_owned(), None));
        let holders: Vec<String> = self
            .users
            .iter()
            .filter(|(_, user)| user.roles.iter().any(|role| role == name))
            .map(|(n, _)| n.clone())
            .collect();
        for holder in holders {
            let mut user = self.users[&holder].clone();
            user.roles.retain(|role| role != name);
            self.put_user(&holder, user);
        }
        self.rise();
        Ok(())
    }

    /// A permission of the same range is replaced if it is the first of those with its key. As in etcd, which looks no
    /// further: a role may hold a range twice, and then the more generous permission counts.
    pub(crate) fn role_grant(&mut self, name: &str, permission: Permission) -> Result<(), EtcdError> {
        if !permission.is_range() {
            return Err(EtcdError::InvalidAuthMgmt);
        }
        let mut role = self.roles.get(name).ok_or(EtcdError::RoleNotFound)?.clone();
        let first = role.permissions.partition_point(|held| held.key < permission.key);
        match role.permissions.get_mut(first) {
            Some(held) if held.key == permission.key && held.range_end == permission.range_end => {
                held.access = permission.access;
            }
            _ => {
                let behind = role.permissions.partition_point(|held| held.key <= permission.key);
                role.permissions.insert(behind, permission);
            }
        }
        self.put_role(name, role);
        self.rise();
        Ok(())
    }

    pub(crate) fn role_revoke(&mut self, name: &str, key: &[u8], range_end: &[u8]) -> Result<(), EtcdError> {
        let mut role = self.roles.get(name).ok_or(EtcdError::RoleNotFound)?.clone();
        let held = role.permissions.len();
        role.permissions.retain(|permission| permission.key != key || permission.range_end != range_end);
        if role.permissions.len() == held {
            return Err(EtcdError::PermissionNotGranted);
        }
        self.put_role(name, role);
        self.rise();
        Ok(())
    }

    /// Permissions of a role, for root and for who holds it. The root role may do everything.
    pub(crate) fn role_get(&self, caller: &Caller, name: &str) -> Result<Vec<Permission>, EtcdError> {
        let holds = || self.users.get(&caller.user).is_some_and(|user| user.roles.iter().any(|role| role == name));
        match self.check_admin(caller) {
            Err(error) if !holds() => Err(error),
            _ => {
                let role = self.roles.get(name).ok_or(EtcdError::RoleNotFound)?;
                let everything = || Permission { access: Access::ReadWrite, key: Vec::new(), range_end: vec![0] };
                Ok(if name == ROOT { vec![everything()] } else { role.permissions.clone() })
            }
        }
    }

    /// The hash to compare a password with (none for a user without a password), and the revision at which it holds.
    pub(crate) fn password(&self, name: &str) -> Result<(Option<Vec<u8>>, u64), EtcdError> {
        if !self.enabled {
            return Err(EtcdError::AuthNotEnabled);
        }
        let user = self.users.get(name).ok_or(EtcdError::AuthFailed)?;
        Ok(((!user.no_password).then(|| user.password.clone()), self.revision))
    }

    /// Whether a token may be given to a user whose password was found right before the log entry.
    pub(crate) fn check_login(&self, name: &str) -> Result<(), EtcdError> {
        if !self.enabled {
            return Err(EtcdError::AuthNotEnabled);
        }
        match self.users.get(name) {
            Some(user) if !user.no_password => Ok(()),
            _ => Err(EtcdError::AuthFailed),
        }
    }

    /// Whether the caller is root, where anybody asks.
    pub(crate) fn check_admin(&self, caller: &Caller) -> Result<(), EtcdError> {
        if !self.enabled {
            return Ok(());
        }
        if caller.user.is_empty() {
            return Err(EtcdError::UserEmpty);
        }
        let user = self.users.get(&caller.user).ok_or(EtcdError::UserNotFound)?;
        if user.is_root() { Ok(()) } else { Err(EtcdError::PermissionDenied) }
    }

    /// Whether the caller may read all keys of a range.
    pub(crate) fn check_read(&self, caller: &Caller, key: &[u8], range_end: &[u8]) -> Result<(), EtcdError> {
        self.check(caller, |granted| granted.read.covers(key, range_end))
    }

    /// Whether the caller may write all keys of a range.
    pub(crate) fn check_write(&self, caller: &Caller, key: &[u8], range_end: &[u8]) -> Result<(), EtcdError> {
        self.check(caller, |granted| granted.write.covers(key, range_end))
    }

    fn check(&self, caller: &Caller, covers: impl Fn(&Granted) -> bool) -> Result<(), EtcdError> {
        if !self.enabled {
            return Ok(());
        }
        if caller.revision == 0 {
            return Err(EtcdError::UserEmpty);
        }
        if caller.revision < self.revision {
            return Err(EtcdError::AuthOldRevision);
        }
        let user = self.users.get(&caller.user).ok_or(EtcdError::PermissionDenied)?;
        if user.is_root() || self.granted.get(&caller.user).is_some_and(covers) {
            Ok(())
        } else {
            Err(EtcdError::PermissionDenied)
        }
    }

    fn put_user(&mut self, name: &str, user: User) {
        self.changes.push(Change::User(name.to_owned(), Some(user.clone())));
        self.users.insert(name.to_owned(), user);
    }

    fn put_role(&mut self, name: &str, role: Role) {
        self.changes.push(Change::Role(name.to_owned(), Some(role.clone())));
        self.roles.insert(name.to_owned(), role);
    }

    /// Ends a change.
    fn rise(&mut self) {
        self.revision += 1;
        self.changes.push(Change::Revision(self.revision));
        self.regrant();
    }

    fn regrant(&mut self) {
        self.granted.clear();
        for (name, user) in &self.users {
            let granted = self.granted.entry(name.clone()).or_default();
            for permission in
                user.roles.iter().filter_map(|role| self.roles.get(role)).flat_map(|role| &role.permissions)
            {
                if permission.access.reads() {
                    granted.read.insert(&permission.key, &permission.range_end);
                }
                if permission.access.writes() {
                    granted.write.insert(&permission.key, &permission.range_end);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(state: &AuthState, user: &str) -> Caller {
        Caller { user: user.to_owned(), revision: state.revision() }
    }

    fn enabled() -> AuthState {
        let mut state = AuthState::load(false, 0, BTreeMap::new(), BTreeMap::new());
        state.user_add("root", b"r".to_vec(), false).unwrap();
        state.user_grant_role("root", "root").unwrap();
        state.role_add("reader").unwrap();
        let permission = Permission { access: Access::Read, key: b"a".to_vec(), range_end: b"m".to_vec() };
        state.role_grant("reader", permission).unwrap();
        state.user_add("ann", b"a".to_vec(), false).unwrap();
        state.user_grant_role("ann", "reader").unwrap();
        assert_eq!(state.enable(), Ok(()));
        state
    }

    #[test]
    fn authentication_needs_a_root_with_the_root_role() {
        let mut state = AuthState::load(false, 0, BTreeMap::new(), BTreeMap::new());
        assert_eq!(state.revision(), 1);
        assert_eq!(state.enable(), Err(EtcdError::RootUserNotExist));
        state.user_add("root", Vec::new(), false).unwrap();
        assert_eq!(state.enable(), Err(EtcdError::RootRoleNotExist));
        state.user_grant_role("root", "root").unwrap();
        assert_eq!(state.enable(), Ok(()));
        assert_eq!(state.enable(), Ok(()));
    }

    #[test]
    fn root_cannot_lose_its_place_while_authentication_is_on() {
        let mut state = enabled();
        assert_eq!(state.user_delete("root"), Err(EtcdError::InvalidAuthMgmt));
        assert_eq!(state.role_delete("root"), Err(EtcdError::InvalidAuthMgmt));
        assert_eq!(state.user_revoke_role("root", "root"), Err(EtcdError::InvalidAuthMgmt));
        state.disable();
        assert_eq!(state.user_delete("root"), Ok(()));
    }

    #[test]
    fn a_user_may_do_what_the_roles_grant() {
        let state = enabled();
        let ann = caller(&state, "ann");
        assert_eq!(state.check_read(&ann, b"a", b"m"), Ok(()));
        assert_eq!(state.check_read(&ann, b"m", b""), Err(EtcdError::PermissionDenied));
        assert_eq!(state.check_write(&ann, b"b", b""), Err(EtcdError::PermissionDenied));
        assert_eq!(state.check_read(&Caller::default(), b"a", b""), Err(EtcdError::UserEmpty));
        assert_eq!(state.check_write(&caller(&state, "root"), b"", b"\0"), Ok(()));
        assert_eq!(state.check_admin(&ann), Err(EtcdError::PermissionDenied));
    }

    #[test]
    fn only_the_first_permission_of_a_key_is_replaced() {
        let mut state = enabled();
        let grant = |state: &mut AuthState, end: &[u8], access| {
            let permission = Permission { access, key: b"k".to_vec(), range_end: end.to_vec() };
            state.role_grant("reader", permission).unwrap();
        };
        grant(&mut state, b"l", Access::Read);
        grant(&mut state, b"", Access::Write);
        grant(&mut state, b"l", Access::Write);
        grant(&mut state, b"", Access::Read);
        let root = caller(&state, "root");
        let held: Vec<_> = state.role_get(&root, "reader").unwrap()[1..]
            .iter()
            .map(|permission| (permission.range_end.clone(), permission.access))
            .collect();
        let (short, long) = (b"".to_vec(), b"l".to_vec());
        assert_eq!(held, [(long, Access::Write), (short.clone(), Access::Write), (short, Access::Read)]);
        state.role_revoke("reader", b"k", b"").unwrap();
        assert_eq!(state.role_get(&root, "reader").unwrap().len(), 2);
    }

    #[test]
    fn a_token_from_before_a_change_is_old() {
        let mut state = enabled();
        let ann = caller(&state, "ann");
        state.role_add("other").unwrap();
        assert_eq!(state.check_read(&ann, b"a", b""), Err(EtcdError::AuthOldRevision));
    }

    #[test]
    fn a_deleted_role_leaves_its_users() {
        let mut state = enabled();
        state.role_delete("reader").unwrap();
        let ann = caller(&state, "ann");
        assert_eq!(state.user_get(&ann, "ann"), Ok(vec![]));
        assert_eq!(state.check_read(&ann, b"a", b""), Err(EtcdError::PermissionDenied));
    }

    #[test]
    fn the_changes_rebuild_the_state() {
        let mut state = enabled();
        state.role_delete("reader").unwrap();
        state.user_add("bob", Vec::new(), true).unwrap();
        state.user_delete("ann").unwrap();
        let (mut on, mut revision, mut users, mut roles) = (false, 0, BTreeMap::new(), BTreeMap::new());
        for change in state.take_changes() {
            match change {
                Change::Enabled(enabled) => on = enabled,
                Change::Revision(to) => revision = to,
                Change::User(name, Some(user)) => drop(users.insert(name, user)),
                Change::User(name, None) => drop(users.remove(&name)),
                Change::Role(name, Some(role)) => drop(roles.insert(name, role)),
                Change::Role(name, None) => drop(roles.remove(&name)),
            }
        }
        assert_eq!((on, revision, &users, &roles), (true, state.revision, &state.users, &state.roles));
    }
}
