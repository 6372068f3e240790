#!/usr/bin/env bash
# Runs examples/python/publish_pull.py against a sentinel and a broker of its own. Needs Python 3 with venv, and PyPI
# once; exits with 77 without Python. GOULETTE_BIN names the binary (default: bin/goulette).
set -euo pipefail
cd "$(dirname "$0")/.."

command -v python3 > /dev/null || { echo "test-python.sh: missing: python3" >&2; exit 77; }
requirements=examples/python/requirements.txt
venv=target/python-venv
if ! cmp -s "$requirements" "$venv/installed.txt"; then
  python3 -m venv --clear "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements"
  cp "$requirements" "$venv/installed.txt"
fi

. scripts/local-cluster.sh
start_sentinel
start_broker
# Twice: into a new topic, and behind what is there.
for _ in first second; do
  "$venv/bin/python" examples/python/publish_pull.py "$sentinel" python-test
done
