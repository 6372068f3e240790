#!/usr/bin/env bash
# The etcd integration example against a sentinel with an embedded etcd, both of their own: nothing that runs is touched.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/local-cluster.sh
port=$(free_port)
store_flags=(-etcd-port "$port" -etcd-peer-port "$(free_port)" -etcd-data-dir "$work/sentinel.etcd")
start_sentinel
"${CARGO:-cargo}" run --quiet --locked -p goulette --example etcd_integration -- \
  -sentinel "$sentinel" -etcd-endpoints "127.0.0.1:$port"
