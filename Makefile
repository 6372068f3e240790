# Goulette: the index of chores. `make` alone lists them.
#
# Variables:  ID, PORT      of the broker or sentinel to run          TOPIC, MESSAGE, FILE, GROUP   of the clients
#             YES=1         answer yes (clean-data)                   PREFIX                        of install

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.SUFFIXES:

CARGO ?= cargo
PREFIX ?= /usr/local
TOPIC ?= test
GROUP ?= default
SENTINEL_PORT ?= 50052
SENTINEL ?= 127.0.0.1:$(SENTINEL_PORT)

export TOPIC GROUP SENTINEL

# None of them is a file.
.PHONY: $(shell sed -n 's/^\([a-z0-9-]*\):.*\#\# .*/\1/p' Makefile)

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  \033[1m%-18s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ build

deps: ## check the toolchain; install what is missing, or say how
	@scripts/deps.sh

build: ## the optimised binary, and bin/broker, bin/sentinel, bin/client as links to it
	@$(CARGO) build --release --locked -p goulette
	@mkdir -p bin
	@install -m 755 target/release/goulette bin/.goulette.new && mv -f bin/.goulette.new bin/goulette
	@for role in broker sentinel client; do ln -sf goulette bin/$$role; done

install: build ## into PREFIX/bin (default /usr/local)
	install -d "$(DESTDIR)$(PREFIX)/bin"
	install -m 755 bin/goulette "$(DESTDIR)$(PREFIX)/bin/goulette"

uninstall: ## what install put there
	rm -f "$(DESTDIR)$(PREFIX)/bin/goulette"

clean: ## build results only; data and logs stay
	$(CARGO) clean
	rm -rf bin

clean-data: ## data/ and logs/, after asking (YES=1: without); refuses while something runs
	@scripts/service.sh clean-data "$(YES)"

##@ run

run-sentinel: build ## a sentinel in the foreground, without etcd (ID, PORT)
	@exec scripts/service.sh run sentinel "$(or $(ID),sentinel1)" "$(or $(PORT),$(SENTINEL_PORT))" -enable-embedded-etcd=false

run-broker: build ## a broker in the foreground (ID, PORT, SENTINEL)
	@exec scripts/service.sh run broker "$(or $(ID),broker1)" "$(or $(PORT),50051)" -sentinel "$(SENTINEL)"

run-producer: build ## send MESSAGE, or every line of FILE (- is standard input), to TOPIC
	@exec bin/client -mode producer -sentinel "$(SENTINEL)" -topic "$(TOPIC)" \
		$(if $(FILE),-file "$(FILE)",-message "$(or $(MESSAGE),Hello from Goulette)")

run-consumer: build ## print the records of TOPIC as GROUP until Ctrl-C
	@exec bin/client -mode consumer -sentinel "$(SENTINEL)" -topic "$(TOPIC)" -group "$(GROUP)"

run-all: deps build ## sentinel and broker in the background, and real messages through them
	@scripts/run-all.sh

status: ## what runs, and whether it serves
	@scripts/service.sh status

stop-all: ## stop what these targets started, and nothing else
	@scripts/service.sh stop-all

##@ check

test: ## every test that needs no root and no other software
	$(CARGO) test --workspace --locked

fmt: ## format the code
	$(CARGO) fmt --all

vet: ## clippy, warnings are errors
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

verify: ## what CI runs, and never writes: format, clippy, tests, dependencies
	$(CARGO) fmt --all -- --check
	$(MAKE) vet test test-deps

fix: ## format, and let clippy mend what it can
	$(CARGO) fmt --all
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged

test-deps: ## licences, advisories and doubled versions (cargo-deny, where it is installed)
	@scripts/test-deps.sh

test-large: build ## a million lines through the real binary, with kill -9 of broker and sentinel
	@scripts/test-large.sh

test-deliberate-bugs: ## builds known mistakes in, one at a time: the crash tests must find each (BUG: only that one)
	@scripts/test-deliberate-bugs.sh $(BUG)

sim: ## one simulated run of a cluster (SEED=1; TRACE=1: every event)
	@$(CARGO) run -q --profile sim --locked -p goulette-sim -- "$(or $(SEED),1)" $(if $(TRACE),trace)

sim-many: ## many simulated runs (N=10000, FIRST=1): stops at the first broken promise and names its seed
	@$(CARGO) run -q --profile sim --locked -p goulette-sim -- "$(or $(FIRST),1)" "$(or $(N),10000)"

test-powerloss: build ## 50 real power cuts of an ext4 image under load (needs root; exits 77 where it cannot run)
	@GOULETTE_BIN=$(CURDIR)/bin/goulette $(CARGO) test --locked -p goulette --test powerloss

test-disk-full: build ## a broker on an image of 256 MiB that runs full (needs root; exits 77 where it cannot run)
	@GOULETTE_BIN=$(CURDIR)/bin/goulette $(CARGO) test --locked -p goulette --test diskfull

test-etcd-store: ## the metadata store against a real etcd (ETCD_BIN: its program)
	@[ -x "$${ETCD_BIN:=$$(command -v etcd || true)}" ] || { echo "no etcd found: name its program in ETCD_BIN" >&2; exit 77; }; \
	export ETCD_BIN; $(CARGO) test -p goulette-meta --test it -- --include-ignored

test-etcd-robustness: build ## three etcd members killed, stopped, cut off: linearizable? (MINUTES=5; needs root; else exits 77)
	@MINUTES=$(or $(MINUTES),5) ETCD_SERVER="$(or $(ETCD_SERVER),$(CURDIR)/bin/goulette etcd)" \
		$(CARGO) test --locked -p goulette --test robustness

test-python: build ## publish and pull from Python, by grpcio
	@scripts/test-python.sh

test-kafka-format: build ## Kafka's own DumpLogSegments reads our fragments (needs Java and Maven)
	@scripts/test-kafka-format.sh

test-etcd-compat: build ## etcd's answers, ours and a real etcd's, to SEEDS random runs and to every command of etcdctl
	@scripts/test-etcd-compat.sh "$(or $(SEEDS),100)"

test-etcd-snapshot: build ## snapshots of a real etcd restored into ours, and ours into a real etcd
	@scripts/test-etcd-snapshot.sh

test-etcd-suite: build ## etcd's own tests with our etcd in its place (PACKAGE: common or e2e, TESTS: a regular expression)
	@scripts/test-etcd-suite.sh "$(or $(PACKAGE),common)" "$(or $(TESTS),.)"

bench-etcd: build ## etcd's benchmark tool, a real etcd and ours in turns on the same disk
	@scripts/bench-etcd.sh

bench: build ## produce and consume 3,000,000 records of 1 KiB and 20,000,000 of 100 B beside what the disk does
	@scripts/bench.sh

bench-storage: build ## the storage engine alone: throughput beside the disk's own limit, bytes written per byte (needs 10 GiB)
	@bin/goulette bench storage -dir "$(or $(BENCH_DIR),target)"

bench-recovery: build ## a killed log of 10 GB, 1,000 and 10,000 partitions: time to ready beside the disk's own (needs 15 GiB)
	@$(CARGO) build --release --locked -p goulette-log --example recovery
	@scripts/bench-recovery.sh

fuzz: ## each fuzz target for SECONDS_EACH (default 60; needs nightly and cargo-fuzz)
	@scripts/fuzz.sh "$(or $(SECONDS_EACH),60)"
