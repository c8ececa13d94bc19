#!/bin/sh
# The newest etcd, which the tests and figures hold the store against: `etcd` and `etcdctl`, built once
# from etcd's own Go modules into ~/.cache/kontiki/peers. Prints their folder. Safe to run again, also at
# the same time. Ends with 3 where there is no Go that could build it.
set -eu

version=3.7.3
wants=1.26 # what its modules ask for
peers="$HOME/.cache/kontiki/peers"
dir="$peers/etcd-$version"

say() { printf 'get-etcd: %s\n' "$*" >&2; }

mkdir -p "$peers"
exec 9>"$peers/lock"
flock 9
if [ -x "$dir/etcd" ] && [ -x "$dir/etcdctl" ]; then
  echo "$dir"
  exit
fi

# No other toolchain is fetched for it.
export GOTOOLCHAIN=local
have=$(go env GOVERSION 2>/dev/null | sed 's/^go//')
if [ -z "$have" ] || [ "$(printf '%s\n%s\n' "$wants" "$have" | sort -V | head -n 1)" != "$wants" ]; then
  say "etcd $version is left out: it takes Go $wants or newer, and here is ${have:-none}"
  exit 3
fi

say "building etcd $version with Go $have"
work=$(mktemp -d "$peers/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
# Their go.mod files name each other by relative paths, so `go install package@version` refuses them.
printf 'module peer\n\ngo %s\n' "$wants" >go.mod
server=go.etcd.io/etcd/server/v3 etcdctl=go.etcd.io/etcd/etcdctl/v3
export CGO_ENABLED=0 GOFLAGS="-mod=mod -trimpath ${GOFLAGS-}"
go get "$server@v$version" "$etcdctl@v$version" >&2
mkdir bin
nice go build -ldflags '-s -w' -o bin/etcd "$server" >&2
nice go build -ldflags '-s -w' -o bin/etcdctl "$etcdctl" >&2
rm -rf "$dir"
mv bin "$dir"
echo "$dir"
