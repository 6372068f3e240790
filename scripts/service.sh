#!/usr/bin/env bash
# service.sh run ROLE ID PORT [FLAG...]    a sentinel or broker in the foreground, with a pid file
# service.sh start ROLE ID PORT [FLAG...]  the same in the background; returns when it serves
# service.sh status | stop-all | clean-data YES
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

# Whether the process of a pid file still runs; sets pid, role, id, address.
alive() {
  [ -f "$1" ] || return 1
  read -r pid started role id address < "$1" || return 1
  [ -n "$started" ] && [ "$(started_at "$pid")" = "$started" ]
}

pid_file() { echo "$run_dir/$1_$2.pid"; }

refuse_if_running() {
  if alive "$(pid_file "$1" "$2")"; then
    echo "$1 $2 runs already (pid $pid, $address): make status shows it, make stop-all stops it" >&2
    exit 1
  fi
}

run() {
  local role=$1 id=$2 port=$3
  shift 3
  refuse_if_running "$role" "$id"
  mkdir -p "$run_dir" logs
  echo "$$ $(started_at $$) $role $id 127.0.0.1:$port" > "$(pid_file "$role" "$id")"
  exec "bin/$role" -id "$id" -address "127.0.0.1:$port" "$@"
}

start() {
  local role=$1 id=$2 port=$3 output child deadline
  refuse_if_running "$role" "$id"
  mkdir -p "$run_dir" logs
  output=logs/${role}_$id.out
  # A session of its own: Ctrl-C at the terminal that started it does not reach it.
  if command -v setsid > /dev/null; then
    setsid "$0" run "$@" > "$output" 2>&1 < /dev/null &
  else
    nohup "$0" run "$@" > "$output" 2>&1 < /dev/null &
  fi
  child=$!
  deadline=$((SECONDS + 30))
  until bin/goulette health "127.0.0.1:$port" > /dev/null 2>&1 && alive "$(pid_file "$role" "$id")"; do
    if ! kill -0 "$child" 2> /dev/null || [ $SECONDS -ge $deadline ]; then
      echo "$role $id does not serve on 127.0.0.1:$port; its last words ($output, logs/${role}_$id.log):" >&2
      tail -n 5 "$output" "logs/${role}_$id.log" >&2 2> /dev/null || true
      exit 1
    fi
    sleep 0.05
  done
  echo "$role $id serves on 127.0.0.1:$port (pid $pid, log logs/${role}_$id.log)"
}

status() {
  local file any=
  for file in "$run_dir"/*.pid; do
    alive "$file" || continue
    any=1
    if bin/goulette health "$address" > /dev/null 2>&1; then state=serving; else state="not serving"; fi
    printf '%-9s %-16s %-22s pid %-8s %s\n' "$role" "$id" "$address" "$pid" "$state"
  done
  [ -n "$any" ] || echo "nothing runs: make run-all starts a sentinel and a broker"
}

# Brokers first, so that they can take leave of their sentinel.
stop_all() {
  local wanted file deadline any=
  for wanted in broker sentinel etcd; do
    for file in "$run_dir/${wanted}"_*.pid; do
      if alive "$file"; then
        any=1
        kill -TERM "$pid" 2> /dev/null || true
        deadline=$((SECONDS + 15))
        while alive "$file"; do
          if [ $SECONDS -ge $deadline ]; then
            echo "$role $id (pid $pid) did not stop within 15 s: killed" >&2
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

command=${1:-}
shift || true
case $command in
  run) run "$@" ;;
  start) start "$@" ;;
  running) alive "$(pid_file "$1" "$2")" ;;
  status) status ;;
  stop-all) stop_all ;;
  clean-data) clean_data "$@" ;;
  *) sed -n '2,4s/^# //p' "$0" >&2; exit 2 ;;
esac
