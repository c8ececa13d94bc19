#!/bin/sh
# The lints of everything, a warning an error. Where clippy is the compiler of the build already (.ci/run), that build.
set -eu
cd "$(dirname "$0")/.."
case "${RUSTC_WORKSPACE_WRAPPER-}" in
  *clippy-driver) exec cargo build --workspace --all-targets --quiet ;;
  *) exec cargo clippy --workspace --all-targets --quiet -- -D warnings ;;
esac
