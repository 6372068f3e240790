#!/usr/bin/env bash
# Starts a sentinel and a broker in the background (traditional mode: no etcd), sends messages through them, shows
# them, and leaves the services running.
set -euo pipefail
cd "$(dirname "$0")/.."

if scripts/service.sh running sentinel sentinel1 && scripts/service.sh running broker broker1; then
  echo "They run already:"
  scripts/service.sh status
  echo "Send with: make run-producer MESSAGE='...'   read with: make run-consumer   stop with: make stop-all"
  exit 0
fi
sentinel=127.0.0.1:${SENTINEL_PORT:-50052}
scripts/service.sh running sentinel sentinel1 ||
  scripts/service.sh start sentinel sentinel1 "${sentinel##*:}" -enable-embedded-etcd=false
scripts/service.sh running broker broker1 || scripts/service.sh start broker broker1 50051 -sentinel "$sentinel"

topic=${TOPIC:-test}
echo
echo "Sending three messages to topic $topic:"
printf 'Hello, Goulette\n你好,Goulette\nsent on %s\n' "$(date)" |
  bin/client -mode producer -sentinel "$sentinel" -topic "$topic" -file -
echo "Reading topic $topic from the beginning to its end:"
bin/client -mode consumer -sentinel "$sentinel" -topic "$topic" -group run-all -from beginning -until-end | sed 's/^/  /'
cat <<END

Both services go on running.
  make run-producer MESSAGE='...'    send a message         make run-consumer    read, as group "default"
  make status                        what runs              make stop-all        stop it
END
