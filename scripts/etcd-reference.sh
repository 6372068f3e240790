#!/usr/bin/env bash
# etcd's own programs, to compare ours with: DIR/bin/{etcd,etcdctl,etcdutl,etcdbench,etcdctl-3.5,etcdctl-3.4} and etcd's
# test suites in DIR/suite. Built from the Go module proxy (needs Go 1.24 or later; about five minutes on two cores).
# etcdctl 3.4 has no module that can be built today: it comes from Debian's package and is left out where there is none.
#
#   etcd-reference.sh DIR
set -euo pipefail
[ $# -eq 1 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
version=v3.6.16 version_35=v3.5.35
dir=$(mkdir -p "$1" && realpath "$1")
[ ! -e "$dir/.complete-$version" ] || exit 0
command -v go > /dev/null || { echo "Go is needed to build etcd: https://go.dev/dl" >&2; exit 77; }
mkdir -p "$dir/bin" "$dir/src"

# etcd's modules hold `replace` lines, so `go install` refuses them: each program gets a module of its own around it.
wrap() {
  mkdir -p "$dir/src/$1" && cd "$dir/src/$1"
  printf 'module wrapper\n\ngo 1.24\n' > go.mod
  printf '%s\n' "$2" > main.go
}
build() { go mod tidy && go build -o "$dir/bin/$1" .; }

wrap etcd 'package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }'
go get "go.etcd.io/etcd/server/v3@$version" && build etcd

etcdctl='package main

import "go.etcd.io/etcd/etcdctl/v3/ctlv3"

func main() { ctlv3.MustStart() }'
wrap etcdctl "$etcdctl"
go get "go.etcd.io/etcd/etcdctl/v3@$version" && build etcdctl
wrap etcdctl-3.5 "$etcdctl"
# An early cloud.google.com/go holds a package that has since become a module; a later one does not.
go get cloud.google.com/go@v0.112.0 && go get "go.etcd.io/etcd/etcdctl/v3@$version_35" && build etcdctl-3.5

wrap etcdutl 'package main

import (
	"os"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/etcdutl/v3/etcdutl"
)

func main() {
	root := &cobra.Command{Use: "etcdutl"}
	root.PersistentFlags().StringVarP(&etcdutl.OutputFormat, "write-out", "w", "simple", "")
	root.AddCommand(etcdutl.NewDefragCommand(), etcdutl.NewSnapshotCommand(), etcdutl.NewHashKVCommand(),
		etcdutl.NewVersionCommand(), etcdutl.NewMigrateCommand())
	if root.Execute() != nil {
		os.Exit(1)
	}
}'
go get "go.etcd.io/etcd/etcdutl/v3@$version" && build etcdutl

# The benchmark tool is part of etcd's root module, whose last published version is a little older.
wrap etcdbench 'package main

import (
	"fmt"
	"os"

	"go.etcd.io/etcd/v3/tools/benchmark/cmd"
)

func main() {
	if err := cmd.RootCmd.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}'
go get go.etcd.io/etcd/v3@v3.6.14 && build etcdbench

wrap suite 'package main

import _ "go.etcd.io/etcd/tests/v3/framework/e2e"

func main() {}'
go get "go.etcd.io/etcd/tests/v3@$version" && go mod tidy
source=$(go list -m -f '{{.Dir}}' go.etcd.io/etcd/tests/v3)
rm -rf "$dir/suite"
cp -r "$source" "$dir/suite"
chmod -R u+w "$dir/suite"
cd "$dir/suite"
for module in $(go mod edit -json | sed -n 's/.*"Path": "\(go.etcd.io[^"]*\)".*/\1/p' | sort -u); do
  go mod edit -dropreplace="$module" || true
done
for module in api client/pkg client etcdctl etcdutl pkg server; do
  go mod edit -require="go.etcd.io/etcd/$module/v3@$version"
done
go mod tidy

if command -v apt-get dpkg-deb > /dev/null; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  if cd "$work" && apt-get download etcd-client > /dev/null 2>&1 && dpkg-deb -x ./etcd-client_3.4*.deb .; then
    install -m 755 usr/bin/etcdctl "$dir/bin/etcdctl-3.4"
  else
    echo "no etcdctl 3.4 here: comparisons go on without it" >&2
  fi
fi
touch "$dir/.complete-$version"
