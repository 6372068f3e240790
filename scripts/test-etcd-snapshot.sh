#!/usr/bin/env bash
# The way in and the way out: a real etcd's snapshot restored into ours, and ours into a real etcd. Both times the restored
# server must hold the same history (HashKV), leases, users and roles, and etcdutl must accept our file.
# The real one is built first where it is missing (see etcd-reference.sh; exits with 77 where it cannot be).
#
# GOULETTE_BIN names our binary (default: bin/goulette), REFERENCE the folder of the real one.
set -euo pipefail
cd "$(dirname "$0")/.."
reference=${REFERENCE:-$PWD/target/etcd-reference}
scripts/etcd-reference.sh "$reference"
ours=$(realpath "${GOULETTE_BIN:-bin/goulette}")
etcdctl=$reference/bin/etcdctl etcdutl=$reference/bin/etcdutl
dir=$(mktemp -d "${TMPDIR:-/tmp}/etcd-snapshot.XXXXXX")
pid=
trap '[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
client=127.0.0.1:$((20000 + $$ % 10000)) peer=http://127.0.0.1:$((30000 + $$ % 10000))
export ETCDCTL_ENDPOINTS=$client
flags=(--name m --listen-client-urls "http://$client" --advertise-client-urls "http://$client"
  --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "m=$peer")
restore=(--name m --initial-cluster "m=$peer" --initial-advertise-peer-urls "$peer")

start() { # PROGRAM... ; in folder $folder
  "$@" --data-dir "$folder" "${flags[@]}" >"$folder.log" 2>&1 &
  pid=$!
  for _ in $(seq 150); do
    "$etcdctl" endpoint health >/dev/null 2>&1 && return
    sleep 0.2
  done
  echo "FAIL: $1 did not start:" >&2
  tail -5 "$folder.log" >&2
  exit 1
}
stop() {
  kill "$pid"
  wait "$pid" || true
  pid=
}
write() {
  for n in $(seq 60); do echo "put key$((n % 9)) value$n"; done | while read -r put key value; do "$etcdctl" "$put" "$key" "$value" >/dev/null; done
  "$etcdctl" del key3 >/dev/null
  "$etcdctl" compact 30 >/dev/null
  "$etcdctl" put leased x --lease "$("$etcdctl" lease grant 5000 | cut -d ' ' -f 2)" >/dev/null
  "$etcdctl" user add root:secret >/dev/null
  "$etcdctl" user grant-role root root >/dev/null
  "$etcdctl" role add reader >/dev/null
  "$etcdctl" role grant-permission reader read a z >/dev/null
}
facts() { # all that both servers must agree on
  "$etcdctl" get "" --from-key -w fields | grep -v '^"\(ClusterID\|MemberID\|RaftTerm\)"'
  "$etcdctl" endpoint hashkv -w json | grep -o '"hash":[0-9]*,"compact_revision":[0-9]*,"hash_revision":[0-9]*'
  "$etcdctl" lease list
  "$etcdctl" user get root
  "$etcdctl" role get reader
}
same() { # NAME FILE FILE
  diff "$2" "$3" || { echo "FAIL: $1" >&2; exit 1; }
  echo "ok: $1"
}

folder=etcd
start "$reference/bin/etcd"
write
facts >etcd.facts
"$etcdctl" snapshot save etcd.snapshot >/dev/null 2>&1
stop
"$etcdutl" snapshot status etcd.snapshot -w json >etcdutl.status
"$ours" etcd snapshot status etcd.snapshot --output json >ours.status
same "what a snapshot holds is told alike" <(grep -o '"hash":[0-9]*' etcdutl.status) <(grep -o '"hash":[0-9]*' ours.status)

"$ours" etcd restore etcd.snapshot --data-dir ours "${restore[@]}" >/dev/null
folder=ours
start "$ours" etcd
facts >ours.facts
same "a real etcd's state goes on in ours" etcd.facts ours.facts
"$etcdctl" put after restore >/dev/null
"$ours" etcd snapshot save ours.snapshot --endpoints "$client" >/dev/null
"$etcdctl" snapshot save ctl.snapshot >/dev/null 2>&1
facts >ours.facts
stop

"$etcdutl" snapshot status ctl.snapshot >/dev/null
"$etcdutl" snapshot restore ours.snapshot --data-dir back "${restore[@]}" >/dev/null 2>&1
folder=back
start "$reference/bin/etcd"
facts >back.facts
same "our state goes on in a real etcd" ours.facts back.facts
stop

"$ours" etcd restore ours.snapshot --data-dir raised "${restore[@]}" --bump-revision 1000000 --mark-compacted >/dev/null
folder=raised
start "$ours" etcd
revision=$("$etcdctl" get after -w fields | sed -n 's/^"Revision" : //p')
[ "$revision" -gt 1000000 ] || { echo "FAIL: the revision is $revision" >&2; exit 1; }
"$etcdctl" get after | grep -qx restore || { echo "FAIL: a key is lost" >&2; exit 1; }
stop
echo "ok: revisions go on a million higher"
