# Doors for people. Each target only calls a tool; logic lives in the binary or in deploy/.

# Cargo's target directory survives clean checkouts: RocksDB alone takes minutes to compile.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/kontiki/target
KONTIKI = $(CARGO_TARGET_DIR)/debug/kontiki
# Where recorded answers of a real API server live. Without them the comparison is skipped, visibly; with
# KONTIKI_ORACLE_REQUIRED=true it fails.
export KONTIKI_ORACLE ?= $(abspath ../shared/oracle)
# Whatever is built has the features of the whole workspace, so that one crate alone compiles nothing a second time.
# That is an unstable option of cargo, of no effect on what is built.
export CARGO_RESOLVER_FEATURE_UNIFICATION = workspace
export CARGO_UNSTABLE_FEATURE_UNIFICATION = true
export __CARGO_TEST_CHANNEL_OVERRIDE_DO_NOT_USE_THIS = nightly

.PHONY: up down status build install peers quick test check bench chaos conformance fmt

up: install
	cargo build --package kontiki
	$(KONTIKI) up

down:
	$(KONTIKI) down

status:
	$(KONTIKI) status

build:
	cargo build --workspace --bins

install:
	deploy/install.sh

# The newest etcd, which the store is compared with; where no Go can build it, the tests with it are skipped.
peers:
	deploy/get-etcd.sh >/dev/null || [ $$? = 3 ]

# Before each commit: formatting, lints, tidy rules, recorded answers, unit tests of what decides and of what has
# changed SINCE a commit (by default where the branch left its upstream).
quick:
	deploy/quick.sh $(SINCE)

# Unit and story tests of every crate, the stories on a real cluster of their own among them, and how long they took.
# Upgrades start from an older store, built once.
test: install peers build
	deploy/older.sh >/dev/null
	deploy/test.sh

# Read-only: formatting, lints, tidy rules.
check: install
	cargo fmt --all --check
	deploy/lint.sh
	cargo test --workspace --test tidy --quiet

fmt:
	cargo fmt --all

# Figures for docs/performance.md: the store and the API beside their peers, the parts by criterion, then a whole
# cluster. The first run builds kube-apiserver, which takes half an hour.
bench: install peers
	deploy/bench.sh

# Faults for as long as wanted: simulated ones (SIM seeds), the leader killed around each of its writes, real ones on
# groups of three and of five store processes (MINUTES each, SEED), upgrades and downgrades of three under faults
# (MINUTES), members killed over and over (KILLS), mistakes planted in the members; then leaders killed, frozen and cut
# off and nodes lost under a whole cluster, the agent against a real containerd, full disks.
SIM ?= 2000
MINUTES ?= 30
SEED ?= 1
KILLS ?= 500
NEMESIS = $(CARGO_TARGET_DIR)/debug/nemesis
chaos: install build
	SIM=$(SIM) cargo test --workspace --test simulation -- --nocapture
	WALK=all cargo test --workspace --test walk -- --nocapture
	$(NEMESIS) run --members 3 --minutes $(MINUTES) --seed $(SEED)
	$(NEMESIS) run --members 5 --minutes $(MINUTES) --seed $(SEED)
	$(NEMESIS) upgrade --members 3 --minutes $(MINUTES) --seed $(SEED)
	$(NEMESIS) kills --count $(KILLS) --seed $(SEED)
	KONTIKI_PLANTED_BIN=$(KONTIKI) cargo test --workspace --test nemesis -- planted
	cargo test --workspace --test cluster -- twenty frozen cut_off quorum
	cargo test --workspace --lib --test real_containerd -- --ignored

# The official conformance suite against the cluster of `make up`: E2E says which e2e.test, FOCUS which specs
# (deploy/conformance.sh has the rest).
conformance:
	deploy/conformance.sh
