#!/usr/bin/env bash
# test-deliberate-bugs.sh [BUG...]: builds each mistake in on purpose, one at a time, and expects the crash tests to fail.
# A test suite that passes with one of them in would pass with the same mistake made unawares.
set -uo pipefail
cd "$(dirname "$0")/.."

# Each line: the bug (cfg goulette_bug), the crate, the tests that are to find it.
bugs='
no_salt                                   goulette-wal  damage::
sync_retried                              goulette-wal  crash::
no_page_drop                              goulette-wal  crash::
segment_recycled_before_its_name_is_gone  goulette-wal  crash::
reference_before_fragment_sync            goulette-log  crash::batches
recycle_before_directory_sync             goulette-log  crash::what_is_written
checkpoint_before_fragment_sync           goulette-log  crash::every
ack_before_isr                            goulette-sim  promises::no
no_epoch_check                            goulette-sim  promises::no
truncate_to_committed                     goulette-sim  promises::no
commit_below_minimum                      goulette-sim  promises::no
sync_skipped                              goulette-sim  promises::no
end_before_handshake                      goulette-sim  promises::no
old_leadership_after_restart              goulette-sim  promises::no
isr_timeout_is_an_outcome                 goulette-sim  promises::no
wiped_disk_keeps_its_seat                 goulette-sim  promises::no
'

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/deliberate-bugs CARGO_INCREMENTAL=0
mkdir -p "$CARGO_TARGET_DIR"
missed=0
while read -r bug crate tests; do
  [ -n "$bug" ] || continue
  if [ $# -gt 0 ] && [[ " $* " != *" $bug "* ]]; then continue; fi
  # A compiler of its own for each bug, so that cargo keeps their builds apart and dependencies are built once.
  wrapper=$CARGO_TARGET_DIR/rustc-$bug
  printf '#!/bin/sh\nexec "$@" --cfg "goulette_bug=\\"%s\\""\n' "$bug" > "$wrapper"
  chmod +x "$wrapper"
  log=$CARGO_TARGET_DIR/$bug.log
  test=(env RUSTC_WORKSPACE_WRAPPER="$wrapper" cargo test --locked -q -p "$crate" --test it)
  if ! "${test[@]}" --no-run < /dev/null > "$log" 2>&1; then
    echo "$bug: does not build, see $log"
    missed=1
  elif timeout 600 "${test[@]}" -- "$tests" < /dev/null > "$log" 2>&1; then
    echo "$bug: NOT FOUND by $crate $tests"
    missed=1
  elif found=$(sed -n 's/^    \([a-z_]*::[a-z_]*\)$/\1/p' "$log" | sort -u) && [ -n "$found" ]; then
    echo "$bug: found by" $found "$(sed -n 's/.*\(seed [0-9]* (number [0-9]*)\).*/at \1/p' "$log" | head -1)"
  else
    echo "$bug: the tests did not end, see $log"
    missed=1
  fi
done <<< "$bugs"
exit $missed
