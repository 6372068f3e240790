#!/usr/bin/env bash
# A million lines (empty, long, not UTF-8 among them) through the optimised binary: as a file, with kill -9 of the broker at three
# seeded moments, and with the sentinel killed under a running producer and consumer.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOULETTE_BIN=$PWD/bin/goulette GOULETTE_TEST_LINES=${GOULETTE_TEST_LINES:-1200000}
exec cargo test --locked -p goulette --test blackbox -- --nocapture --test-threads=1 \
  a_text_file_comes_out a_broker_killed_three_times neither_producer_nor_consumer
