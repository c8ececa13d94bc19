#!/bin/sh
# The Python client kubernetes 37.0.2 writes a MicroTime (a Lease's renewTime, an Event's eventTime) as Python prints a
# datetime: without a fraction when its microseconds are zero. The API's own types (k8s.io/api 0.37.2) read a MicroTime
# only with exactly six digits of fraction, so they refuse such an object: every one whose time was cut to the second
# (`replace(microsecond=0)`), and by chance one in a million others. Plain Times have no such rule.
#
# Installs both in a temporary folder, writes a Lease with the one and reads it with the other. Fails if that is not
# what happens any more. Needs Python 3 with venv and Go 1.26.
set -eu

work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"
python3 -m venv python
python/bin/pip install --quiet kubernetes==37.0.2
cat >write.py <<'PY'
import datetime
import json

from kubernetes import client

api = client.ApiClient()
for microsecond in (0, 7):
    moment = datetime.datetime(2026, 1, 1, 0, 0, 0, microsecond, tzinfo=datetime.timezone.utc)
    lease = client.V1Lease(
        metadata=client.V1ObjectMeta(name="a", creation_timestamp=moment.replace(microsecond=0)),
        spec=client.V1LeaseSpec(renew_time=moment),
    )
    print(json.dumps(api.sanitize_for_serialization(lease)))
PY
export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-mod=mod
printf 'module finding\n\ngo 1.26.0\n\nrequire k8s.io/api v0.37.2\n' >go.mod
cat >main.go <<'GO'
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	coordination "k8s.io/api/coordination/v1"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var lease coordination.Lease
		err := json.Unmarshal(lines.Bytes(), &lease)
		fmt.Printf("%s\n  %v\n", lines.Text(), err)
	}
}
GO
python/bin/python write.py >leases
go run . <leases | tee seen
cat >expected <<'OUT'
{"metadata": {"creationTimestamp": "2026-01-01T00:00:00+00:00", "name": "a"}, "spec": {"renewTime": "2026-01-01T00:00:00+00:00"}}
  parsing time "2026-01-01T00:00:00+00:00" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "+00:00" as ".000000"
{"metadata": {"creationTimestamp": "2026-01-01T00:00:00+00:00", "name": "a"}, "spec": {"renewTime": "2026-01-01T00:00:00.000007+00:00"}}
  <nil>
OUT
diff expected seen
