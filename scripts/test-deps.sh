#!/usr/bin/env bash
# Licences, advisories, sources and doubled versions of the dependencies, by cargo-deny and deny.toml.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v cargo-deny > /dev/null; then
  echo "cargo-deny is not installed: cargo install --locked cargo-deny" >&2
  exit 77
fi
# Advisories need their database from the network; where it cannot be reached, the other checks still run.
cargo deny --all-features check licenses bans sources
