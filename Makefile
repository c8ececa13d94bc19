# Doors for people. Each target only calls a tool; logic lives in the binary or in deploy/.

# Cargo's target directory survives clean checkouts: RocksDB alone takes minutes to compile.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/kontiki/target
KONTIKI = $(CARGO_TARGET_DIR)/debug/kontiki
# Where recorded answers of a real API server live; the comparison is skipped, visibly, without them.
export KONTIKI_ORACLE ?= $(abspath ../shared/oracle)

.PHONY: up down status build install test check bench chaos fmt

up: install build
	$(KONTIKI) up

down:
	$(KONTIKI) down

status:
	$(KONTIKI) status

build:
	cargo build --workspace --bins

install:
	deploy/install.sh

# Unit and story tests of every crate, then the stories on a real cluster of their own.
test: install build
	cargo test --workspace --lib --bins --tests --quiet

# Read-only: formatting, lints, tidy rules.
check: install
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings

fmt:
	cargo fmt --all

# Figures for docs/performance.md: the parts by criterion, then a whole cluster.
bench: install
	deploy/bench.sh

# Faults only: leaders killed, frozen and cut off, nodes lost, quorum lost; then the agent against a
# real containerd, and full disks under the store.
chaos: install build
	cargo test --package kontiki-chaos-tests --test cluster -- twenty frozen cut_off quorum
	cargo test --package kontiki-agent --package kontiki-store -- --ignored
