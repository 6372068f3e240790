#!/usr/bin/env bash
# service.sh run ROLE ID PORT [FLAG...]    a broker, sentinel or etcd in the foreground, with a pid file
# service.sh start ROLE ID PORT [FLAG...]  the same in the background; returns when it serves
# service.sh serving ROLE ID               returns 0 when it serves
# service.sh status | stop-all | clean-data YES
#
# MODE in the environment is noted beside a sentinel, so that others learn where its metadata is. ETCD names the program of
# an etcd (default: etcd, if it is installed, else goulette etcd).
#
# A pid file under data/run holds the pid and the start time of the process, so that nothing is ever stopped that
# merely inherited a number: only what was started here, never by name.
set -euo pipefail
cd "$(dirname "$0")/.."
run_dir=data/run

# The moment a process started, in a form that is constant for its life; empty if there is no such process.
started_at() {
  if [ -r "/proc/$1/stat" ]; then
    # Field 22, counted behind the command name, which may hold spaces.
    sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | awk '{ print $20 }'
  else
    ps -o lstart= -p "$1" 2>/dev/null | tr -s ' ' '_' || true
  fi
}

# Whether the process of a pid file still runs; sets pid, role, id, address, mode.
alive() {
  [ -f "$1" ] || return 1
  read -r pid started role id address mode < "$1" || return 1
  [ -n "$started" ] && [ "$(started_at "$pid")" = "$started" ]
}

pid_file() { echo "$run_dir/$1_$2.pid"; }

refuse_if_running() {
  if alive "$(pid_file "$1" "$2")"; then
    echo "$1 $2 runs already (pid $pid, $address, $mode): make status shows it, make stop-all stops it" >&2
    exit 1
  fi
}

run() {
  local role=$1 id=$2 port=$3
  shift 3
  refuse_if_running "$role" "$id"
  mkdir -p "$run_dir" logs
  echo "$$ $(started_at $$) $role $id 127.0.0.1:$port ${MODE:--}" > "$(pid_file "$role" "$id")"
  case $role in
    # etcd takes every variable that begins with ETCD_ for a setting of its own.
    etcd) exec env -u ETCD_PREFIX -u ETCD_ENDPOINTS -u ETCD_PORT -u ETCD_PEER_PORT $(scripts/etcd.sh program) "$@" ;;
    *) exec "bin/$role" -id "$id" -address "127.0.0.1:$port" "$@" ;;
  esac
}

# Whether the process at an address answers as one that is of use.
serves() {
  case $1 in
    # A linearizable read: a majority is there.
    etcd) bin/goulette etcd get no-such-key --endpoints "$2" > /dev/null 2>&1 ;;
    *) bin/goulette health "$2" > /dev/null 2>&1 ;;
  esac
}

start() {
  launch "$@"
  await "$1" "$2"
}

# Starts it and does not wait: members of a cluster serve only together.
launch() {
  local role=$1 id=$2 output
  refuse_if_running "$role" "$id"
  mkdir -p "$run_dir" logs
  output=logs/${role}_$id.out
  # A session of its own: Ctrl-C at the terminal that started it does not reach it.
  if command -v setsid > /dev/null; then
    setsid "$0" run "$@" > "$output" 2>&1 < /dev/null &
  else
    nohup "$0" run "$@" > "$output" 2>&1 < /dev/null &
  fi
  local child=$!
  # Its pid file tells more than we know here.
  local deadline=$((SECONDS + 10))
  until alive "$(pid_file "$role" "$id")" || ! kill -0 "$child" 2> /dev/null || [ $SECONDS -ge $deadline ]; do sleep 0.02; done
}

await() {
  local file deadline=$((SECONDS + 60)) wanted=$1 name=$2 words=()
  file=$(pid_file "$wanted" "$name")
  until alive "$file" && serves "$wanted" "$address"; do
    if ! alive "$file" || [ $SECONDS -ge $deadline ]; then
      echo "$wanted $name does not serve; its last words (logs/${wanted}_$name.out, logs/${wanted}_$name.log):" >&2
      for words in "logs/${wanted}_$name.out" "logs/${wanted}_$name.log"; do
        [ ! -f "$words" ] || tail -n 5 "$words" >&2
      done
      exit 1
    fi
    sleep 0.05
  done
  words=logs/${wanted}_$name.log
  [ "$wanted" != etcd ] || words=logs/etcd_$name.out
  echo "$wanted $name serves on $address (pid $pid, log $words)"
}

status() {
  local file any=
  for file in "$run_dir"/*.pid; do
    alive "$file" || continue
    any=1
    if serves "$role" "$address"; then state=serving; else state="not serving"; fi
    printf '%-9s %-16s %-22s pid %-8s %-12s %s\n' "$role" "$id" "$address" "$pid" "$state" "${mode#-}" | sed 's/ *$//'
  done
  [ -n "$any" ] || echo "nothing runs: make run-all starts a sentinel and a broker"
}

# Brokers first, so that they can take leave of their sentinel; then sentinels, whose metadata is in an etcd that runs last.
stop_all() {
  local wanted file deadline any=
  for wanted in broker sentinel etcd; do
    for file in "$run_dir/${wanted}"_*.pid; do
      if alive "$file"; then
        any=1
        kill -TERM "$pid" 2> /dev/null || true
        deadline=$((SECONDS + 20))
        while alive "$file"; do
          if [ $SECONDS -ge $deadline ]; then
            echo "$role $id (pid $pid) did not stop within 20 s: killed" >&2
            kill -KILL "$pid" 2> /dev/null || true
            break
          fi
          sleep 0.05
        done
        echo "$role $id stopped"
      fi
      rm -f "$file"
    done
  done
  [ -n "$any" ] || echo "nothing runs"
}

clean_data() {
  local file answer
  for file in "$run_dir"/*.pid; do
    if alive "$file"; then
      echo "$role $id still runs (pid $pid): make stop-all first" >&2
      exit 1
    fi
  done
  if [ "${1:-}" != 1 ]; then
    [ -t 0 ] || { echo "this deletes data/ and logs/: say YES=1 to do so without being asked" >&2; exit 1; }
    read -r -p "Delete data/ and logs/, all records included? [y/N] " answer
    [ "$answer" = y ] || [ "$answer" = yes ] || { echo "nothing deleted"; exit 1; }
  fi
  rm -rf data logs
  echo "data/ and logs/ deleted"
}

# What runs of a role: address and mode, one a line.
list() {
  local file wanted=$1
  for file in "$run_dir/${wanted}"_*.pid; do
    if alive "$file"; then echo "$id $address $mode"; fi
  done
}

command=${1:-}
shift || true
case $command in
  run) run "$@" ;;
  start) start "$@" ;;
  launch) launch "$@" ;;
  await) await "$@" ;;
  running) alive "$(pid_file "$1" "$2")" ;;
  serving) alive "$(pid_file "$1" "$2")" && serves "$1" "$address" ;;
  list) list "$@" ;;
  status) status ;;
  stop-all) stop_all ;;
  clean-data) clean_data "$@" ;;
  *) sed -n '2,5s/^# //p' "$0" >&2; exit 2 ;;
esac
