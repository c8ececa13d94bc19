#!/usr/bin/env bash
# What a person runs before each commit: formatting, lints of everything, tidy rules, recorded answers, and the unit
# tests of crates that decide and of those that have changed (deploy/touched.py, which takes the same argument:
# since which commit). Says how long each part took.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/kontiki/target}"

# A selection of crates would resolve features of its own, and compile serde and whatever stands on it once more for
# each: features are those of the whole workspace. That is an unstable option of cargo, of no effect on what is built.
export CARGO_RESOLVER_FEATURE_UNIFICATION=workspace __CARGO_TEST_CHANNEL_OVERRIDE_DO_NOT_USE_THIS=nightly

part() {
  local name=$1 since=$SECONDS
  shift
  "$@"
  echo "quick: $name: $((SECONDS - since)) s"
}

packages=$(deploy/touched.py "$@")
part formatting cargo fmt --all --check
part lints deploy/lint.sh
# shellcheck disable=SC2086 # one argument each
part tests cargo test -Zfeature-unification $packages --lib --bins --test tidy --test oracle --quiet
echo "quick: $(wc -w <<<"${packages//--package/}") crates tested, $SECONDS s"
