#!/usr/bin/env bash
# Figures for docs/performance.md, with a release build: `kontiki store` beside etcd, masters beside a kube-apiserver,
# the store's parts by criterion, then a whole local cluster (idle memory, pod start against the raw CRI time on the
# same machine).
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/kontiki/target}"

deploy/bench-store.sh
deploy/bench-api.sh
# Without the simulations, which compile planted mistakes into the store and the plans.
cargo bench --workspace --exclude kontiki-sim --exclude kontiki-walk --benches
KONTIKI_BIN="$CARGO_TARGET_DIR/release/kontiki" cargo test --release --package kontiki-chaos-tests --test cluster -- figures
