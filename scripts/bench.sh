#!/usr/bin/env bash
# Produce and consume beside what the disk itself does in the same minute. RECORDS and SIZE change the load.
set -euo pipefail
cd "$(dirname "$0")/.."
records=${RECORDS:-3000000} size=${SIZE:-1024}
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
deadline=$((SECONDS + 30))
until "$goulette" health $broker > /dev/null 2>&1; do
  [ $SECONDS -lt $deadline ] || { echo "the broker does not serve" >&2; exit 1; }
  sleep 0.05
done
echo "== produce $records records of $size bytes, one partition, one producer, synced before the ack"
"$goulette" bench produce --sentinel $sentinel --topic bench --records "$records" --size "$size"
echo "== consume them"
"$goulette" bench consume --sentinel $sentinel --topic bench --records "$records"
echo "== disk again"
"$goulette" bench disk
