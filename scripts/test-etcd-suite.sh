#!/usr/bin/env bash
# etcd's own end-to-end tests, with `goulette etcd` in the place of the etcd binary that they start.
#
#   test-etcd-suite.sh [PACKAGE [REGEX]]     PACKAGE: common (default) or e2e; REGEX: as for `go test -run`
# SKIP: a regular expression of tests to leave out, as for `go test -skip`.
#
# SERVER=real runs them against etcd itself. GOULETTE_BIN names our binary (default: bin/goulette), REFERENCE the folder
# of the real one, LOG the file for everything that the tests print (default: REFERENCE/suite.log).
set -euo pipefail
cd "$(dirname "$0")/.."
package=${1:-common} tests=${2:-.}
reference=${REFERENCE:-$PWD/target/etcd-reference}
goulette=$(realpath "${GOULETTE_BIN:-bin/goulette}")
scripts/etcd-reference.sh "$reference"
log=$(realpath "${LOG:-$reference/suite.log}")

programs=$(mktemp -d)
trap 'rm -rf "$programs"' EXIT
ln -s "$reference/bin/etcdctl" "$reference/bin/etcdutl" "$programs"
if [ "${SERVER:-}" = real ]; then
  ln -s "$reference/bin/etcd" "$programs/etcd"
else
  printf '#!/bin/sh\nexec "%s" etcd "$@"\n' "$goulette" > "$programs/etcd"
  chmod +x "$programs/etcd"
fi
failed=0
(cd "$reference/suite" && go test -tags e2e "./$package/" -run "$tests" -skip "${SKIP:-^$}" -count=1 -timeout 80m -v -args -bin-dir "$programs") \
  > "$log" 2>&1 || failed=1
for outcome in PASS SKIP FAIL; do
  sed -n "s/^--- $outcome: \([^ ]*\).*/$outcome \1/p" "$log" | sort
done
echo "$(grep -c '^--- PASS' "$log") passed, $(grep -c '^--- FAIL' "$log") failed, $(grep -c '^--- SKIP' "$log") skipped; see $log"
exit $failed
