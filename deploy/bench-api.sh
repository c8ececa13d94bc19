#!/usr/bin/env bash
# Figures of our API beside kube-apiserver's on this machine, for docs/performance.md, with release builds; with
# "controllers" as the first argument, those of our controllers beside kube-controller-manager's.
# Other arguments go to api-load: --quick, --only WORD, --out FILE, --repeat N, --before BIN. KONTIKI_BIN names another
# build of ours. The first run builds kube-apiserver and kube-controller-manager (get-kubernetes.sh), which takes long;
# without Go for them ours is measured alone.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/kontiki/target}"

# Without the simulations, which compile planted mistakes into the store and the plans.
if [ -z "${KONTIKI_BIN:-}" ]; then
  cargo build --release --workspace --exclude kontiki-sim --exclude kontiki-walk --bins
  export KONTIKI_BIN="$CARGO_TARGET_DIR/release/kontiki"
else
  cargo build --release --package kontiki-api-load
fi
what=compare
if [ "${1-}" = controllers ]; then
  what=$1
  shift
fi
exec "$CARGO_TARGET_DIR/release/api-load" "$what" "$@"
