#!/usr/bin/env bash
# Produce and consume beside what the disk itself does in the same minutes: records of 1 KiB, then of 100 B, each with what
# the broker wrote per payload byte. RECORDS and SMALL_RECORDS change the load, WINDOW how many are on their way.
set -euo pipefail
cd "$(dirname "$0")/.."
records=${RECORDS:-3000000} small_records=${SMALL_RECORDS:-20000000} window=${WINDOW:-100000}
dir=$(mktemp -d "${BENCH_DIR:-$PWD/target}/bench.XXXXXX")
sentinel=127.0.0.1:50152 broker=127.0.0.1:50151
pids=()
cleanup() {
  [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2> /dev/null || true
  wait
  rm -rf "$dir"
}
trap cleanup EXIT
goulette=$PWD/bin/goulette
cd "$dir"
echo "== disk"
"$goulette" bench disk
"$goulette" sentinel -address $sentinel -enable-embedded-etcd=false -log-level warn & pids+=($!)
"$goulette" broker -address $broker -sentinel $sentinel -log-level warn & pids+=($!)
broker_pid=$!
deadline=$((SECONDS + 30))
until "$goulette" health $broker > /dev/null 2>&1; do
  [ $SECONDS -lt $deadline ] || { echo "the broker does not serve" >&2; exit 1; }
  sleep 0.05
done

# The broker's bytes as the kernel accounts them: dirtied pages count when they are dirtied, so nothing is missed by being late.
written() { awk '/^write_bytes/ { print $2 }' "/proc/$broker_pid/io"; }

# produce_and_consume RECORDS SIZE
produce_and_consume() {
  local before topic="bench-$2"
  echo "== produce $1 records of $2 bytes, one partition, one producer, synced before the ack"
  before=$(written)
  "$goulette" bench produce --sentinel $sentinel --topic "$topic" --records "$1" --size "$2" --window "$window"
  sleep 2 # what was acknowledged last is on its way into its fragment
  awk -v bytes=$(($(written) - before)) -v payload=$(($1 * $2)) \
    'BEGIN { printf "written per payload byte: %.2f\n", bytes / payload }'
  echo "== consume them"
  "$goulette" bench consume --sentinel $sentinel --topic "$topic" --records "$1"
}
produce_and_consume "$records" 1024
echo "== disk again"
"$goulette" bench disk
produce_and_consume "$small_records" 100
echo "== disk again"
"$goulette" bench disk
