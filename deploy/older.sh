#!/bin/sh
# The store of an earlier commit, which upgrades are tested from. Prints the path of its binary, which knows
# `store` and nothing else. Safe to run again, and by several at once.
#
# It is built once and kept in ~/.cache/kontiki/older. The build begins with a copy of what the normal one has compiled,
# so RocksDB is not compiled again. A copy: Cargo knows crates of a workspace by their path in it and by how new their
# files are, so two checkouts that share a directory take each other's for their own. That is also why the older files
# are new here.
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
  tree=$dir/tree out=$dir/target
  rm -rf "$tree" "$out"
  trap 'rm -rf "$tree" "$out"' EXIT
  mkdir "$tree" "$out"
  git archive "$commit" | tar -xm -C "$tree"
  compiled=${CARGO_TARGET_DIR:-$cache/target}
  [ ! -d "$compiled/debug" ] || tar -C "$compiled" --exclude=incremental -cf - debug | tar -x -C "$out"
  (cd "$tree" && CARGO_TARGET_DIR="$out" CARGO_INCREMENTAL=0 cargo build --locked --quiet --workspace --example store >&2)
  cp "$out/debug/examples/store" "$store.new"
  mv "$store.new" "$store"
}

[ -x "$store" ] || build
echo "$store"
