#!/bin/sh
# The store of an earlier commit, which upgrades are tested from. Prints the path of its binary, which knows
# `store` and nothing else. Safe to run again, and by several at once.
#
# It is built once and kept in ~/.cache/kontiki/older. The build shares the compiled dependencies of the normal one:
# same build directory, same features (those of the tests of the whole workspace), so RocksDB is not compiled again.
#
# Where the history lacks the commit (a shallow clone) it prints nothing; with CI=true that is an error.
set -eu
cd "$(dirname "$0")/.."

# It knows no feature levels, and reads data of format 2.
commit=8769ad4d48f1e3f188789768be3027b43e15eeb5

say() { printf 'older: %s\n' "$*" >&2; }

cache=${HOME:-/root}/.cache/kontiki
dir=$cache/older/$commit
store=$dir/store
if [ ! -x "$store" ]; then
  if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
    say "the history here lacks commit $(echo $commit | cut -c1-7): git fetch --unshallow brings it"
    [ "${CI-}" != true ] || exit 1
    exit 0
  fi
  mkdir -p "$dir"
  exec 9>"$dir/lock"
  flock 9
fi

build() {
  say "building the store of commit $(echo $commit | cut -c1-7) once"
  # At a path of its own for good: crates below another path would be others, and be compiled again.
  tree=$dir/tree
  rm -rf "$tree" "$dir/out"
  trap 'rm -rf "$tree" "$dir/out"' EXIT
  mkdir "$tree"
  git archive "$commit" | tar -x -C "$tree"
  # What it links goes elsewhere: a `store` of the checkout's own is not replaced.
  (cd "$tree" && CARGO_BUILD_BUILD_DIR="${CARGO_TARGET_DIR:-$cache/target}" CARGO_TARGET_DIR="$dir/out" \
    CARGO_INCREMENTAL=0 cargo build --locked --quiet --workspace --example store >&2)
  cp "$dir/out/debug/examples/store" "$store.new"
  mv "$store.new" "$store"
}

[ -x "$store" ] || build
echo "$store"
