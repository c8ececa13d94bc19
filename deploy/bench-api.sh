#!/usr/bin/env bash
# Figures of our API beside kube-apiserver's on this machine, for docs/performance.md, with release builds.
# Arguments go to api-load: --quick, --only WORD, --out FILE, --repeat N, --before BIN. KONTIKI_BIN names another build
# of ours. The first run builds kube-apiserver (get-kubernetes.sh kube-apiserver), which takes long; without Go for it ours is
# measured alone.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/kontiki/target}"

# Without the simulation, which compiles planted mistakes into the store.
if [ -z "${KONTIKI_BIN:-}" ]; then
  cargo build --release --workspace --exclude kontiki-sim --bins
  export KONTIKI_BIN="$CARGO_TARGET_DIR/release/kontiki"
else
  cargo build --release --package kontiki-api-load
fi
exec "$CARGO_TARGET_DIR/release/api-load" compare "$@"
