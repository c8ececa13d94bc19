#!/bin/sh
# etcd 3.7.3: a negative revision in a RangeRequest is the present, as rpc.proto says ("if revision is less or equal
# to zero"). Range treats it like zero. RangeStream pins the revision of its chunks for zero only: at -1 each chunk
# is read as of its own moment, so one answer mixes two states, under a header that tells the revision of the first.
#
# Builds etcd 3.7.3 and a client of its gRPC API in a temporary folder: a transaction that is made while a stream is
# half read writes the first and the last key alike; the stream shows the last as it is after, and the first as it was
# before. Fails if that is not what happens any more. Needs Go 1.26 and the ports 23791 and 23792 of the loopback.
set -eu

version=v3.7.3
work=$(mktemp -d)
etcd=
trap '[ -z "$etcd" ] || kill "$etcd"; rm -rf "$work"' EXIT
cd "$work"
export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-mod=mod
printf 'module finding\n\ngo 1.26.0\n' >go.mod
cat >main.go <<'GO'
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const keys = 200

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	return value
}

func key(i int) []byte { return []byte(fmt.Sprintf("k/%03d", i)) }

// Reads all keys in chunks at a revision and overwrites the first and the last after the first chunk. Gives the
// revisions of both as they were read, and that of the header.
func read(kv pb.KVClient, revision int64) (first, last, header int64) {
	ctx := context.Background()
	stream := must(kv.RangeStream(ctx, &pb.RangeRequest{Key: []byte("k/"), RangeEnd: []byte("k0"), Revision: revision}))
	for chunk := 0; ; chunk++ {
		part, err := stream.Recv()
		if err == io.EOF {
			return
		}
		kvs := must(part, err).RangeResponse.Kvs
		if chunk == 0 {
			first = kvs[0].ModRevision
			put := func(i int) *pb.RequestOp {
				return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key(i)}}}
			}
			must(kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{put(0), put(keys - 1)}}))
		}
		if len(kvs) > 0 {
			last = kvs[len(kvs)-1].ModRevision
		}
		if h := part.RangeResponse.Header; h != nil {
			header = h.Revision
		}
	}
}

func main() {
	conn := must(grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials())))
	kv := pb.NewKVClient(conn)
	// More than a connection holds, so that the server waits for the client.
	value := bytes.Repeat([]byte{1}, 256<<10)
	for i := 0; i < keys; i++ {
		must(kv.Put(context.Background(), &pb.PutRequest{Key: key(i), Value: value}, grpc.WaitForReady(true)))
	}
	fmt.Println("server", must(pb.NewMaintenanceClient(conn).Status(context.Background(), &pb.StatusRequest{})).Version)
	good := true
	for _, revision := range []int64{0, -1} {
		first, last, header := read(kv, revision)
		fmt.Printf("revision %2d: header at %d, first key of %d, last key of %d\n", revision, header, first, last)
		good = good && (last > header) == (revision < 0)
	}
	if !good {
		fmt.Println("not as it was")
		os.Exit(1)
	}
}
GO
server=go.etcd.io/etcd/server/v3
go get "$server@$version" "go.etcd.io/etcd/api/v3@$version" 2>/dev/null
go build -o etcd "$server"
go build -o client .

here=127.0.0.1:23791 peer=http://127.0.0.1:23792
./etcd --data-dir data --listen-client-urls http://$here --advertise-client-urls http://$here \
  --listen-peer-urls $peer --initial-advertise-peer-urls $peer --initial-cluster default=$peer >log 2>&1 &
etcd=$!
./client $here
