#!/usr/bin/env bash
# Figures of `kontiki store` beside etcd's on this machine, for docs/performance.md, with release builds.
# Arguments go to store-load: --quick, --only WORD, --out FILE, --repetitions N; without Go to build the newest
# etcd also --stores etcd-3.4,kontiki.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/kontiki/target}"

# Without the simulations, which compile planted mistakes into the store and the plans.
cargo build --release --workspace --exclude kontiki-sim --exclude kontiki-walk --bins
export KONTIKI_BIN="$CARGO_TARGET_DIR/release/kontiki"
exec "$CARGO_TARGET_DIR/release/store-load" compare "$@"
