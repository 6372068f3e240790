#!/usr/bin/env bash
# Checks what building needs: a Rust toolchain and a C compiler. Installs what is missing where it may, and otherwise
# prints the command. Silent when all is there.
set -euo pipefail
rust_min=1.95.0
missing=0

# Whether version $1 is at least $2.
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

# Installs Debian packages if we are root and apt is here, else says how.
packages() {
  if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    echo "installing $*"
    apt-get install -y --no-install-recommends "$@" > /dev/null || { apt-get update > /dev/null && apt-get install -y --no-install-recommends "$@" > /dev/null; }
  elif command -v apt-get > /dev/null; then
    echo "missing: $*; install with: sudo apt-get install -y $*" >&2
    missing=1
  else
    echo "missing: $*; install them with your system's package manager (macOS: xcode-select --install)" >&2
    missing=1
  fi
}

command -v cc > /dev/null || packages gcc libc6-dev
if ! command -v cargo > /dev/null; then
  if command -v rustup > /dev/null; then
    rustup toolchain install stable --profile minimal --component clippy,rustfmt
  else
    echo "missing: Rust $rust_min or later; install it from https://rustup.rs" >&2
    missing=1
  fi
fi
if command -v cargo > /dev/null; then
  version=$(rustc --version | awk '{ print $2 }')
  if ! at_least "$version" "$rust_min"; then
    echo "Rust $version is too old, $rust_min is needed: rustup update stable" >&2
    missing=1
  fi
fi
exit $missing
