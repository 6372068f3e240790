#!/usr/bin/env bash
# fuzz.sh SECONDS: runs each fuzz target that long, from its kept corpus.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"
cargo +nightly fuzz --version > /dev/null 2>&1 || { echo "missing: cargo install cargo-fuzz, and a nightly toolchain" >&2; exit 77; }
for target in $(cargo +nightly fuzz list); do
  echo "== $target for $1 s"
  cargo +nightly fuzz run "$target" -- -max_total_time="$1" -rss_limit_mb=4096 -print_final_stats=1
done
