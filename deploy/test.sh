#!/usr/bin/env bash
# Every test of every crate, program by program; the stories of the etcd API once more of etcd itself, which proves
# them; and which programs took longest. `make test` builds what it needs.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/kontiki/target}"
stories=(etcdctl client_crate leases access)

KONTIKI_TIMES=$(mktemp)
export KONTIKI_TIMES
longest() {
  echo "the longest of $(wc -l <"$KONTIKI_TIMES") test programs, $SECONDS s in all:"
  sort -rn "$KONTIKI_TIMES" | head -n 5
  rm "$KONTIKI_TIMES"
}
trap longest EXIT

tests() { cargo test --config "target.'cfg(all())'.runner='$PWD/deploy/timed.sh'" --workspace --quiet "$@"; }

tests --lib --bins --tests

if deploy/get-etcd.sh >/dev/null; then
  # The standard harness takes a word that is in no name for a success.
  names=$(cargo test --workspace --quiet --test etcd -- --list --format terse)
  for word in "${stories[@]}"; do
    if ! grep -q "$word.*: test$" <<<"$names"; then
      echo "test.sh: $word is in no name of a test of the etcd API:" ${names//: test/} >&2
      exit 1
    fi
  done
  STORE=etcd-3.7 tests --test etcd -- "${stories[@]}"
fi
