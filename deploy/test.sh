#!/usr/bin/env bash
# Every test of every crate, program by program; the stories of the etcd API once more of etcd itself, which proves
# them; which programs took longest, and last of all which failed. `make test` builds what it needs.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/kontiki/target}"
stories=(etcdctl client_crate leases access)

KONTIKI_TIMES=$(mktemp)
KONTIKI_FAILED=$(mktemp)
export KONTIKI_TIMES KONTIKI_FAILED
ending() {
  echo "the longest of $(wc -l <"$KONTIKI_TIMES") test programs, $SECONDS s in all:"
  sort -rn "$KONTIKI_TIMES" | head -n 5
  if [ -s "$KONTIKI_FAILED" ]; then
    echo "test programs that failed:"
    cat "$KONTIKI_FAILED"
  fi
  rm "$KONTIKI_TIMES" "$KONTIKI_FAILED"
}
trap ending EXIT

tests() { cargo test --no-fail-fast --config "target.'cfg(all())'.runner='$PWD/deploy/timed.sh'" --workspace --quiet "$@"; }

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
