//! Carries out what the log says about users and roles.

use std::time::Duration;

use goulette_proto::etcd::etcdserverpb as pb;

use super::{
    Auth, Tokens,
    permission::Permission,
    state::{AuthState, Caller},
};
use crate::EtcdError;

/// What an entry about users and roles answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AuthReply {
    Done,
    Status {
        enabled: bool,
        revision: u64,
    },
    /// The token of a login, as every member remembers it.
    Token(String),
    /// A login at this revision, for which a token can be signed.
    LoggedIn(u64),
    /// Of users or roles.
    Names(Vec<String>),
    Permissions(Vec<Permission>),
}

/// The part of an entry that is about users and roles.
enum Order<'a> {
    Login(&'a pb::InternalAuthenticateRequest),
    Enable,
    Disable,
    Status,
    UserAdd(&'a pb::AuthUserAddRequest),
    UserDelete(&'a pb::AuthUserDeleteRequest),
    UserGet(&'a pb::AuthUserGetRequest),
    UserChangePassword(&'a pb::AuthUserChangePasswordRequest),
    UserGrantRole(&'a pb::AuthUserGrantRoleRequest),
    UserRevokeRole(&'a pb::AuthUserRevokeRoleRequest),
    UserList,
    RoleAdd(&'a pb::AuthRoleAddRequest),
    RoleDelete(&'a pb::AuthRoleDeleteRequest),
    RoleGet(&'a pb::AuthRoleGetRequest),
    RoleGrant(&'a pb::AuthRoleGrantPermissionRequest),
    RoleRevoke(&'a pb::AuthRoleRevokePermissionRequest),
    RoleList,
}

impl<'a> Order<'a> {
    fn of(request: &'a pb::InternalRaftRequest) -> Option<Self> {
        let r = request;
        None.or(r.authenticate.as_ref().map(Self::Login))
            .or(r.auth_enable.as_ref().map(|_| Self::Enable))
            .or(r.auth_disable.as_ref().map(|_| Self::Disable))
            .or(r.auth_status.as_ref().map(|_| Self::Status))
            .or(r.auth_user_add.as_ref().map(Self::UserAdd))
            .or(r.auth_user_delete.as_ref().map(Self::UserDelete))
            .or(r.auth_user_get.as_ref().map(Self::UserGet))
            .or(r.auth_user_change_password.as_ref().map(Self::UserChangePassword))
            .or(r.auth_user_grant_role.as_ref().map(Self::UserGrantRole))
            .or(r.auth_user_revoke_role.as_ref().map(Self::UserRevokeRole))
            .or(r.auth_user_list.as_ref().map(|_| Self::UserList))
            .or(r.auth_role_add.as_ref().map(Self::RoleAdd))
            .or(r.auth_role_delete.as_ref().map(Self::RoleDelete))
            .or(r.auth_role_get.as_ref().map(Self::RoleGet))
            .or(r.auth_role_grant_permission.as_ref().map(Self::RoleGrant))
            .or(r.auth_role_revoke_permission.as_ref().map(Self::RoleRevoke))
            .or(r.auth_role_list.as_ref().map(|_| Self::RoleList))
    }
}

impl Auth {
    /// Carries out the entry at `index` if it is about users and roles; `None` if it is not.
    ///
    /// All members do the same: every decision comes from the state and the entry. What must be stored with the entry is
    /// then in [`Auth::take_rows`].
    pub(crate) fn apply(
        &self,
        now: Duration,
        index: u64,
        caller: &Caller,
        request: &pb::InternalRaftRequest,
    ) -> Option<Result<AuthReply, EtcdError>> {
        let order = Order::of(request)?;
        let result = carry_out(&mut self.state_mut(), caller, &order);
        if result.is_ok() {
            match &order {
                Order::Login(login) => {
                    let token = format!("{}.{index}", login.simple_token);
                    let remembered = self.remember(|tokens| tokens.add(now, token.clone(), &login.name));
                    return Some(Ok(match remembered {
                        Some(()) => AuthReply::Token(token),
                        None => AuthReply::LoggedIn(self.state().revision()),
                    }));
                }
                Order::Disable => drop(self.remember(Tokens::clear)),
                Order::UserDelete(delete) => drop(self.remember(|tokens| tokens.forget(&delete.name))),
                Order::UserChangePassword(change) => drop(self.remember(|tokens| tokens.forget(&change.name))),
                _ => {}
            }
        }
        Some(result)
    }
}

fn carry_out(state: &mut AuthState, caller: &Caller, order: &Order<'_>) -> Result<AuthReply, EtcdError> {
    // These three answer others than root as well.
    match order {
        Order::Login(login) => return state.check_login(&login.name).map(|()| AuthReply::Done),
        Order::UserGet(get) => return state.user_get(caller, &get.name).map(AuthReply::Names),
        Order::RoleGet(get) => return state.role_get(caller, &get.role).map(AuthReply::Permissions),
        _ => state.check_admin(caller)?,
    }
    match order {
        Order::Enable => state.enable()?,
        Order::Disable => state.disable(),
        Order::UserAdd(add) => {
            let no_password = add.options.as_ref().is_some_and(|options| options.no_password);
            state.user_add(&add.name, add.hashed_password.clone().into(), no_password)?;
        }
        Order::UserDelete(delete) => state.user_delete(&delete.name)?,
        Order::UserChangePassword(change) => {
            state.user_change_password(&change.name, change.hashed_password.clone().into())?;
        }
        Order::UserGrantRole(grant) => state.user_grant_role(&grant.user, &grant.role)?,
        Order::UserRevokeRole(revoke) => state.user_revoke_role(&revoke.name, &revoke.role)?,
        Order::RoleAdd(add) => state.role_add(&add.name)?,
        Order::RoleDelete(delete) => state.role_delete(&delete.role)?,
        Order::RoleGrant(grant) => {
            let wanted = grant.perm.as_ref().ok_or(EtcdError::PermissionNotGiven)?;
            let permission = Permission::from_message(wanted).ok_or(EtcdError::InvalidAuthMgmt)?;
            state.role_grant(&grant.name, permission)?;
        }
        Order::RoleRevoke(revoke) => state.role_revoke(&revoke.role, &revoke.key, &revoke.range_end)?,
        Order::Status => {
            return Ok(AuthReply::Status { enabled: state.is_enabled(), revision: state.revision() });
        }
        Order::UserList => return Ok(AuthReply::Names(state.users().cloned().collect())),
        Order::RoleList => return Ok(AuthReply::Names(state.roles().cloned().collect())),
        Order::Login(_) | Order::UserGet(_) | Order::RoleGet(_) => unreachable!("answered above"),
    }
    Ok(AuthReply::Done)
}
