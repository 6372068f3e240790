#!/usr/bin/env bash
# etcd's own benchmark tool against a real etcd and against `goulette etcd`, in turns on the same disk, ROUNDS times
# (default 3). Prints requests a second of each turn, the ratio of the medians, and the memory that each server held.
#
# GOULETTE_BIN names our binary (default: bin/goulette), REFERENCE the folder of the real one, BENCH_DIR where both keep
# their data.
set -euo pipefail
cd "$(dirname "$0")/.."
reference=${REFERENCE:-$PWD/target/etcd-reference}
goulette=$(realpath "${GOULETTE_BIN:-bin/goulette}")
rounds=${ROUNDS:-3}
scripts/etcd-reference.sh "$reference"
dir=$(mktemp -d "${BENCH_DIR:-$PWD/target}/bench-etcd.XXXXXX")
bench=$reference/bin/etcdbench
server_pid=
stop() {
  [ -z "$server_pid" ] || { kill "$server_pid" 2> /dev/null || true; wait "$server_pid" 2> /dev/null || true; }
  server_pid=
}
trap 'stop; rm -rf "$dir"' EXIT
endpoint=127.0.0.1:22379

start() { # the server's command
  rm -rf "$dir/data"
  "$@" --name bench --data-dir "$dir/data" --log-level error \
    --listen-client-urls "http://$endpoint" --advertise-client-urls "http://$endpoint" \
    --listen-peer-urls http://127.0.0.1:22380 --initial-advertise-peer-urls http://127.0.0.1:22380 \
    --initial-cluster bench=http://127.0.0.1:22380 > "$dir/log" 2>&1 &
  server_pid=$!
  local deadline=$((SECONDS + 30))
  until curl -fs "http://$endpoint/health" | grep -q true; do
    [ $SECONDS -lt $deadline ] || { cat "$dir/log" >&2; exit 1; }
    sleep 0.1
  done
}

# Requests a second of one run of the tool.
rate() {
  "$bench" --endpoints "$endpoint" "$@" 2> "$dir/tool.log" | awk '/Requests\/sec:/ { print $2; found = 1 } END { exit !found }' \
    || { cat "$dir/tool.log" >&2; exit 1; }
}

turn() { # name, the server's command
  local name=$1
  shift
  start "$@"
  local put_1 put_100 range
  put_1=$(rate --conns 1 --clients 1 put --key-size 16 --val-size 256 --total "${PUTS_1:-2000}" --key-space-size 10000 --sequential-keys)
  put_100=$(rate --conns 10 --clients 100 put --key-size 16 --val-size 256 --total "${PUTS_100:-50000}" --key-space-size 10000 --sequential-keys)
  range=$(rate --conns 10 --clients 100 range "$(printf 'x')" --total "${RANGES:-50000}" --consistency l)
  local memory
  memory=$(awk '/VmHWM/ { print int($2 / 1024) }' "/proc/$server_pid/status")
  stop
  echo "$name $put_1 $put_100 $range $memory" | tee -a "$dir/results"
}

echo "server, puts/s with 1 client, with 100 clients, linearizable ranges/s with 100 clients, peak memory in MiB"
for _ in $(seq "$rounds"); do
  turn etcd "$reference/bin/etcd"
  turn goulette "$goulette" etcd
done
awk '
  { n[$1]++; for (column = 2; column <= 5; column++) value[$1, column, n[$1]] = $column }
  function median(name, column,    i, j, count, sorted, swap) {
    count = n[name]
    for (i = 1; i <= count; i++) sorted[i] = value[name, column, i] + 0
    for (i = 1; i <= count; i++) for (j = i + 1; j <= count; j++) if (sorted[j] < sorted[i]) { swap = sorted[i]; sorted[i] = sorted[j]; sorted[j] = swap }
    return sorted[int((count + 1) / 2)]
  }
  END {
    split("puts, 1 client|puts, 100 clients|ranges, 100 clients|peak memory, MiB", title, "|")
    print "| | etcd | goulette etcd | ratio |\n| --- | ---: | ---: | ---: |"
    for (column = 2; column <= 5; column++) {
      theirs = median("etcd", column); ours = median("goulette", column)
      printf "| %s | %.0f | %.0f | %.2f |\n", title[column - 1], theirs, ours, ours / theirs
    }
  }' "$dir/results"
