#!/usr/bin/env bash
# Is `goulette etcd` an etcd? Random runs and every command of etcdctl 3.4, 3.5 and 3.6, beside a real etcd 3.6, which is
# built first where it is missing (see etcd-reference.sh; exits with 77 where it cannot be).
#
#   test-etcd-compat.sh [SEEDS]      SEEDS runs (default 100) of STEPS operations each (default 10000), from run FIRST on
#
# COMPAT_JOBS runs go on at once (default 8: a run mostly waits for its servers); SHRINK_SECONDS is how long one that differs is
# made shorter (default 120).
#
# GOULETTE_BIN names our binary (default: bin/goulette), REFERENCE the folder of the real one.
set -euo pipefail
cd "$(dirname "$0")/.."
reference=${REFERENCE:-$PWD/target/etcd-reference}
scripts/etcd-reference.sh "$reference"
export COMPAT_REFERENCE=$reference/bin/etcd COMPAT_CANDIDATE="${GOULETTE_BIN:-$PWD/bin/goulette} etcd"
# Both servers sync every write: in memory that costs nothing, and durability is judged elsewhere.
if [ -z "${COMPAT_DIR:-}" ] && [ -w /dev/shm ]; then
  COMPAT_DIR=$(mktemp -d /dev/shm/etcd-compat.XXXXXX)
  trap 'rm -rf "$COMPAT_DIR"' EXIT
  export COMPAT_DIR
fi
compat() { "${CARGO:-cargo}" test --quiet --locked -p goulette --test etcd_compat -- "$@"; }

programs=()
for name in etcdctl etcdctl-3.5 etcdctl-3.4; do
  [ ! -x "$reference/bin/$name" ] || programs+=("$reference/bin/$name")
done
equal=0
compat etcdctl "${programs[@]}" || equal=1
compat differential "${1:-100}" "${STEPS:-10000}" "${FIRST:-0}" || equal=1
exit $equal
