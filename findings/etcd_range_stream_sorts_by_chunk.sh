#!/bin/sh
# etcd 3.7.3: RangeStream with a sort target and no order (what `etcdctl get --stream --sort-by=…` sends) sorts
# each chunk by itself and goes on behind the key that the sort put last. So keys come twice and others not at
# all, without an error. Range answers the same request with each key once.
#
# Builds etcd and etcdctl 3.7.3 from their Go modules in a temporary folder, puts 25 keys and reads them both
# ways. Fails if that is not what happens any more. Needs Go 1.26 and the ports 23791 and 23792 of the loopback.
set -eu

version=v3.7.3
work=$(mktemp -d)
etcd=
trap '[ -z "$etcd" ] || kill "$etcd"; rm -rf "$work"' EXIT
cd "$work"
export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-mod=mod
printf 'module finding\n\ngo 1.26.0\n' >go.mod
server=go.etcd.io/etcd/server/v3 ctl=go.etcd.io/etcd/etcdctl/v3
go get "$server@$version" "$ctl@$version" 2>/dev/null
go build -o etcd "$server"
go build -o etcdctl "$ctl"

here=http://127.0.0.1:23791 peer=http://127.0.0.1:23792
./etcd --data-dir data --listen-client-urls $here --advertise-client-urls $here --listen-peer-urls $peer \
  --initial-advertise-peer-urls $peer --initial-cluster default=$peer >log 2>&1 &
etcd=$!
ctl() { ./etcdctl --endpoints $here "$@"; }
ctl --command-timeout=30s endpoint status --dial-timeout=30s >/dev/null
ctl version | sed -n 's/^/  /p'
for i in $(seq 10 34); do
  ctl put "k/$i" "$(((i - 10) * 7 % 25 + 10))" >/dev/null
done

read_by_value() { ctl get --prefix k/ --sort-by=value "$@" | grep ^k/ || true; }
read_by_value >range
read_by_value --stream >stream
echo "keys put: 25"
echo "Range:       $(wc -l <range) keys, $(sort -u range | wc -l) of them different"
echo "RangeStream: $(wc -l <stream) keys, $(sort -u stream | wc -l) of them different"
sort range >all
echo "never sent by RangeStream: $(sort -u stream | comm -23 all - | tr '\n' ' ')"
[ "$(wc -l <range)" = 25 ] && [ "$(sort -u range | wc -l)" = 25 ] || { echo "Range is not as it was"; exit 1; }
[ "$(wc -l <stream)" = 40 ] && [ "$(sort -u stream | wc -l)" = 24 ] || { echo "RangeStream is not as it was"; exit 1; }
