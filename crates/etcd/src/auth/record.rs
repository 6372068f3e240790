//! How users, roles and the switch are stored: in etcd's own buckets, keys and messages, so that a snapshot of etcd's is
//! ours and the other way round.

use std::collections::BTreeMap;

use goulette_proto::etcd::authpb;
use prost::Message;

use crate::store::tables::auth::{ENABLED, REVISION};

use super::{
    permission::{Access, Permission},
    state::{AuthState, Change, Role, User},
};

/// The bucket of the switch and the revision.
pub(crate) const AUTH: &str = "auth";
/// The bucket of users.
pub(crate) const USERS: &str = "authUsers";
/// The bucket of roles.
pub(crate) const ROLES: &str = "authRoles";

/// A row that is not what we or etcd would have written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store's bucket {bucket} holds an entry that cannot be read: {key:?}")]
pub(crate) struct RecordError {
    bucket: &'static str,
    key: Vec<u8>,
}

/// One row to write with the entry that changed it; a value of `None` deletes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) bucket: &'static str,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
}

impl Change {
    pub(crate) fn row(&self) -> Row {
        let (bucket, key, value) = match self {
            Self::Enabled(enabled) => (AUTH, ENABLED.to_vec(), Some(vec![u8::from(*enabled)])),
            Self::Revision(revision) => (AUTH, REVISION.to_vec(), Some(revision.to_be_bytes().to_vec())),
            Self::User(name, user) => {
                (USERS, name.as_bytes().to_vec(), user.as_ref().map(|user| encode_user(name, user)))
            }
            Self::Role(name, role) => {
                (ROLES, name.as_bytes().to_vec(), role.as_ref().map(|role| encode_role(name, role)))
            }
        };
        Row { bucket, key, value }
    }
}

impl AuthState {
    /// The state of the rows of the three buckets.
    pub(crate) fn from_rows(
        rows: impl IntoIterator<Item = (&'static str, Vec<u8>, Vec<u8>)>,
    ) -> Result<Self, RecordError> {
        let (mut enabled, mut revision) = (false, 0);
        let (mut users, mut roles) = (BTreeMap::new(), BTreeMap::new());
        for (bucket, key, value) in rows {
            let wrong = || RecordError { bucket, key: key.clone() };
            match (bucket, key.as_slice()) {
                (AUTH, ENABLED) => enabled = value == [1],
                (AUTH, REVISION) => {
                    revision = u64::from_be_bytes(value.as_slice().try_into().map_err(|_| wrong())?);
                }
                (USERS, _) => {
                    let (name, user) = decode_user(&value).ok_or_else(wrong)?;
                    users.insert(name, user);
                }
                (ROLES, _) => {
                    let (name, role) = decode_role(&value).ok_or_else(wrong)?;
                    roles.insert(name, role);
                }
                _ => return Err(wrong()),
            }
        }
        Ok(Self::load(enabled, revision, users, roles))
    }
}

impl Permission {
    /// `None` for a kind of access that does not exist.
    pub(crate) fn from_message(message: &authpb::Permission) -> Option<Self> {
        let access = match authpb::permission::Type::try_from(message.perm_type).ok()? {
            authpb::permission::Type::Read => Access::Read,
            authpb::permission::Type::Write => Access::Write,
            authpb::permission::Type::Readwrite => Access::ReadWrite,
        };
        Some(Self { access, key: message.key.to_vec(), range_end: message.range_end.to_vec() })
    }

    pub(crate) fn to_message(&self) -> authpb::Permission {
        let access = match self.access {
            Access::Read => authpb::permission::Type::Read,
            Access::Write => authpb::permission::Type::Write,
            Access::ReadWrite => authpb::permission::Type::Readwrite,
        };
        authpb::Permission {
            perm_type: access.into(),
            key: self.key.clone().into(),
            range_end: self.range_end.clone().into(),
        }
    }
}

fn encode_user(name: &str, user: &User) -> Vec<u8> {
    authpb::User {
        name: name.as_bytes().to_vec().into(),
        password: user.password.clone().into(),
        roles: user.roles.clone(),
        options: Some(authpb::UserAddOptions { no_password: user.no_password }),
    }
    .encode_to_vec()
}

fn decode_user(bytes: &[u8]) -> Option<(String, User)> {
    let message = authpb::User::decode(bytes).ok()?;
    let mut roles = message.roles;
    roles.sort();
    let no_password = message.options.is_some_and(|options| options.no_password);
    let name = String::from_utf8(message.name.to_vec()).ok()?;
    Some((name, User { password: message.password.to_vec(), roles, no_password }))
}

fn encode_role(name: &str, role: &Role) -> Vec<u8> {
    authpb::Role {
        name: name.as_bytes().to_vec().into(),
        key_permission: role.permissions.iter().map(Permission::to_message).collect(),
    }
    .encode_to_vec()
}

fn decode_role(bytes: &[u8]) -> Option<(String, Role)> {
    let message = authpb::Role::decode(bytes).ok()?;
    let permissions = message.key_permission.iter().map(Permission::from_message).collect::<Option<_>>()?;
    Some((String::from_utf8(message.name.to_vec()).ok()?, Role { permissions }))
}
