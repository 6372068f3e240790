#!/usr/bin/env bash
# run-all.sh MODE: a sentinel and a broker in the background (with a sentinel's external etcd before them in mode etcd),
# messages through them, shown, and the services left running. MODE is traditional, etcd or embedded.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/places.sh
mode=${1:-traditional}

while read -r id address running; do
  if [ "$running" != "$mode" ]; then
    echo "sentinel $id runs already, in another mode ($running, $address): make stop-all stops it" >&2
    exit 1
  fi
done < <(scripts/service.sh list sentinel)
if scripts/service.sh running sentinel sentinel1 && scripts/service.sh running broker broker1; then
  echo "They run already:"
  scripts/service.sh status
  echo "Send with: make run-producer MESSAGE='...'   read with: make run-consumer   stop with: make stop-all"
  exit 0
fi
if [ "$mode" = etcd ] && [ -z "${ETCD_ENDPOINTS:-}" ]; then
  scripts/service.sh running etcd etcd1 || scripts/etcd.sh start
fi
scripts/service.sh running sentinel sentinel1 || scripts/sentinel.sh start "$mode"
sentinel=$(scripts/sentinel.sh addresses)
scripts/service.sh running broker broker1 || scripts/service.sh start broker broker1 50051 -sentinel "$sentinel"

topic=${TOPIC:-test}
echo
echo "Sending three messages to topic $topic:"
printf 'Hello, Goulette\n你好,Goulette\nsent on %s\n' "$(date)" |
  bin/client -mode producer -sentinel "$sentinel" -topic "$topic" -file -
echo "Reading topic $topic from the beginning to its end:"
bin/client -mode consumer -sentinel "$sentinel" -topic "$topic" -group run-all -from beginning -until-end | sed 's/^/  /'
cat <<END

The services go on running.
  make run-producer MESSAGE='...'    send a message         make run-consumer    read, as group "default"
  make status                        what runs              make stop-all        stop it
END
