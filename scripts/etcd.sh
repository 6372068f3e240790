#!/usr/bin/env bash
# etcd.sh run | start            an external etcd in the foreground, or in the background
# etcd.sh cluster                three of them, in the background
# etcd.sh status | topics | operations
# etcd.sh clean YES | backup FOLDER | restore FILE
# etcd.sh program                the etcd that is run
#
# The etcd looked at is the one of the sentinel that runs here, or else the one that runs here, or else ETCD_ENDPOINTS.
# etcdctl does the looking where it is installed (ETCDCTL names it), goulette etcd where not. Only keys below ETCD_PREFIX
# (default /goulette) are ever touched.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/places.sh

program() {
  if [ -n "${ETCD:-}" ]; then echo "$ETCD"
  elif command -v etcd > /dev/null; then command -v etcd
  else echo "$PWD/bin/goulette etcd"; fi
}

# The flags of etcd N in FOLDER; CLUSTER lists its members, or is empty.
member_flags() {
  local number=$1 folder=$2 cluster=$3 kind=etcd client peer
  client=http://127.0.0.1:$(etcd_port_of "$number") peer=http://127.0.0.1:$(etcd_peer_port_of "$number")
  # The folder of one is of no use to the other.
  case $(program) in *"goulette etcd") kind=goulette ;; esac
  printf '%s\n' --name "etcd$number" --data-dir "$folder/etcd$number.$kind" \
    --listen-client-urls "$client" --advertise-client-urls "$client" \
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
    --initial-cluster "${cluster:-etcd$number=$peer}" --initial-cluster-token goulette-checkout \
    --auto-compaction-retention 1h
}

refuse_taken_ports() {
  local port
  for port in "$@"; do
    if (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null; then
      echo "port $port is taken, perhaps by an etcd of this system or by a sentinel with its embedded etcd (make status): \
stop that, or give another one (ETCD_PORT, ETCD_PEER_PORT), or use the etcd that runs there (make run-sentinel-with-etcd)" >&2
      exit 1
    fi
  done
}

one() {
  local flags
  if scripts/service.sh running etcd etcd1; then scripts/service.sh status; exit 1; fi
  refuse_taken_ports "$(etcd_port_of 1)" "$(etcd_peer_port_of 1)"
  mapfile -t flags < <(member_flags 1 "$(folder_of etcd)" "")
  echo "etcd: $(program) (clients on port $(etcd_port_of 1), peers on $(etcd_peer_port_of 1))"
  MODE=etcd exec scripts/service.sh "$1" etcd etcd1 "$(etcd_port_of 1)" "${flags[@]}"
}

cluster() {
  local number flags members=
  export MODE=etcd-cluster
  for number in 1 2 3; do
    members=$members,etcd$number=http://127.0.0.1:$(etcd_peer_port_of $number)
    scripts/service.sh running etcd "etcd$number" ||
      refuse_taken_ports "$(etcd_port_of $number)" "$(etcd_peer_port_of $number)"
  done
  echo "etcd: $(program)"
  for number in 1 2 3; do
    if scripts/service.sh running etcd "etcd$number"; then continue; fi
    mapfile -t flags < <(member_flags $number "$(folder_of etcd-cluster)" "${members#,}")
    scripts/service.sh launch etcd "etcd$number" "$(etcd_port_of $number)" "${flags[@]}"
  done
  for number in 1 2 3; do scripts/service.sh await etcd "etcd$number"; done
}

# Sets endpoints, and mode: what the sentinel of this checkout uses.
find_etcd() {
  local id address running
  endpoints= mode=external
  while read -r id address running; do
    mode=$running
    case $running in
      traditional)
        echo "there is no etcd: the sentinel that runs ($id, $address) is in traditional mode and keeps its metadata in its own folder" >&2
        exit 1
        ;;
      embedded | embedded-cluster) endpoints=$endpoints,127.0.0.1:$(etcd_port_of "${id//[^0-9]/}") ;;
    esac
  done < <(scripts/service.sh list sentinel)
  if [ -n "${ETCD_ENDPOINTS:-}" ]; then endpoints=$ETCD_ENDPOINTS; fi
  if [ -z "$endpoints" ]; then
    while read -r id address running; do endpoints=$endpoints,$address; done < <(scripts/service.sh list etcd)
  fi
  endpoints=${endpoints#,}
  if [ -z "$endpoints" ]; then
    echo "there is no etcd here: nothing that has one runs (make run-sentinel-embedded, make run-etcd), and ETCD_ENDPOINTS names none" >&2
    exit 1
  fi
}

etcdctl=${ETCDCTL:-$(command -v etcdctl || true)}

# Prints keys below a prefix with their values, each on a line.
get_below() {
  if [ -n "$etcdctl" ]; then
    ETCDCTL_API=3 "$etcdctl" --endpoints "$endpoints" get --prefix "$1"
  else
    bin/goulette etcd get "$1" --prefix --endpoints "$endpoints"
  fi
}

delete_below() {
  if [ -n "$etcdctl" ]; then
    ETCDCTL_API=3 "$etcdctl" --endpoints "$endpoints" del --prefix "$1"
  else
    bin/goulette etcd del "$1" --prefix --endpoints "$endpoints"
  fi
}

show() {
  local what=$1 found
  shift
  find_etcd
  found=$(for prefix in "$@"; do get_below "$etcd_prefix/$prefix/"; done)
  if [ -n "$found" ]; then echo "$found"; else echo "no $what below $etcd_prefix at $endpoints"; fi
}

status() {
  find_etcd
  echo "etcd at $endpoints ($mode)"
  if [ -n "$etcdctl" ]; then
    ETCDCTL_API=3 "$etcdctl" --endpoints "$endpoints" endpoint health
    ETCDCTL_API=3 "$etcdctl" --endpoints "$endpoints" endpoint status --write-out table
    ETCDCTL_API=3 "$etcdctl" --endpoints "$endpoints" alarm list
  else
    bin/goulette etcd status --endpoints "$endpoints"
  fi
}

clean() {
  local answer deleted
  find_etcd
  if [ "${1:-}" != 1 ]; then
    [ -t 0 ] || { echo "this deletes all keys below $etcd_prefix/ at $endpoints: say YES=1 to do so without being asked" >&2; exit 1; }
    read -r -p "Delete all metadata (the keys below $etcd_prefix/) at $endpoints? [y/N] " answer
    [ "$answer" = y ] || [ "$answer" = yes ] || { echo "nothing deleted"; exit 1; }
  fi
  deleted=$(delete_below "$etcd_prefix/")
  echo "$deleted keys below $etcd_prefix/ deleted at $endpoints; records stay with their brokers (goulette cluster adopt takes them back)"
}

# One sentinel of this checkout that runs.
a_sentinel() {
  local address
  read -r _ address _ < <(scripts/service.sh list sentinel) || true
  echo "${SENTINEL:-${address:-}}"
}

backup() {
  local folder=$1 stamp sentinel
  find_etcd
  sentinel=$(a_sentinel)
  [ -n "$sentinel" ] || { echo "no sentinel runs that could export the metadata: start one" >&2; exit 1; }
  stamp=$(date -u +%Y%m%dT%H%M%SZ)
  mkdir -p "$folder"
  case $mode in
    embedded | embedded-cluster)
      bin/goulette etcd snapshot save "$folder/etcd-$stamp.snapshot" --endpoints "${endpoints%%,*}"
      ;;
  esac
  bin/goulette cluster export "$folder/metadata-$stamp.jsonl" --sentinel "$sentinel"
  echo "put back with: make etcd-restore FILE=$folder/metadata-$stamp.jsonl"
}

restore() {
  local file=${1:-} sentinel
  find_etcd
  [ -n "$file" ] || { echo "say which backup: make etcd-restore FILE=backups/metadata-...jsonl (make etcd-backup writes them)" >&2; exit 2; }
  sentinel=$(a_sentinel)
  [ -n "$sentinel" ] || { echo "no sentinel runs that could import the metadata: start one" >&2; exit 1; }
  bin/goulette cluster import "$file" --sentinel "$sentinel"
}

case ${1:-} in
  program) program ;;
  run | start) one "$1" ;;
  cluster) cluster ;;
  status) status ;;
  topics) show topics topics partitions ;;
  operations) show operations operations ;;
  clean) clean "${2:-}" ;;
  backup) backup "${2:-backups}" ;;
  restore) restore "${2:-}" ;;
  *) sed -n '2,7s/^# //p' "$0" >&2; exit 2 ;;
esac
