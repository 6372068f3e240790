#!/usr/bin/env bash
# sentinel.sh run MODE [ID PORT]   a sentinel in the foreground; MODE is traditional, etcd or embedded
# sentinel.sh start MODE           the same in the background; returns when it serves
# sentinel.sh cluster MODE         three of them; MODE is etcd-cluster or embedded-cluster
# sentinel.sh addresses            those that run here, comma-separated; if none does, where one would
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/places.sh

flags() { mapfile -t flags < <(sentinel_flags "$@"); }

refuse_other_mode() {
  local id address running
  while read -r id address running; do
    if [ "$running" != "$1" ]; then
      echo "sentinel $id runs already, in another mode ($running, $address): make stop-all stops it" >&2
      exit 1
    fi
  done < <(scripts/service.sh list sentinel)
}

one() {
  local action=$1 id=${3:-sentinel1} port=${4:-$(sentinel_port_of 1)}
  export MODE=$2
  refuse_other_mode "$MODE"
  flags "$MODE" 1 "$id"
  exec scripts/service.sh "$action" sentinel "$id" "$port" "${flags[@]}"
}

cluster() {
  local number started=()
  export MODE=$1
  refuse_other_mode "$MODE"
  for number in 1 2 3; do
    if scripts/service.sh running sentinel "sentinel$number"; then continue; fi
    flags "$MODE" "$number" "sentinel$number"
    scripts/service.sh launch sentinel "sentinel$number" "$(sentinel_port_of "$number")" "${flags[@]}"
    started+=("$number")
  done
  for number in 1 2 3; do scripts/service.sh await sentinel "sentinel$number"; done
  [ ${#started[@]} -gt 0 ] || echo "They ran already."
  echo "make run-broker, run-producer and run-consumer talk to all three: $(addresses)"
}

addresses() {
  local found
  found=$(scripts/service.sh list sentinel | awk '{ printf "%s%s", comma, $2; comma = "," }')
  echo "${found:-127.0.0.1:$(sentinel_port_of 1)}"
}

case ${1:-} in
  run | start) one "$@" ;;
  cluster) cluster "$2" ;;
  addresses) addresses ;;
  *) sed -n '2,5s/^# //p' "$0" >&2; exit 2 ;;
esac
