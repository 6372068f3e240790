#!/usr/bin/env bash
# Every command of the first README, in a fresh clone, each judged by its effect and not only by its exit code.
#
#   QUICK=1       leaves out make test, make vet, and the build from nothing (this checkout's target/ is used)
#   KEEP=1        leaves the clone where it is
#
# Needs the ports of docs/etcd_integration.md; exits with 77 if one of them is taken.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
clone=$work/goulette
. "$here/scripts/checks.sh"

finish() {
  local rc=$?
  [ ! -d "$clone" ] || make -C "$clone" --no-print-directory stop-all > /dev/null 2>&1 || true
  if [ "${KEEP:-}" = 1 ]; then echo "kept: $clone"; else rm -rf "$work"; fi
  exit $rc
}
trap finish EXIT

for port in 50051 50052 50053 50054 50055 50056 2379 2380 22379 22380 32379 32380; do
  if (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null; then
    echo "not run: port $port is taken" >&2
    exit 77
  fi
done

says() { grep -qF -- "$1" "$work/make.out"; }

# make TARGET..., to its end; what it says is in make.out.
run() { make --no-print-directory "$@" > "$work/make.out" 2>&1 < /dev/null; }
run_ok() { check "make $*" run "$@"; }

# make TARGET... in the background, as in a terminal of its own.
background() { setsid make --no-print-directory "$@" > "$work/${1}.out" 2>&1 < /dev/null & }

serves() { within 60 bin/goulette health "127.0.0.1:$1"; }
etcd_serves() { within 60 bin/goulette etcd get x --endpoints "127.0.0.1:$1"; }
broker_known() { within 60 bash -c "bin/goulette cluster status --sentinel ${1:-127.0.0.1:50052} --output json | grep -q '\"id\":\"${2:-broker1}\"'"; }
nothing_listens() {
  local port
  for port in 50051 50052 2379 2380; do
    if (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null; then echo "somebody listens on port $port"; return 1; fi
  done
}
# Reads as `make run-consumer` does, until it has shown the message.
consumer_shows() {
  local message=$1 rc=0
  background run-consumer
  within 60 grep -qF -- "$message" "$work/run-consumer.out" || rc=1
  # The consumer is not among what stop-all stops: it is ended as by Ctrl-C.
  pgrep -s "$!" -f 'client -mode consumer' | xargs -r kill -INT
  wait "$!" || true
  return $rc
}
stop() {
  check "make stop-all" run stop-all
  check "  nothing listens any more" within 30 nothing_listens
}

echo "== a fresh clone"
git clone --quiet "$here" "$clone"
cd "$clone"
if [ "${QUICK:-}" = 1 ]; then ln -s "$here/target" target; fi
run_ok deps
run_ok build
check "  bin/broker, bin/sentinel and bin/client tell their version" bash -c 'for r in broker sentinel client; do bin/$r -version || exit 1; done'

# The three ways, command by command: sentinel first, and broker first.
way() {
  local mode=$1 order=$2 target message
  case $mode in
    traditional) target=run-sentinel ;;
    etcd) target=run-sentinel-with-etcd ;;
    embedded) target=run-sentinel-embedded ;;
  esac
  message="$mode, $order first, $RANDOM"
  echo "== $mode, $order first"
  if [ "$mode" = etcd ]; then
    background run-etcd
    check "make run-etcd: it serves on 2379" etcd_serves 2379
  fi
  if [ "$order" = sentinel ]; then
    background $target
    check "make $target: it serves" serves 50052
    background run-broker
  else
    background run-broker
    sleep 1
    check "  a broker waits for its sentinel" bash -c '! bin/goulette health 127.0.0.1:50051'
    background $target
    check "make $target: it serves" serves 50052
  fi
  check "make run-broker: it serves" serves 50051
  check "  the sentinel knows the broker" broker_known
  run_ok run-producer "MESSAGE=$message"
  check "make run-consumer shows the message" consumer_shows "$message"
  if [ "$mode" = traditional ]; then
    for target in etcd-status etcd-topics etcd-operations etcd-clean etcd-backup etcd-restore; do
      check "make $target refuses" refuses run $target
      check "  and says that there is no etcd" says "there is no etcd"
    done
  fi
  stop
}
for mode in traditional etcd embedded; do
  for order in sentinel broker; do way $mode $order; done
done

echo "== all at once"
for target in run-all run-all-with-etcd run-all-embedded; do
  run_ok $target
  check "  it shows the messages" says "你好,Goulette"
  check "  and leaves a broker running" serves 50051
  run_ok $target
  check "  a second time it says that they run" says "run already"
  stop
done

echo "== looking after the etcd, embedded"
run_ok run-all-embedded
run_ok etcd-status
check "  it shows the endpoint" says "127.0.0.1:2379"
run_ok etcd-topics
check "  it shows the topic" says "/goulette/topics/test"
check "  and its replicas" says "/goulette/partitions/"
run_ok etcd-operations
check "  it shows the operations" says "generateTopicReplicas"
bin/goulette etcd put /other/key kept > /dev/null
run_ok etcd-backup
check "  a portable export" bash -c 'ls backups/metadata-*.jsonl'
check "  and a whole snapshot" bash -c 'ls backups/etcd-*.snapshot && bin/goulette etcd snapshot status backups/etcd-*.snapshot'
before=$(bin/goulette topic list --output json | grep -o '"id":"[0-9a-f]*"')
check "make etcd-restore refuses where topics are" refuses run etcd-restore "FILE=$(ls backups/metadata-*.jsonl)"
check "make etcd-clean refuses without YES=1 where nobody can be asked" refuses run etcd-clean
run_ok etcd-clean YES=1
check "  the topics are gone" within 30 bash -c '[ "$(bin/goulette topic list --output json)" = "[]" ]'
check "  what is not ours is still there" bash -c 'bin/goulette etcd get /other/key | grep -q kept'
check "  and the broker's records, too" bash -c 'ls data/broker1/topics/test.*'
run_ok etcd-restore "FILE=$(ls backups/metadata-*.jsonl)"
check "  the topics are back with their ids" bash -c "[ \"\$(bin/goulette topic list --output json | grep -o '\"id\":\"[0-9a-f]*\"')\" = '$before' ]"
check "  and their records" within 60 bash -c 'bin/client -mode consumer -topic test -group "" -from beginning -until-end | grep -qF "Hello, Goulette"'
stop

echo "== three sentinels"
run_ok run-sentinel-cluster-embedded
for port in 50052 50054 50056; do check "  a sentinel on $port" serves $port; done
background run-broker
check "make run-broker: it serves" serves 50051
run_ok run-producer MESSAGE=cluster-embedded
check "make run-consumer shows the message" consumer_shows cluster-embedded
check "  three members" bash -c '[ "$(bin/goulette etcd member list | grep -c started)" = 3 ]'
stop
run_ok run-etcd-cluster
for port in 2379 22379 32379; do check "  an etcd on $port" etcd_serves $port; done
run_ok run-sentinel-cluster
for port in 50052 50054 50056; do check "  a sentinel on $port" serves $port; done
background run-broker
check "make run-broker: it serves" serves 50051
run_ok run-producer MESSAGE=cluster-etcd
check "make run-consumer shows the message" consumer_shows cluster-etcd
run_ok etcd-status
check "  it shows three endpoints" says "127.0.0.1:32379"
stop

echo "== examples and tests"
background run-etcd
background run-sentinel-with-etcd
check "the etcd integration example, as the README runs it" cargo run --quiet --locked -p goulette --example etcd_integration
stop
run_ok test-embedded-etcd
check "  it says that all checks passed" says "all checks passed"
check "the logger example ends as it is meant to" bash -c 'cargo run --quiet --example logger_example; [ $? = 1 ] && grep -q "the example is over" logs/example.log'
run_ok fmt
check "  and changes nothing" git diff --quiet
if [ "${QUICK:-}" = 1 ]; then
  echo "left out (QUICK=1): make test, make vet"
else
  run_ok vet
  run_ok test
  check "  tests ran" says "test result: ok"
fi
run_ok clean-data YES=1
check "  data/ is gone" bash -c '! [ -e data ]'
if [ "${QUICK:-}" != 1 ]; then
  run_ok clean
  check "  bin/ and target/ are gone" bash -c '! [ -e bin ] && ! [ -e target ]'
fi

summary
