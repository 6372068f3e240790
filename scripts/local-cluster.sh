# Sourced by test scripts: a sentinel and a broker of their own, in a temporary folder ($work) and on free ports
# ($sentinel, $broker: their addresses). Both are killed and the folder is removed when the script exits.
# GOULETTE_BIN names the binary (default: bin/goulette).

goulette=$(realpath "${GOULETTE_BIN:-bin/goulette}") || { echo "no binary: make build, or set GOULETTE_BIN" >&2; exit 1; }
[ -x "$goulette" ] || { echo "no binary at $goulette: make build, or set GOULETTE_BIN" >&2; exit 1; }
work=$(mktemp -d)
sentinel_pid= broker_pid=

# The shell reaps its children only when it waits, so a pid that it holds cannot have been taken by another process.
end_cluster() {
  local pid
  for pid in $broker_pid $sentinel_pid; do
    kill -KILL "$pid" 2> /dev/null || true
    wait "$pid" 2> /dev/null || true
  done
  rm -rf "$work"
}
trap end_cluster EXIT

# Below the range from which the kernel takes ports for outgoing connections: a restarted process finds its own again.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null || { echo "$port"; return; }
  done
}

until_serving() {
  local role=$1 address=$2 pid=$3 deadline=$((SECONDS + 30))
  until "$goulette" health "$address" > /dev/null 2>&1; do
    if ! kill -0 "$pid" 2> /dev/null || [ $SECONDS -ge $deadline ]; then
      echo "the $role does not serve on $address:" >&2
      tail -n 20 "$work/$role.out" >&2
      exit 1
    fi
    sleep 0.05
  done
}

# Where the sentinel keeps its metadata: a script may say otherwise.
store_flags=(-enable-embedded-etcd=false)
sentinel=127.0.0.1:$(free_port)
broker=127.0.0.1:$(free_port)

start_sentinel() {
  "$goulette" sentinel -address "$sentinel" -data "$work/sentinel" -log-dir "$work/logs" \
    "${store_flags[@]}" -admin-address 127.0.0.1:0 "$@" >> "$work/sentinel.out" 2>&1 &
  sentinel_pid=$!
  until_serving sentinel "$sentinel" "$sentinel_pid"
}

start_broker() {
  "$goulette" broker -address "$broker" -data "$work/broker" -log-dir "$work/logs" -sentinel "$sentinel" \
    -admin-address 127.0.0.1:0 "$@" >> "$work/broker.out" 2>&1 &
  broker_pid=$!
  until_serving broker "$broker" "$broker_pid"
}

# A clean stop, as an operator does it.
stop_broker() {
  kill -TERM "$broker_pid"
  wait "$broker_pid" || { echo "the broker did not stop cleanly:" >&2; tail -n 20 "$work/broker.out" >&2; exit 1; }
  broker_pid=
}

kill_broker() {
  kill -KILL "$broker_pid"
  wait "$broker_pid" 2> /dev/null || true
  broker_pid=
}
