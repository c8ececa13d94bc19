#!/bin/sh
# etcd 3.7.3: a watch that starts before the compacted revision is created and canceled by the server at once, with
# its compact_revision. The server then goes on counting it among the watches of its stream, as one that is behind:
# no progress request of that stream is answered any more, though every watch that lives is up to date, until the
# client cancels the watch that it was told is canceled (which the server answers with a second "canceled").
#
# Builds etcd 3.7.3 and a client of its gRPC API in a temporary folder. Fails if that is not what happens any more.
# Needs Go 1.26 and the ports 23791 and 23792 of the loopback.
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
	"context"
	"fmt"
	"os"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// How long an answer is waited for that may not come.
const wait = 3 * time.Second

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	return value
}

func main() {
	conn := must(grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials())))
	ctx, kv := context.Background(), pb.NewKVClient(conn)
	put := func() { must(kv.Put(ctx, &pb.PutRequest{Key: []byte("a")}, grpc.WaitForReady(true))) }
	for i := 0; i < 9; i++ {
		put()
	}
	must(kv.Compact(ctx, &pb.CompactionRequest{Revision: 8}))
	fmt.Println("server", must(pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})).Version)

	stream := must(pb.NewWatchClient(conn).Watch(ctx))
	told := make(chan *pb.WatchResponse, 16)
	go func() {
		for {
			told <- must(stream.Recv())
		}
	}()
	next := func(what string) bool {
		select {
		case answer := <-told:
			answer.Header.ClusterId, answer.Header.MemberId = 0, 0
			fmt.Printf("%-38s %v\n", what, answer)
			return true
		case <-time.After(wait):
			fmt.Printf("%-38s no answer in %v\n", what, wait)
			return false
		}
	}
	send := func(request *pb.WatchRequest) { stream.Send(request) }
	create := func(request *pb.WatchCreateRequest) {
		send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: request}})
	}
	progress := func(what string) bool {
		send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
		return next(what)
	}

	create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 1})
	next("watch 1, from now:")
	before := progress("progress:")
	create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 2, StartRevision: 3})
	next("watch 2, from revision 3:")
	next("  and:")
	during := progress("progress:")
	put()
	next("watch 1 is up to date:")
	during = progress("progress:") || during
	send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: 2}}})
	again := next("cancel watch 2:")
	after := progress("progress:")
	if !before || during || !again || !after {
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
