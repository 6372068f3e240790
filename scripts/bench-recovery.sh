#!/usr/bin/env bash
# Fills a data directory, kills who wrote it with -9, and times the next opening beside what the disk alone takes: first of
# the log, then of a whole broker. PARTITIONS and MEGABYTES change the sizes; BENCH_DIR is where the data goes.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(mktemp -d "${BENCH_DIR:-$PWD/target}/bench-recovery.XXXXXX")
sentinel=127.0.0.1:50162 broker=127.0.0.1:50161
pids=()
cleanup() {
  [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2> /dev/null || true
  wait
  rm -rf "$dir"
}
trap cleanup EXIT
goulette=$PWD/bin/goulette
recovery=${CARGO_TARGET_DIR:-target}/release/examples/recovery
megabytes=${MEGABYTES:-10000}

for partitions in ${PARTITIONS:-1000 10000}; do
  echo "== $partitions partitions, $megabytes MB, killed while it writes"
  "$recovery" "$dir/data" "$partitions" "$megabytes"
  echo "== a whole broker on the same directory, killed again"
  "$recovery" kill "$dir/data" "$partitions" > /dev/null
  (cd "$dir" && exec "$goulette" sentinel -address $sentinel -enable-embedded-etcd=false -data "$dir/sentinel" -log-level warn) & pids+=($!)
  started=$(date +%s%N)
  (cd "$dir" && exec "$goulette" broker -id bench -address $broker -sentinel $sentinel -data "$dir/data" -log-level warn) & pids+=($!)
  broker_pid=$!
  deadline=$((SECONDS + 120))
  until "$goulette" health $broker > /dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || { echo "the broker does not serve" >&2; exit 1; }
    sleep 0.05
  done
  echo "serves after $((($(date +%s%N) - started) / 1000000)) ms"
  awk '/^VmRSS|^FDSize/ { print $1, $2, $3 }' "/proc/$broker_pid/status"
  kill "${pids[@]}"
  wait
  pids=()
  rm -rf "$dir/data" "$dir/sentinel"
done
