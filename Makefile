# Goulette: the index of chores. `make` alone lists them.
#
# Variables:  ID, PORT      of the broker or sentinel to run          TOPIC, MESSAGE, FILE, GROUP   of the clients
#             YES=1         answer yes (clean-data, etcd-clean)       PREFIX                        of install
#             ETCD_ENDPOINTS, ETCD_PREFIX    an etcd of yours         ETCD_PORT, ETCD_PEER_PORT     of the one run here
#             ETCD, ETCDCTL                  etcd's own programs, where they are not on the PATH

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.SUFFIXES:

CARGO ?= cargo
PREFIX ?= /usr/local
TOPIC ?= test
GROUP ?= default
SENTINEL_PORT ?= 50052
# Whom brokers and clients ask: SENTINEL, or the sentinels that run here, or where one would run.
WHOM = "$(or $(SENTINEL),$$(scripts/sentinel.sh addresses))"

export TOPIC GROUP SENTINEL SENTINEL_PORT ETCD ETCDCTL ETCD_ENDPOINTS ETCD_PREFIX ETCD_PORT ETCD_PEER_PORT

# None of them is a file.
.PHONY: $(shell sed -n 's/^\([a-z0-9-]*\):.*\#\# .*/\1/p' Makefile)

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  \033[1m%-30s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ build

deps: ## check the toolchain; install what is missing, or say how
	@scripts/deps.sh

build: ## the optimised binary, and bin/broker, bin/sentinel, bin/client as links to it
	@$(CARGO) build --release --locked -p goulette
	@mkdir -p bin
	@install -m 755 target/release/goulette bin/.goulette.$$$$ && mv -f bin/.goulette.$$$$ bin/goulette
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
	@exec scripts/sentinel.sh run traditional "$(or $(ID),sentinel1)" "$(or $(PORT),$(SENTINEL_PORT))"

run-broker: build ## a broker in the foreground (ID, PORT, SENTINEL)
	@exec scripts/service.sh run broker "$(or $(ID),broker1)" "$(or $(PORT),50051)" -sentinel $(WHOM)

run-producer: build ## send MESSAGE, or every line of FILE (- is standard input), to TOPIC
	@exec bin/client -mode producer -sentinel $(WHOM) -topic "$(TOPIC)" \
		$(if $(FILE),-file "$(FILE)",-message "$(or $(MESSAGE),Hello from Goulette)")

run-consumer: build ## print the records of TOPIC as GROUP until Ctrl-C
	@exec bin/client -mode consumer -sentinel $(WHOM) -topic "$(TOPIC)" -group "$(GROUP)"

run-all: deps build ## sentinel and broker in the background, and real messages through them
	@scripts/run-all.sh traditional

run-all-with-etcd: deps build ## the same with an external etcd, which is started unless ETCD_ENDPOINTS names one
	@scripts/run-all.sh etcd

run-all-embedded: deps build ## the same with the etcd inside of the sentinel
	@scripts/run-all.sh embedded

status: ## what runs, and whether it serves
	@scripts/service.sh status

stop-all: ## stop what these targets started, and nothing else
	@scripts/service.sh stop-all

##@ with etcd

run-etcd: build ## an etcd in the foreground: a real one where it is installed, else goulette etcd
	@exec scripts/etcd.sh run

run-sentinel-with-etcd: build ## a sentinel in the foreground with its metadata in that etcd (or in ETCD_ENDPOINTS)
	@exec scripts/sentinel.sh run etcd "$(or $(ID),sentinel1)" "$(or $(PORT),$(SENTINEL_PORT))"

run-sentinel-embedded: build ## a sentinel in the foreground with an etcd inside
	@exec scripts/sentinel.sh run embedded "$(or $(ID),sentinel1)" "$(or $(PORT),$(SENTINEL_PORT))"

run-sentinel-cluster-embedded: build ## three sentinels in the background, whose embedded etcds form one cluster
	@scripts/sentinel.sh cluster embedded-cluster

run-etcd-cluster: build ## three etcds in the background
	@scripts/etcd.sh cluster

run-sentinel-cluster: build ## three sentinels in the background with their metadata in those etcds (or in ETCD_ENDPOINTS)
	@scripts/sentinel.sh cluster etcd-cluster

etcd-status: build ## health, sizes, leader and alarms of the etcd
	@scripts/etcd.sh status

etcd-topics: build ## topics and their replicas, as they are stored
	@scripts/etcd.sh topics

etcd-operations: build ## the operation log, as it is stored
	@scripts/etcd.sh operations

etcd-clean: build ## all our metadata in the etcd, after asking (YES=1: without); other keys stay
	@scripts/etcd.sh clean "$(YES)"

etcd-backup: build ## our metadata into backups/ and, in embedded mode, a whole snapshot
	@scripts/etcd.sh backup "$(or $(BACKUPS),backups)"

etcd-restore: build ## the metadata of FILE, which etcd-backup wrote, into an etcd without topics of ours
	@scripts/etcd.sh restore "$(FILE)"

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

test-crash-sweeps: ## power cuts at every disk operation with every subset of what was unsynced, and at every one of each recovery (long)
	@GOULETTE_TEST_SWEEPS=all $(CARGO) test --release --locked -p goulette-wal -p goulette-log --test it crash

sim: ## one simulated run of a cluster (SEED=1; TRACE=1: every event)
	@$(CARGO) run -q --profile sim --locked -p goulette-sim -- "$(or $(SEED),1)" $(if $(TRACE),trace)

sim-many: ## many simulated runs (N=10000, FIRST=1): stops at the first broken promise and names its seed
	@$(CARGO) run -q --profile sim --locked -p goulette-sim -- "$(or $(FIRST),1)" "$(or $(N),10000)"

model: ## every order of a few operations on three replicas (STATES=1000000), over the real replication cores
	@$(CARGO) run -q --profile sim --locked -p goulette-replication --example model -- "$(or $(STATES),1000000)"

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

test-embedded-etcd: build ## the etcd integration example against a sentinel with an embedded etcd of its own
	@scripts/test-embedded-etcd.sh

test-modes: build ## the integration suite in all three modes, external against real etcds (ETCD_BIN, ETCD_34_BIN; exits 77 without)
	@scripts/test-modes.sh

test-guide: build ## every command of the deployment guide, on machines made of network namespaces (needs root, ETCD, ETCDCTL; else exits 77)
	@scripts/test-guide.sh

test-quickstart: ## every command of the first README, in a fresh clone, each with its effect checked
	@scripts/test-quickstart.sh

test-chaos: build ## three brokers killed, stopped, cut off, wiped, 20 times each, under load (needs root; else exits 77; SCENARIO, CYCLES, SEED)
	@GOULETTE_BIN=$(CURDIR)/bin/goulette SCENARIO="$(SCENARIO)" CYCLES=$(or $(CYCLES),20) SEED=$(or $(SEED),42) \
		$(CARGO) test --locked -p goulette --test chaos

test-operations: build ## under load: from one broker to three and back, moves, an unclean election, a rolling restart (SCENARIO)
	@GOULETTE_BIN=$(CURDIR)/bin/goulette SCENARIO="$(SCENARIO)" $(CARGO) test --locked -p goulette --test operations

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

bench-replication: build ## three brokers, acks=all: ours, Kafka 4.1 as it comes and Kafka synced, in turns (ROUNDS, RECORDS; needs Java and Maven)
	@scripts/bench-replication.sh

bench-failover: build ## 50 leaders killed and 20 stopped: for how long nothing is acknowledged
	@bin/goulette bench failover --dir "$(or $(BENCH_DIR),target)" --kills 50 --stops 20

bench: build ## produce and consume 3,000,000 records of 1 KiB and 20,000,000 of 100 B beside what the disk does
	@scripts/bench.sh

bench-storage: build ## the storage engine alone: throughput beside the disk's own limit, bytes written per byte (needs 10 GiB)
	@bin/goulette bench storage -dir "$(or $(BENCH_DIR),target)"

bench-recovery: build ## a killed log of 10 GB, 1,000 and 10,000 partitions: time to ready beside the disk's own (needs 15 GiB)
	@$(CARGO) build --release --locked -p goulette-log --example recovery
	@scripts/bench-recovery.sh

fuzz: ## each fuzz target for SECONDS_EACH (default 60; needs nightly and cargo-fuzz)
	@scripts/fuzz.sh "$(or $(SECONDS_EACH),60)"
