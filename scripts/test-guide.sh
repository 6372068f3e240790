#!/usr/bin/env bash
# The commands of docs/etcd_integration.md, each where an operator types it: network namespaces are the machines, with the
# guide's addresses and a folder each. What a command is to bring about is checked, not only its exit code.
#
# Needs root, and a real etcd with its etcdctl (ETCD, ETCDCTL, or on the PATH); exits with 77 without. KEEP=1 leaves the folders.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
etcd=${ETCD:-$(command -v etcd || true)} etcdctl=${ETCDCTL:-$(command -v etcdctl || true)}
[ "$(id -u)" = 0 ] || { echo "not run: network namespaces need root" >&2; exit 77; }
[ -x "$etcd" ] && [ -x "$etcdctl" ] || { echo "not run: no etcd and etcdctl (ETCD, ETCDCTL)" >&2; exit 77; }
command -v openssl > /dev/null || { echo "not run: no openssl to make certificates with" >&2; exit 77; }

work=$(mktemp -d)
. "$here/scripts/checks.sh"
mkdir "$work/bin"
ln -s "$(realpath "${GOULETTE_BIN:-$here/bin/goulette}")" "$work/bin/goulette"
ln -s "$(realpath "$etcd")" "$work/bin/etcd"
ln -s "$(realpath "$etcdctl")" "$work/bin/etcdctl"
export PATH=$work/bin:$PATH
id=0123456789abcdef0123456789abcdef

# Machines m1 to m5 are 10.0.0.1 to 10.0.0.5, e1 to e3 are 10.0.1.1 to 10.0.1.3; nobody else is in their network.
net=ggl$$
machines="m1 m2 m3 m4 m5 e1 e2 e3"
declare -A running=()

finish() {
  local rc=$? name
  for name in "${!running[@]}"; do end "$name" KILL; done
  for name in $machines hub; do
    ip netns del "$net$name" 2> /dev/null || true
    rm -rf "/etc/netns/$net$name"
  done
  rmdir /etc/netns 2> /dev/null || true
  if [ "${KEEP:-}" = 1 ]; then echo "kept: $work"; else rm -rf "$work"; fi
  exit $rc
}
trap finish EXIT

ip netns add "${net}hub"
ip -n "${net}hub" link add bridge type bridge
ip -n "${net}hub" link set bridge up
for machine in $machines; do
  ip netns add "$net$machine"
  case $machine in m*) address=10.0.0.${machine#m} ;; e*) address=10.0.1.${machine#e} ;; esac
  ip link add "$machine" netns "${net}hub" type veth peer name eth0 netns "$net$machine"
  ip -n "${net}hub" link set "$machine" master bridge up
  ip -n "$net$machine" addr add "$address/16" dev eth0
  ip -n "$net$machine" link set eth0 up
  ip -n "$net$machine" link set lo up
  # Their names, seen by what runs in the namespace.
  mkdir -p "/etc/netns/$net$machine" "$work/$machine"
  printf '%s\n' '127.0.0.1 localhost' '10.0.0.1 sentinel1 broker1' '10.0.0.2 sentinel2 broker2' '10.0.0.3 sentinel3 broker3' \
    > "/etc/netns/$net$machine/hosts"
done

# on MACHINE COMMAND...: in its folder there.
on() {
  local machine=$1
  shift
  ip netns exec "$net$machine" env -C "$work/$machine" "$@"
}
# start NAME MACHINE COMMAND...: runs until `end NAME`; what it says is in NAME.out.
start() {
  local name=$1 machine=$2
  shift 2
  ip netns exec "$net$machine" env -C "$work/$machine" "$@" > "$work/$name.out" 2>&1 < /dev/null &
  running[$name]=$!
}
end() {
  kill "-${2:-TERM}" "${running[$1]}" 2> /dev/null || true
  ended "$1" || true
}
# It ends by itself, or as it was told: its exit code.
ended() {
  local pid=${running[$1]}
  unset "running[$1]"
  { wait "$pid"; } 2> /dev/null
}
# What a process says, at its terminal or in its log.
says() { { cat "$work/$1.out" "$work"/*/logs/*"_$1.log" 2> /dev/null || true; } | grep -F -- "$2"; }
stop_all() {
  local name
  for name in "${!running[@]}"; do end "$name"; done
}
# Everything stops, and the machines are new.
reinstall() {
  local name
  stop_all
  for name in $machines; do find "$work/$name" -mindepth 1 -maxdepth 1 -name "*" ! -name 'etc' -exec rm -rf {} +; done
}
serves() { within 60 on m1 goulette health "$1"; }
# produces LINE SENTINELS, shows LINES SENTINELS
produces() { on m2 goulette client -mode producer -topic orders -message "$1" -sentinel "$2"; }
shows() {
  local read
  read=$(on m3 goulette client -mode consumer -topic orders -group '' -from beginning -until-end -sentinel "$2") || return 1
  [ "$read" = "$1" ] || { echo "read: $read"; return 1; }
}
status_says() { on m1 goulette cluster status --sentinel "$2" | grep -F -- "$1"; }
voters() { [ "$(on m1 goulette etcd member list --endpoints "$2" --output json | grep -o '"name":"[^"]*"' | sort | grep -o 'sentinel[0-9]' | tr -d '\n')" = "$1" ]; }
topic_ids() { on m1 goulette topic list --output json --sentinel "$1" | grep -o '"id":"[0-9a-f]*"'; }

three=10.0.0.1:50052,10.0.0.2:50052,10.0.0.3:50052
initial=sentinel1=http://10.0.0.1:2380,sentinel2=http://10.0.0.2:2380,sentinel3=http://10.0.0.3:2380
sentinel() { # NUMBER, as under "Three sentinels"
  start "sentinel$1" "m$1" goulette sentinel -id "sentinel$1" -address "10.0.0.$1:50052" -etcd-listen-host "10.0.0.$1" \
    -cluster-id $id -etcd-initial-cluster $initial
}
broker() { # NUMBER [SENTINELS]
  start "broker$1" "m$1" goulette broker -id "broker$1" -address "10.0.0.$1:50051" -sentinel "${2:-$three}"
}

echo "== three sentinels"
sentinel 1
check "one of three waits, and says for whom" within 30 says sentinel1 "sentinel3 (http://10.0.0.3:2380)"
check "  and warns that there is no TLS" says sentinel1 "without TLS"
sentinel 2
check "two of three serve" serves 10.0.0.1:50052
sentinel 3
for number in 1 2 3; do broker $number; done
for number in 1 2 3; do check "broker$number serves" serves 10.0.0.$number:50051; done
check "a record goes in" produces first $three
check "  and comes out" shows first $three
check "cluster status shows the metadata store" status_says "of 2.0 GiB" $three
end sentinel2 KILL
check "without one of them a topic is made" on m1 goulette topic create without-one --sentinel $three
sentinel 2
check "  and it comes back" serves 10.0.0.2:50052

echo "== a further sentinel, and one that goes"
check "one is announced and taken back" eval "on m1 goulette sentinel join -id sentinel4 -peer-url http://10.0.0.4:2380 -etcd-endpoints 10.0.0.1:2379 &&
  on m1 goulette sentinel leave -peer-url http://10.0.0.4:2380 -etcd-endpoints 10.0.0.1:2379"
check "sentinel join" on m1 goulette sentinel join -id sentinel4 -peer-url http://10.0.0.4:2380 -etcd-endpoints 10.0.0.1:2379
read -ra flags <<< "$(grep -o 'goulette sentinel -id.*' "$work/check.out")"
start sentinel4 m4 "${flags[@]}"
check "  what it prints starts it" serves 10.0.0.4:50052
check "  and it counts for majorities" within 30 voters sentinel1sentinel2sentinel3sentinel4 10.0.0.1:2379
check "  it knows the topics" on m4 goulette topic describe orders --sentinel 10.0.0.4:50052
check "sentinel leave" on m1 goulette sentinel leave -id sentinel4 -etcd-endpoints 10.0.0.1:2379
check "  its process ends" refuses ended sentinel4
start sentinel4 m4 "${flags[@]}"
check "  and does not come back" refuses ended sentinel4
check "  for it is removed" says sentinel4 "the member has been permanently removed"
end sentinel3 KILL
check "a lost one is taken out" on m1 goulette sentinel leave -id sentinel3 -etcd-endpoints 10.0.0.1:2379
check "  and another one joins" on m1 goulette sentinel join -id sentinel5 -peer-url http://10.0.0.5:2380 -etcd-endpoints 10.0.0.1:2379
read -ra flags <<< "$(grep -o 'goulette sentinel -id.*' "$work/check.out")"
start sentinel5 m5 "${flags[@]}"
check "  in its place" within 60 voters sentinel1sentinel2sentinel5 10.0.0.1:2379
check "records go on" produces second 10.0.0.1:50052,10.0.0.2:50052,10.0.0.5:50052

echo "== backup and restore"
check "cluster export" on m1 goulette cluster export metadata.jsonl --sentinel 10.0.0.1:50052
check "snapshot save" on m1 goulette etcd snapshot save etcd.snapshot --endpoints 10.0.0.1:2379
check "  and etcdctl's" on m1 etcdctl snapshot save other.snapshot --endpoints 10.0.0.1:2379
before=$(topic_ids 10.0.0.1:50052)
stop_all
for number in 1 2 3; do
  rm -rf "$work/m$number"/{default.etcd,data/sentinel_*}
  cp -n "$work/m1/etcd.snapshot" "$work/m$number/"
  check "etcd restore on machine $number" on m$number goulette etcd restore etcd.snapshot --data-dir default.etcd --name sentinel$number \
    --initial-advertise-peer-urls http://10.0.0.$number:2380 --initial-cluster $initial
done
for number in 1 2 3; do sentinel $number; broker $number; done
for number in 1 2 3; do check "broker$number serves" serves 10.0.0.$number:50051; done
check "the topics have their ids" [ "$(topic_ids $three)" = "$before" ]
check "  and their records" within 30 shows $'first\nsecond' $three
check "import refuses where topics are" refuses on m1 goulette cluster import metadata.jsonl --sentinel 10.0.0.1:50052

echo "== an external etcd"
stop_all
members=e1=http://10.0.1.1:2380,e2=http://10.0.1.2:2380,e3=http://10.0.1.3:2380
for number in 1 2 3; do
  start "etcd$number" "e$number" etcd --name "e$number" --listen-client-urls "http://10.0.1.$number:2379" \
    --advertise-client-urls "http://10.0.1.$number:2379" --listen-peer-urls "http://10.0.1.$number:2380" \
    --initial-advertise-peer-urls "http://10.0.1.$number:2380" --initial-cluster $members
done
external() { # NUMBER [FLAGS]
  local number=$1
  shift
  start "sentinel$number" "m$number" goulette sentinel -id "sentinel$number" -address "10.0.0.$number:50052" \
    -cluster-id $id -enable-embedded-etcd=false "$@"
}
for number in 1 2; do external $number -etcd-endpoints 10.0.1.1:2379,10.0.1.2:2379,10.0.1.3:2379; done
two=10.0.0.1:50052,10.0.0.2:50052
for number in 1 2; do check "sentinel$number serves" serves 10.0.0.$number:50052; done
check "moving between modes: import" on m1 goulette cluster import metadata.jsonl --sentinel $two
for number in 1 2 3; do broker $number $two; done
for number in 1 2 3; do check "broker$number serves" serves 10.0.0.$number:50051; done
check "the topics have their ids" [ "$(topic_ids $two)" = "$before" ]
check "  and their records" within 30 shows $'first\nsecond' $two
check "operations go on behind those that were imported" bash -c "[ \$(ip netns exec ${net}m1 goulette oplog --sentinel $two --limit 1000 | grep -c registerBroker) -ge 6 ]"
end etcd1 KILL
check "without one of the three etcds a topic is made" within 30 on m1 goulette topic create without-an-etcd --sentinel $two
check "keys can be read with etcdctl" bash -c "ip netns exec ${net}e2 etcdctl --endpoints 10.0.1.2:2379 get --prefix /goulette/ | grep without-an-etcd"
mkfifo "$work/m2/lines"
exec {lines}<> "$work/m2/lines"
start producer m2 goulette client -mode producer -topic orders -file lines -sentinel $two
echo third >&$lines
check "a producer runs" within 30 shows $'first\nsecond\nthird' $two
end etcd2 KILL
check "without two a topic is refused" refuses on m1 timeout 60 goulette topic create in-vain --sentinel $two
echo fourth >&$lines
check "  records go on" within 30 shows $'first\nsecond\nthird\nfourth' $two
check "  the topics can be asked for" on m1 goulette topic describe orders --sentinel $two
check "  and the status says how old the answer is" status_says "silent for" $two

echo "== users and TLS"
reinstall
mkdir -p "$work/e1/etc"
openssl req -x509 -newkey rsa:2048 -nodes -days 1 -keyout "$work/ca.key" -out "$work/ca.pem" -subj /CN=authority 2> /dev/null
for who in server client; do
  openssl req -newkey rsa:2048 -nodes -keyout "$work/$who.key" -out "$work/$who.csr" -subj "/CN=$who" 2> /dev/null
  openssl x509 -req -in "$work/$who.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days 1 -out "$work/$who.pem" \
    -extfile <(echo "subjectAltName=IP:10.0.1.1") 2> /dev/null
done
start etcd1 e1 etcd --listen-client-urls https://10.0.1.1:2379 --advertise-client-urls https://10.0.1.1:2379 \
  --cert-file "$work/server.pem" --key-file "$work/server.key" --client-cert-auth --trusted-ca-file "$work/ca.pem"
ctl() {
  on e1 etcdctl --endpoints https://10.0.1.1:2379 --cacert "$work/ca.pem" --cert "$work/client.pem" --key "$work/client.key" "$@"
}
check "etcd serves by TLS" within 30 ctl endpoint health
# An etcd that has users at all has a root; the rest is the guide's.
ctl user add root:root-secret > /dev/null
ctl user grant-role root root > /dev/null
check "role add" ctl role add goulette
check "role grant-permission" ctl role grant-permission goulette --prefix=true readwrite /goulette/
check "user add" ctl user add goulette:right-secret
check "user grant-role" ctl user grant-role goulette goulette
ctl auth enable > /dev/null
echo right-secret > "$work/etcd.password"
tls=(-etcd-endpoints https://10.0.1.1:2379 -etcd-username goulette -etcd-password-file "$work/etcd.password"
  -etcd-cacert "$work/ca.pem" -etcd-cert "$work/client.pem" -etcd-key "$work/client.key")
external 1 "${tls[@]}"
check "the sentinel serves" serves 10.0.0.1:50052
broker 1 10.0.0.1:50052
check "  and a broker" serves 10.0.0.1:50051
check "a record goes in" produces secured 10.0.0.1:50052
check "  and comes out" shows secured 10.0.0.1:50052
check "config show does not tell the password" bash -c "goulette config show sentinel -enable-embedded-etcd=false ${tls[*]} > $work/shown && ! grep right-secret $work/shown"
check "no log tells it" refuses grep -rq right-secret "$work"/{m1,sentinel1.out}

echo "== one sentinel, restored"
reinstall
start sentinel1 m1 goulette sentinel -id sentinel1
check "it serves" within 60 on m1 goulette health 127.0.0.1:50052
start broker1 m1 goulette broker
check "and a broker" within 60 on m1 goulette health 127.0.0.1:50051
on m1 goulette topic create kept > /dev/null
check "snapshot save" on m1 goulette etcd snapshot save etcd.snapshot
end broker1
end sentinel1
rm -rf "$work/m1"/{default.etcd,data/sentinel_sentinel1}
check "etcd restore" on m1 goulette etcd restore etcd.snapshot --data-dir default.etcd --name sentinel1 \
  --initial-advertise-peer-urls http://127.0.0.1:2380
start sentinel1 m1 goulette sentinel -id sentinel1
check "it serves again" within 60 on m1 goulette health 127.0.0.1:50052
check "  and knows the topic" on m1 goulette topic describe kept

echo "== host names, as the compose file has them"
reinstall
named=sentinel1=http://sentinel1:2380,sentinel2=http://sentinel2:2380,sentinel3=http://sentinel3:2380
for number in 1 2 3; do
  start "sentinel$number" "m$number" env GOULETTE_SENTINEL_ADDRESS=:50052 GOULETTE_SENTINEL_CLUSTER_ID=$id GOULETTE_LOG_DIR=- \
    GOULETTE_SENTINEL_ETCD_LISTEN_HOST=0.0.0.0 GOULETTE_SENTINEL_ETCD_INITIAL_CLUSTER=$named \
    goulette sentinel -id "sentinel$number" -advertise "sentinel$number:50052" -etcd-advertise-host "sentinel$number"
  start "broker$number" "m$number" env GOULETTE_BROKER_ADDRESS=:50051 GOULETTE_LOG_DIR=- \
    GOULETTE_BROKER_SENTINEL=sentinel1:50052,sentinel2:50052,sentinel3:50052 \
    goulette broker -id "broker$number" -advertise "broker$number:50051"
done
for number in 1 2 3; do check "sentinel$number and broker$number serve" eval "serves sentinel$number:50052 && serves broker$number:50051"; done
check "a record goes in" produces named sentinel1:50052
check "  and comes out" shows named sentinel1:50052

echo "== when something is wrong"
reinstall
refused() { # WORDS FLAGS...: the sentinel ends, and says so
  local words=$1
  shift
  check "$words" ends_saying "$words" "$@"
}
ends_saying() {
  local words=$1
  shift
  refuses on m1 timeout 30 goulette sentinel "$@" > "$work/refused.out" 2>&1 || return 1
  cat "$work/refused.out"
  grep -qF -- "$words" "$work/refused.out"
}
start other m1 etcd --data-dir other.etcd
check "an etcd of the system" within 30 on m1 etcdctl endpoint health
refused "of the embedded etcd is taken"
check "  the way out that it names" grep -F -- '-enable-embedded-etcd=false -etcd-endpoints 127.0.0.1:2379' "$work/refused.out"
start sentinel1 m1 goulette sentinel -enable-embedded-etcd=false -etcd-endpoints 127.0.0.1:2379
check "  serves indeed" within 30 on m1 goulette health 127.0.0.1:50052
on m1 etcdctl put /goulette/topics/strange '{"made":"by hand"}' > /dev/null
check "foreign key in the status" within 30 bash -c "ip netns exec ${net}m1 goulette cluster status | grep -F 'foreign key'"
reinstall
refused "-etcd-endpoints names an external etcd while the embedded one is on" -etcd-endpoints 127.0.0.1:2379
refused "does not name this sentinel" -id sentinel9 -etcd-initial-cluster sentinel1=http://127.0.0.1:2380
start sentinel1 m1 goulette sentinel -enable-embedded-etcd=false -address 10.0.0.1:50052
start broker1 m1 goulette broker -address 10.0.0.1:50051 -sentinel 10.0.0.1:50052
check "a broker of one sentinel" serves 10.0.0.1:50051
end sentinel1
end broker1
rm -rf "$work/m1/data/sentinel_sentinel1"
start sentinel1 m1 goulette sentinel -enable-embedded-etcd=false -address 10.0.0.1:50052
serves 10.0.0.1:50052 > /dev/null
start broker1 m1 goulette broker -address 10.0.0.1:50051 -sentinel 10.0.0.1:50052
check "a broker of another cluster ends" refuses ended broker1
check "  and names it" says broker1 "belongs to cluster"
start sentinel2 m2 goulette sentinel -enable-embedded-etcd=false -address 10.0.0.2:50052
serves 10.0.0.2:50052 > /dev/null
start broker2 m2 goulette broker -id broker2 -address 10.0.0.2:50051 -sentinel $two
check "two sentinels in traditional mode refuse a broker" refuses ended broker2

echo "== services"
root=$work/root
mkdir -p "$root"/{etc/systemd/system,usr/local/bin,bin}
cp "$here"/packaging/systemd/*.service "$root/etc/systemd/system/"
cp "$(realpath "$work/bin/goulette")" "$root/usr/local/bin/goulette"
printf '#!/bin/sh\n' > "$root/bin/kill"
chmod +x "$root/bin/kill"
# The manual pages and units of the whole system are not ours to judge.
takes() {
  systemd-analyze verify --root="$root" --man=no --recursive-errors=no "goulette-$1.service" > "$work/unit.out" 2>&1 || return 1
  cat "$work/unit.out"
  ! grep -F goulette- "$work/unit.out"
}
if command -v systemd-analyze > /dev/null; then
  for unit in sentinel broker; do check "systemd takes the $unit's unit" takes $unit; done
else
  echo "left out: the units, as there is no systemd-analyze here"
fi
summary
