#!/bin/sh
# kubectl 1.37.2 (k8s.io/kubectl v0.37.2): `auth reconcile -n NAMESPACE` does not put a Role that names no namespace
# into that namespace, as every other command with -f does. It asks for the Role without any namespace (a path that is
# the list of all namespaces' Roles with a name behind it), and then ends with "resource name may not be empty".
# Its documentation promises that the containing namespace is made if it is missing.
#
# Builds kubectl from its Go module in a temporary folder, and runs it against a server that answers 404 to everything
# and notes what it was asked: once with -n, once with the namespace in the file. Fails if that is not what happens any
# more. Needs Go 1.26, python3 and the port 23793 of the loopback.
set -eu

version=v0.37.2
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
cd "$work"
export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-mod=mod HOME="$work" GOMODCACHE="${GOMODCACHE:-$(go env GOMODCACHE)}" \
  GOCACHE="${GOCACHE:-$(go env GOCACHE)}"
printf 'module finding\n\ngo 1.26.0\n' >go.mod
cat >main.go <<'GO'
package main

import (
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
)

func main() { cli.Run(cmd.NewDefaultKubectlCommand()) }
GO
go get "k8s.io/kubectl@$version" "k8s.io/component-base@$version" 2>/dev/null
go build -o kubectl .

cat >server.py <<'PY'
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        print(self.command, self.path.split("?")[0], file=open("asked", "a"), flush=True)
        body = b'{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}'
        self.send_response(404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = do_PUT = answer
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 23793), Handler)
open("up", "w").close()
server.serve_forever()
PY
python3 server.py &
server=$!
until [ -e up ]; do kill -0 "$server"; sleep 0.1; done

role() { printf 'apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: reader%s}\nrules: []\n' "$1"; }
reconcile() {
  rm -f asked
  ./kubectl --kubeconfig /dev/null --server http://127.0.0.1:23793 -n shop auth reconcile -f - 2>&1 || true
}
echo "-n shop, no namespace in the file:"
role '' | reconcile | tee said
sed 's/^/  /' asked
roles=/apis/rbac.authorization.k8s.io/v1
grep -qx "GET $roles/roles/reader" asked || { echo "it asks otherwise now"; exit 1; }
grep -qx 'error: resource name may not be empty' said || { echo "it says something else now"; exit 1; }
echo "-n shop, and that namespace in the file:"
role ', namespace: shop' | reconcile
sed 's/^/  /' asked
grep -qx "GET $roles/namespaces/shop/roles/reader" asked || { echo "it asks otherwise now"; exit 1; }
