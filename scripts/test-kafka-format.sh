#!/usr/bin/env bash
# Apache Kafka's own DumpLogSegments judges our files. Needs Java 17, Maven and, once, Maven Central; exits with 77
# without them.
#
#   test-kafka-format.sh                       a log written by the records crate alone, then the fragments of a broker
#                                              that was killed twice under load, recovered and stopped cleanly
#   test-kafka-format.sh PARTITION EXPECTED    the fragments in the folder of a partition of a stopped broker, against
#                                              what was sent (JSON lines, see scripts/kafka_dump_check.py)
#
# RECORDS says how many (default 150000); GOULETTE_BIN names the binary (default: bin/goulette).
set -euo pipefail
cd "$(dirname "$0")/.."
records=${RECORDS:-150000}
cargo=${CARGO:-cargo}

# Dumps the fragments given, in the order of their offsets, and compares.
judge() {
  local expected=$1
  shift
  scripts/kafka-dump.sh target/kafka-tools "$@" | scripts/kafka_dump_check.py "$expected" "${check_options[@]}"
}
check_options=()

if [ $# -eq 2 ]; then
  judge "$2" "$1"/*.log
  exit
fi
[ $# -eq 0 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
check_options=(--all-codecs)

. scripts/local-cluster.sh

echo "== a log written by the records crate"
log=$work/00000000000000000000.0.log
"$cargo" run --quiet --release --locked -p goulette-records --example write_batches -- \
  "$log" "$work/expected.jsonl" "$records"
judge "$work/expected.jsonl" "$log"

echo "== a broker, killed twice, recovered, stopped cleanly"
"$cargo" build --quiet --release --locked -p goulette-client --example produce_samples
produce=${CARGO_TARGET_DIR:-target}/release/examples/produce_samples
start_sentinel
start_broker
# Small fragments, so that most are sealed.
"$goulette" topic create samples -sentinel "$sentinel" --partitions 1 --config fragment_bytes=1048576 > /dev/null

# Acknowledged counts come in as the producer goes on; the broker dies while later records are under way.
kill_at=$((records * 3 / 10))
kills=0
exec 3< <("$produce" "$sentinel" samples "$records")
produce_pid=$!
while read -r acknowledged <&3; do
  if [ $kills -lt 2 ] && [ "$acknowledged" -ge "$kill_at" ] && [ "$acknowledged" -lt $((records * 9 / 10)) ]; then
    kill_broker
    kills=$((kills + 1))
    echo "killed at $acknowledged of $records"
    kill_at=$((acknowledged + records * 3 / 10))
    start_broker
  fi
done
wait "$produce_pid" || { echo "the producer failed" >&2; exit 1; }
[ $kills -eq 2 ] || { echo "the broker was killed $kills times, not twice" >&2; exit 1; }
stop_broker

partition=$(echo "$work"/broker/topics/samples.*/0)
sealed=$(find "$partition" -name '*.index' | wc -l)
echo "$(find "$partition" -name '*.log' | wc -l) fragments, $sealed of them sealed"
[ "$sealed" -ge 2 ] || { echo "too few fragments were sealed to judge any" >&2; exit 1; }
judge "$work/expected.jsonl" "$partition"/*.log
