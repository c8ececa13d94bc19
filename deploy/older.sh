#!/bin/sh
# The store of an earlier commit, which upgrades are tested from. Prints the path of its binary, which knows
# `store` and nothing else. Safe to run again, and by several at once.
#
# It is built once and kept in ~/.cache/kontiki/older. The build begins with what the normal one has compiled of other
# people's crates, so RocksDB is not compiled again. In a directory of its own: Cargo knows crates of a workspace by
# their path in it and by how new their files are, so two checkouts that share a directory take each other's for their
# own. That is also why the older files are new here.
#
# Where the history lacks the commit (a shallow clone) it prints nothing; with CI=true that is an error.
set -eu
cd "$(dirname "$0")/.."
here=$PWD

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

# Links to what cargo has compiled of other people's crates, which nothing writes to again; descriptions of it are copied.
borrow() {
  mkdir -p "$2/deps" "$2/build" "$2/.fingerprint"
  find "$1/deps" -maxdepth 1 -type f ! -name '*kontiki*' \( -name '*.rlib' -o -name '*.rmeta' -o -name '*.so' -o -name '*.d' \) \
    -exec cp -l -t "$2/deps" {} +
  find "$1/build" -mindepth 1 -maxdepth 1 ! -name 'kontiki*' -exec cp -al -t "$2/build" {} +
  find "$1/.fingerprint" -mindepth 1 -maxdepth 1 ! -name 'kontiki*' -exec cp -a -t "$2/.fingerprint" {} +
}

build() {
  say "building the store of commit $(echo $commit | cut -c1-7) once"
  tree=$dir/tree out=$dir/target
  rm -rf "$tree" "$out"
  trap 'rm -rf "$tree" "$out"' EXIT
  mkdir "$tree" "$out"
  git archive "$commit" | tar -xm -C "$tree"
  compiled=${CARGO_TARGET_DIR:-$cache/target}
  [ ! -d "$compiled/debug" ] || borrow "$compiled/debug" "$out/debug"
  # The compilers and settings of this checkout, or other people's crates would be others; not its lints.
  rm -rf "$tree/.cargo"
  (cd "$tree" && CARGO_TARGET_DIR="$out" CARGO_INCREMENTAL=0 CXX="$here/deploy/cxx" RUSTC_WORKSPACE_WRAPPER= \
    cargo --config "$here/.cargo/config.toml" build --locked --quiet --workspace --example store >&2)
  cp "$out/debug/examples/store" "$store.new"
  mv "$store.new" "$store"
}

[ -x "$store" ] || build
echo "$store"
