#!/usr/bin/env bash
# The integration suite of tests/modes in all three modes. ETCD_BIN and ETCD_34_BIN name a real etcd 3.6 and 3.4, ETCDCTL_BIN
# an etcdctl. Arguments choose cases by their names, GOULETTE_MODES the modes. Exits with 77 where an etcd is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOULETTE_BIN=${GOULETTE_BIN:-$PWD/bin/goulette}
export ETCD_BIN=${ETCD_BIN:-$(command -v etcd || true)} ETCDCTL_BIN=${ETCDCTL_BIN:-$(command -v etcdctl || true)}
rc=0
"${CARGO:-cargo}" test --locked -p goulette --test modes -- "$@" || rc=$?
exit $rc
