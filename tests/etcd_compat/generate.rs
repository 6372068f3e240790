//! Random steps over few keys, leases, users and watchers, so that they meet; about a quarter are wrong on purpose.

use bytes::Bytes;

use crate::{
    op::{Call, Op, USERS, relative},
    pb::{
        authpb::{UserAddOptions, permission},
        etcdserverpb::{self as pb, compare, compare::TargetUnion, request_op::Request},
    },
    random::Random,
    side::{STREAM_OF_FUTURE, STREAM_OF_USER, STREAMS},
};

const KEYS: [&[u8]; 10] = [b"a", b"ab", b"abc", b"b", b"b/1", b"b/2", b"c", b"c\xff", b"\xff\xff", b"\x01"];
const ROLES: [&str; 3] = ["root", "reader", "writer"];
const LEASES: u64 = 6;
/// How deep transactions nest.
const TXN_DEPTH: u64 = 3;
/// How often a role is granted something before it is made anew: etcd sorts more than twelve permissions by a method that
/// leaves those of one key in any order.
const GRANTS: usize = 12;
const PASSWORDS: [&str; 2] = ["secret", "other"];

pub(crate) struct Generator {
    random: Random,
    /// Users, roles and permissions are set up and switched on.
    with_auth: bool,
    /// Steps that are fixed, the next one last: an alarm does not stay for long.
    due: Vec<Op>,
    /// Grants since a role was made, by the order of [`ROLES`].
    grants: [usize; ROLES.len()],
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        let random = Random::new(seed);
        let mut generator = Self { random, with_auth: seed % 3 == 2, due: Vec::new(), grants: Default::default() };
        if generator.with_auth {
            generator.due = generator.auth_set_up();
            generator.due.reverse();
        }
        generator
    }

    pub(crate) fn next(&mut self) -> Op {
        if let Some(op) = self.due.pop() {
            return op;
        }
        let call = self.call();
        let user = match self.with_auth {
            false => None,
            true if self.random.one_in(20) => None,
            true if self.random.one_in(2) => Some(0),
            true => Some(self.random.below(USERS.len() as u64) as usize),
        };
        Op { user, call }
    }

    fn auth_set_up(&mut self) -> Vec<Op> {
        let mut calls = vec![
            Call::RoleAdd("root".into()),
            Call::RoleAdd("reader".into()),
            Call::RoleAdd("writer".into()),
            Call::RoleGrantPermission("reader".into(), permission::Type::Read, b"a".to_vec(), b"c".to_vec()),
            Call::RoleGrantPermission("writer".into(), permission::Type::Readwrite, b"b".to_vec(), b"\0".to_vec()),
        ];
        for user in USERS {
            calls.push(Call::UserAdd(pb::AuthUserAddRequest {
                name: user.into(),
                password: PASSWORDS[0].into(),
                ..Default::default()
            }));
        }
        for (user, role) in
            [("root", "root"), ("ann", "reader"), ("bob", "writer"), ("cat", "reader"), ("cat", "writer")]
        {
            calls.push(Call::UserGrantRole(user.into(), role.into()));
        }
        calls.push(Call::AuthEnable);
        calls.extend((0..USERS.len()).map(|user| Call::Authenticate(user, PASSWORDS[0].into())));
        calls.into_iter().map(|call| Op { user: None, call }).collect()
    }

    /// Deletes a role and makes it again, as root; its users get it back.
    fn role_anew(&mut self, role: String) -> Call {
        let users = USERS[1..].iter().map(|user| Call::UserGrantRole((*user).into(), role.clone()));
        let calls = [Call::RoleDelete(role.clone()), Call::RoleAdd(role.clone())].into_iter().chain(users);
        let mut due: Vec<Op> = calls.map(|call| Op { user: self.with_auth.then_some(0), call }).collect();
        due.reverse();
        self.due.extend(due);
        Call::RoleGet(role)
    }

    fn call(&mut self) -> Call {
        let auth_share = if self.with_auth { 80 } else { 8 };
        match self.random.below(1000 + auth_share) {
            0..280 => Call::Put(self.put()),
            280..470 => Call::Range(self.range()),
            470..550 => Call::Delete(self.delete()),
            550..730 => {
                let deep = self.random.one_in(360);
                let mut txn = if deep { self.deep_txn() } else { self.txn(TXN_DEPTH) };
                if writes(&txn) {
                    bound_deletes(&mut txn);
                }
                Call::Txn(txn)
            }
            730..740 => {
                Call::Compact(pb::CompactionRequest { revision: self.revision(), physical: self.random.one_in(2) })
            }
            740..765 => {
                let id = if self.random.one_in(10) { 0 } else { self.lease() };
                let ttl = match self.random.below(8) {
                    0 => self.random.pick(&[9_000_000_001, i64::MAX]),
                    _ => 1000 + self.random.below(1000) as i64,
                };
                Call::LeaseGrant(pb::LeaseGrantRequest { ttl, id })
            }
            765..780 => Call::LeaseRevoke(self.lease()),
            780..795 => Call::LeaseKeepAlive(self.lease()),
            795..810 => Call::LeaseTimeToLive(self.lease(), self.random.one_in(2)),
            810..815 => Call::Leases,
            815..855 => self.watch_create(),
            855..885 => {
                let stream = self.random.below(STREAMS as u64) as usize;
                Call::WatchCancel(stream, self.random.below(8) as i64)
            }
            885..888 if self.with_auth => Call::WatchOpen(STREAM_OF_USER),
            885..888 => Call::WatchOpen(self.random.below(STREAMS as u64) as usize),
            888..908 => Call::WatchCheck,
            908..935 => Call::HashKv(match self.random.below(3) {
                0 => 0,
                _ => self.revision(),
            }),
            935..945 => self.maintenance(),
            945..970 => self.member(),
            971 if self.random.one_in(2) => {
                let name = self.random.pick(&["l", "lock"]);
                if self.random.one_in(2) {
                    Call::LockStory(name, self.random.one_in(3))
                } else {
                    Call::ElectionStory(name)
                }
            }
            970..971 if self.random.one_in(4) => Call::LeaseExpire(100 + self.random.below(3) as i64),
            970..1000 => Call::Range(pb::RangeRequest { key: self.key(), ..Default::default() }),
            _ => self.auth(),
        }
    }

    fn key(&mut self) -> Bytes {
        if self.random.one_in(40) {
            return Bytes::new();
        }
        Bytes::from_static(self.random.pick(&KEYS))
    }

    /// A key and the end of its range.
    fn span(&mut self) -> (Bytes, Bytes) {
        let key = self.key();
        let end = match self.random.below(10) {
            0..4 => Bytes::new(),
            4..6 => {
                let mut end = key.to_vec();
                if let Some(last) = end.last_mut() {
                    *last = last.wrapping_add(1);
                }
                end.into()
            }
            6 => Bytes::from_static(b"\0"),
            7 => return (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
            _ => self.key(),
        };
        (key, end)
    }

    /// Several ends for each key.
    fn permitted_span(&mut self) -> (Bytes, Bytes) {
        let key = self.key();
        let end = match self.random.below(5) {
            0 => Bytes::new(),
            1 => Bytes::from_static(b"\0"),
            2 => Bytes::from_static(&[0xff, 0xff, 0xff]),
            _ => self.key(),
        };
        (key, end)
    }

    fn value(&mut self) -> Bytes {
        match self.random.below(400) {
            0 => vec![b'x'; 200_000].into(),
            1 => vec![b'y'; 1_600_000].into(),
            2..30 => Bytes::new(),
            _ => format!("v{}", self.random.below(12)).into(),
        }
    }

    fn lease(&mut self) -> i64 {
        1 + self.random.below(LEASES) as i64
    }

    fn revision(&mut self) -> i64 {
        match self.random.below(40) {
            0 => -1,
            1 => 1,
            2 => i64::MAX,
            3 | 4 => relative(1 + self.random.below(3) as i64),
            5..8 => relative(-(self.random.below(300) as i64)),
            _ => relative(-(self.random.below(40) as i64)),
        }
    }

    fn put(&mut self) -> pb::PutRequest {
        let mut put = pb::PutRequest { key: self.key(), value: self.value(), ..Default::default() };
        if self.random.one_in(4) {
            put.lease = self.lease();
        }
        put.prev_kv = self.random.one_in(4);
        if self.random.one_in(12) {
            put.ignore_value = true;
            if !self.random.one_in(4) {
                put.value = Bytes::new();
            }
        }
        if self.random.one_in(12) {
            put.ignore_lease = true;
            if !self.random.one_in(4) {
                put.lease = 0;
            }
        }
        put
    }

    fn range(&mut self) -> pb::RangeRequest {
        let (key, range_end) = self.span();
        let mut range = pb::RangeRequest { key, range_end, ..Default::default() };
        if self.random.one_in(3) {
            range.revision = self.revision();
        }
        if self.random.one_in(3) {
            range.limit = self.random.pick(&[1, 2, 3, 5, 100, -1]);
        }
        if self.random.one_in(3) {
            range.sort_order = self.random.pick(&[0, 1, 2, 2, 1, 7]);
            range.sort_target = self.random.pick(&[0, 1, 2, 3, 4, 4, 2, 1, 9]);
        }
        range.serializable = self.random.one_in(4);
        range.keys_only = self.random.one_in(8);
        range.count_only = self.random.one_in(8);
        if self.random.one_in(5) {
            let revision = relative(-(self.random.below(60) as i64));
            match self.random.below(4) {
                0 => range.min_mod_revision = revision,
                1 => range.max_mod_revision = revision,
                2 => range.min_create_revision = revision,
                _ => range.max_create_revision = revision,
            }
        }
        range
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let (key, mut range_end) = self.span();
        // Most deletes take one key, so that something is left.
        if self.random.one_in(2) {
            range_end = Bytes::new();
        }
        pb::DeleteRangeRequest { key, range_end, prev_kv: self.random.one_in(2) }
    }

    fn txn(&mut self, depth: u64) -> pb::TxnRequest {
        let mut txn = pb::TxnRequest::default();
        for _ in 0..self.random.below(3) {
            txn.compare.push(self.compare());
        }
        for _ in 0..self.random.below(4) {
            txn.success.push(self.txn_op(depth));
        }
        for _ in 0..self.random.below(4) {
            txn.failure.push(self.txn_op(depth));
        }
        for branch in [&mut txn.success, &mut txn.failure] {
            if branch.len() == 1 && depth == TXN_DEPTH {
                continue;
            }
            // A put that misses its key, beside or below others, passes etcd 3.6.16's check and then brings it down.
            for op in branch {
                if let Some(Request::RequestPut(put)) = &mut op.request {
                    (put.ignore_value, put.ignore_lease) = (false, false);
                }
            }
        }
        if self.random.one_in(200) {
            // Without values: a hundred of the largest are more than anybody answers in time.
            let range = pb::RangeRequest { key: self.key(), keys_only: true, ..Default::default() };
            let op = pb::RequestOp { request: Some(Request::RequestRange(range)) };
            txn.success = vec![op; self.random.pick(&[128, 129])];
        }
        txn
    }

    /// Transactions within each other, up to more than etcd takes, which bounds them by their operations.
    fn deep_txn(&mut self) -> pb::TxnRequest {
        let depth = self.random.pick(&[20, 48, 49, 50, 90, 126, 127, 128, 129, 300]);
        let mut txn = self.txn(0);
        for _ in 0..depth {
            let op = pb::RequestOp { request: Some(Request::RequestTxn(txn)) };
            txn = pb::TxnRequest::default();
            if self.random.one_in(8) {
                txn.compare.push(self.compare());
            }
            let sibling = pb::RangeRequest { key: self.key(), ..Default::default() };
            let sibling = pb::RequestOp { request: Some(Request::RequestRange(sibling)) };
            let (taken, other) = (vec![op], if self.random.one_in(8) { vec![sibling] } else { Vec::new() });
            (txn.success, txn.failure) = if self.random.one_in(40) { (other, taken) } else { (taken, other) };
        }
        txn
    }

    fn compare(&mut self) -> pb::Compare {
        let key = self.key();
        let range_end = if self.random.one_in(6) { self.span().1 } else { Bytes::new() };
        let (target, target_union) = match self.random.below(5) {
            0 => (compare::CompareTarget::Version, TargetUnion::Version(self.random.below(4) as i64)),
            1 => (compare::CompareTarget::Create, TargetUnion::CreateRevision(self.compared_revision())),
            2 => (compare::CompareTarget::Mod, TargetUnion::ModRevision(self.compared_revision())),
            3 => (compare::CompareTarget::Value, TargetUnion::Value(self.value())),
            _ => (compare::CompareTarget::Lease, TargetUnion::Lease(self.random.below(LEASES) as i64)),
        };
        pb::Compare {
            result: if self.random.one_in(40) { 9 } else { self.random.below(4) as i32 },
            target: if self.random.one_in(40) { self.random.pick(&[0, 3, 9]) } else { target.into() },
            key,
            range_end,
            target_union: if self.random.one_in(40) { None } else { Some(target_union) },
        }
    }

    fn compared_revision(&mut self) -> i64 {
        if self.random.one_in(3) { 0 } else { relative(-(self.random.below(30) as i64)) }
    }

    fn txn_op(&mut self, depth: u64) -> pb::RequestOp {
        let request = match self.random.below(30) {
            0..12 => Request::RequestPut(self.put()),
            12..20 => Request::RequestRange(self.range()),
            20..26 => Request::RequestDeleteRange(self.delete()),
            26..29 if depth > 0 => Request::RequestTxn(self.txn(depth - 1)),
            29 if self.random.one_in(8) => return pb::RequestOp { request: None },
            _ => Request::RequestRange(pb::RangeRequest { key: self.key(), ..Default::default() }),
        };
        pb::RequestOp { request: Some(request) }
    }

    fn watch_create(&mut self) -> Call {
        let stream = self.random.below(STREAMS as u64) as usize;
        let (key, range_end) = self.span();
        let start_revision = match (stream, self.random.below(6)) {
            (_, 0..2) => 0,
            (STREAM_OF_FUTURE, _) => relative(1 + self.random.below(30) as i64),
            (_, 2) => -1,
            (_, 3) => relative(-(self.random.below(300) as i64)),
            _ => relative(-(self.random.below(40) as i64)),
        };
        let filters = match self.random.below(6) {
            0 => vec![pb::watch_create_request::FilterType::Noput.into()],
            1 => vec![pb::watch_create_request::FilterType::Nodelete.into()],
            2 if self.random.one_in(3) => vec![0, 1],
            _ => vec![],
        };
        let request = pb::WatchCreateRequest {
            key,
            range_end,
            start_revision,
            progress_notify: self.random.one_in(5),
            filters,
            prev_kv: self.random.one_in(3),
            watch_id: if self.random.one_in(3) { self.random.below(8) as i64 } else { 0 },
            fragment: self.random.one_in(4),
        };
        Call::WatchCreate(stream, request)
    }

    fn maintenance(&mut self) -> Call {
        use pb::alarm_request::AlarmAction;
        match self.random.below(12) {
            0..3 => Call::Status,
            3 => Call::Hash,
            4 => Call::Alarm(pb::AlarmRequest {
                action: AlarmAction::Get.into(),
                member_id: 0,
                alarm: self.random.below(3) as i32,
            }),
            5 if self.random.one_in(2) => {
                let alarm = 1 + self.random.below(2) as i32;
                let off = pb::AlarmRequest { action: AlarmAction::Deactivate.into(), member_id: 7, alarm };
                self.due.push(Op { user: self.with_auth.then_some(0), call: Call::Alarm(off) });
                for _ in 0..self.random.below(12) {
                    let call = self.call();
                    self.due.push(Op { user: self.with_auth.then_some(0), call });
                }
                Call::Alarm(pb::AlarmRequest { action: AlarmAction::Activate.into(), member_id: 7, alarm })
            }
            6 => Call::Defragment,
            7 => Call::MoveLeader(self.random.below(3)),
            8 => Call::Downgrade(pb::DowngradeRequest {
                action: self.random.below(4) as i32,
                version: self.random.pick(&["", "x", "3.4.0", "3.6.0", "9.9.9"]).into(),
            }),
            _ => Call::Status,
        }
    }

    fn member(&mut self) -> Call {
        match self.random.below(12) {
            0 => Call::MemberAdd(vec![self.random.pick(&["bad", "", "http://127.0.0.1", "http:///x"]).into()]),
            1 => Call::MemberRemove(12345),
            2 => Call::MemberUpdate(12345, vec!["http://127.0.0.1:1".into()]),
            3 => Call::MemberPromote(12345),
            4..6 => Call::MemberList(self.random.one_in(2)),
            _ => Call::Range(self.range()),
        }
    }

    fn auth(&mut self) -> Call {
        let user = if self.random.one_in(12) { String::new() } else { self.random.pick(&USERS).into() };
        // The root user and role leave seldom: not much can be asked without them.
        let lesser = if self.random.one_in(12) { user.clone() } else { self.random.pick(&USERS[1..]).into() };
        let role: String = if self.random.one_in(12) { String::new() } else { self.random.pick(&ROLES).into() };
        let lesser_role: String =
            if self.random.one_in(20) { role.clone() } else { self.random.pick(&ROLES[1..]).into() };
        let password: String = if self.random.one_in(6) { self.random.pick(&["", "other"]) } else { "secret" }.into();
        match self.random.below(100) {
            0..30 => {
                let slot = self.random.below(USERS.len() as u64) as usize;
                Call::Authenticate(slot, password)
            }
            30..36 => {
                let options = self.random.one_in(4).then(|| UserAddOptions { no_password: self.random.one_in(2) });
                Call::UserAdd(pb::AuthUserAddRequest { name: user, password, options, ..Default::default() })
            }
            36..41 => Call::UserGet(user),
            41..44 => Call::UserList,
            44..46 => Call::UserDelete(lesser),
            46..48 => Call::UserChangePassword(lesser, password),
            48..56 => Call::UserGrantRole(user, role),
            56..59 => Call::UserRevokeRole(lesser, lesser_role),
            59..65 => Call::RoleAdd(role),
            65..71 => Call::RoleGet(role),
            71..74 => Call::RoleList,
            74..75 => Call::RoleDelete(lesser_role),
            75..88 => {
                let Some(index) = ROLES.iter().position(|known| *known == role) else { return Call::RoleGet(role) };
                self.grants[index] += 1;
                // The root role cannot leave, and what is granted to it counts for nothing.
                if self.grants[index] > GRANTS && index > 0 {
                    self.grants[index] = 0;
                    return self.role_anew(role);
                }
                let (key, end) = self.permitted_span();
                let kind =
                    self.random.pick(&[permission::Type::Read, permission::Type::Write, permission::Type::Readwrite]);
                Call::RoleGrantPermission(role, kind, key.to_vec(), end.to_vec())
            }
            88..91 => {
                let (key, end) = self.permitted_span();
                Call::RoleRevokePermission(role, key.to_vec(), end.to_vec())
            }
            91..94 => Call::AuthStatus,
            94 => {
                // Off, and on again with fresh tokens soon after.
                for slot in 0..USERS.len() {
                    self.due.push(Op { user: None, call: Call::Authenticate(slot, PASSWORDS[0].into()) });
                }
                self.due.push(Op { user: None, call: Call::AuthEnable });
                for _ in 0..self.random.below(10) {
                    let call = self.call();
                    self.due.push(Op { user: None, call });
                }
                Call::AuthDisable
            }
            _ => {
                let slot = self.random.below(USERS.len() as u64) as usize;
                Call::Authenticate(slot, "secret".into())
            }
        }
    }
}

/// Whether a transaction puts anything.
fn writes(txn: &pb::TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(txn)) => writes(txn),
        _ => false,
    })
}

/// Gives deletes to the end of all keys an end. etcd 3.6.16 does not see that such a one covers a key that the same transaction
/// puts, carries both out, and loses the key when a compaction falls on that revision.
fn bound_deletes(txn: &mut pb::TxnRequest) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Request::RequestDeleteRange(delete)) if *delete.range_end == [0] => {
                delete.range_end = Bytes::from_static(b"\xff");
            }
            Some(Request::RequestTxn(txn)) => bound_deletes(txn),
            _ => {}
        }
    }
}
