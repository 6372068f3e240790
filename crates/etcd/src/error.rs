//! What etcd answers when it refuses: the exact texts and codes of etcd 3.6, by which its clients tell errors apart.

use tonic::{Code, Status};

macro_rules! errors {
    ($($name:ident, $code:ident, $text:literal;)*) => {
        /// A refusal as etcd's clients know it; the texts are etcd's, letter by letter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
        pub enum EtcdError {
            $(
                #[doc = concat!("etcdserver: ", $text)]
                #[error("etcdserver: {}", $text)]
                $name,
            )*
        }

        impl EtcdError {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The gRPC code that goes with it.
            pub fn code(self) -> Code {
                match self {
                    $(Self::$name => Code::$code,)*
                }
            }
        }
    };
}

errors! {
    EmptyKey, InvalidArgument, "key is not provided";
    KeyNotFound, InvalidArgument, "key not found";
    ValueProvided, InvalidArgument, "value is provided";
    LeaseProvided, InvalidArgument, "lease is provided";
    TooManyOps, InvalidArgument, "too many operations in txn request";
    DuplicateKey, InvalidArgument, "duplicate key given in txn request";
    InvalidClientApiVersion, InvalidArgument, "invalid client api version";
    InvalidSortOption, InvalidArgument, "invalid sort option";
    Compacted, OutOfRange, "mvcc: required revision has been compacted";
    FutureRev, OutOfRange, "mvcc: required revision is a future revision";
    NoSpace, ResourceExhausted, "mvcc: database space exceeded";
    LeaseNotFound, NotFound, "requested lease not found";
    LeaseExist, FailedPrecondition, "lease already exists";
    LeaseTtlTooLarge, OutOfRange, "too large lease TTL";
    WatchCanceled, Cancelled, "watch canceled";
    MemberExist, FailedPrecondition, "member ID already exist";
    PeerUrlExist, FailedPrecondition, "Peer URLs already exists";
    MemberNotEnoughStarted, FailedPrecondition, "re-configuration failed due to not enough started members";
    MemberBadUrls, InvalidArgument, "given member URLs are invalid";
    MemberNotFound, NotFound, "member not found";
    MemberNotLearner, FailedPrecondition, "can only promote a learner member";
    LearnerNotReady, FailedPrecondition, "can only promote a learner member which is in sync with leader";
    TooManyLearners, FailedPrecondition, "too many learner members in cluster";
    ClusterIdMismatch, FailedPrecondition, "cluster ID mismatch";
    RequestTooLarge, InvalidArgument, "request is too large";
    TooManyRequests, ResourceExhausted, "too many requests";
    RootUserNotExist, FailedPrecondition, "root user does not exist";
    RootRoleNotExist, FailedPrecondition, "root user does not have root role";
    UserAlreadyExist, FailedPrecondition, "user name already exists";
    UserEmpty, InvalidArgument, "user name is empty";
    UserNotFound, FailedPrecondition, "user name not found";
    RoleAlreadyExist, FailedPrecondition, "role name already exists";
    RoleNotFound, FailedPrecondition, "role name not found";
    RoleEmpty, InvalidArgument, "role name is empty";
    AuthFailed, InvalidArgument, "authentication failed, invalid user ID or password";
    PermissionNotGiven, InvalidArgument, "permission not given";
    PermissionDenied, PermissionDenied, "permission denied";
    RoleNotGranted, FailedPrecondition, "role is not granted to the user";
    PermissionNotGranted, FailedPrecondition, "permission is not granted to the role";
    AuthNotEnabled, FailedPrecondition, "authentication is not enabled";
    InvalidAuthToken, Unauthenticated, "invalid auth token";
    InvalidAuthMgmt, InvalidArgument, "invalid auth management";
    AuthOldRevision, InvalidArgument, "revision of auth store is old";
    NoLeader, Unavailable, "no leader";
    NotLeader, FailedPrecondition, "not leader";
    LeaderChanged, Unavailable, "leader changed";
    NotCapable, FailedPrecondition, "not capable";
    Stopped, Unavailable, "server stopped";
    Timeout, Unavailable, "request timed out";
    TimeoutDueToLeaderFail, Unavailable, "request timed out, possibly due to previous leader failure";
    TimeoutDueToConnectionLost, Unavailable, "request timed out, possibly due to connection lost";
    TimeoutWaitAppliedIndex, Unavailable, "request timed out, waiting for the applied index took too long";
    Unhealthy, Unavailable, "unhealthy cluster";
    Corrupt, DataLoss, "corrupt cluster";
    NotSupportedForLearner, FailedPrecondition, "rpc not supported for learner";
    BadLeaderTransferee, FailedPrecondition, "bad leader transferee";
    WrongDowngradeVersionFormat, InvalidArgument, "wrong downgrade target version format";
    InvalidDowngradeTargetVersion, InvalidArgument, "invalid downgrade target version";
    ClusterVersionUnavailable, FailedPrecondition, "cluster version not found during downgrade";
    DowngradeInProcess, FailedPrecondition, "cluster has a downgrade job in progress";
    NoInflightDowngrade, FailedPrecondition, "no inflight downgrade job";
    Canceled, Cancelled, "request canceled";
    DeadlineExceeded, DeadlineExceeded, "context deadline exceeded";
}

impl EtcdError {
    /// The text without etcd's prefix, as watch responses carry it for errors of the store.
    pub fn bare_text(self) -> String {
        self.to_string().trim_start_matches("etcdserver: ").to_owned()
    }
}

impl From<EtcdError> for Status {
    fn from(error: EtcdError) -> Self {
        Status::new(error.code(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ways: a text that etcd does not know would be an unknown error to its clients.
    #[test]
    fn codes_and_texts_are_etcds() {
        let theirs: std::collections::BTreeSet<_> = include_str!("../testdata/errors.tsv")
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(str::to_owned)
            .collect();
        let name = |code: Code| match code {
            // Go writes it with one l.
            Code::Cancelled => "Canceled".to_owned(),
            code => format!("{code:?}"),
        };
        let ours = EtcdError::ALL.iter().map(|&error| Status::from(error));
        let ours = ours.map(|status| format!("{}\t{}", name(status.code()), status.message())).collect();
        assert_eq!(theirs, ours);
    }

    #[test]
    fn a_status_carries_code_and_text() {
        let status = Status::from(EtcdError::Compacted);
        assert_eq!(status.code(), Code::OutOfRange);
        assert_eq!(status.message(), "etcdserver: mvcc: required revision has been compacted");
    }
}
