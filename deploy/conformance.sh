#!/usr/bin/env bash
# The official conformance suite against the cluster of `make up`: E2E is its program (`e2e.test` of k8s.io/kubernetes,
# which `deploy/get-kubernetes.sh suite` builds), FOCUS which specs (a regular expression; by default all conformance
# specs), SKIP which of those not, PROCS how many run at once (then GINKGO, by default beside E2E, has to be there).
# IMAGES is a folder of image archives that are imported into every node, REPO what their names begin with, in the
# place of every registry that the suite knows. Prints what failed, then passed / failed per SIG.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${E2E:?say which e2e.test, as in: make conformance E2E=/path/to/e2e.test FOCUS=sig-apps}"
FOCUS=${FOCUS:-\\[Conformance\\]}
SKIP=${SKIP:-}
PROCS=${PROCS:-3}
DIR=${DIR:-.kontiki}
NAME=${NAME:-kontiki}
kubeconfig=$(realpath "$DIR/kubeconfig") || { echo "conformance: no cluster here: run \`make up\` first" >&2; exit 1; }
REPORT=${REPORT:-$DIR/conformance}
mkdir -p "$REPORT"
REPORT=$(realpath "$REPORT")

if [ -n "${IMAGES:-}" ]; then
  for socket in /run/kontiki/"$NAME"/*/containerd.sock; do
    for archive in "$IMAGES"/*.tar; do
      ctr --address "$socket" --namespace k8s.io images import "$archive" >/dev/null
    done
    echo "conformance: images imported into $(basename "$(dirname "$socket")")"
  done
fi
if [ -n "${REPO:-}" ]; then
  export KUBE_TEST_REPO_LIST=$REPORT/registries.yaml
  for registry in promoterE2e buildImage gcEtcd gc sigStorage dockerLibrary cloudProviderGcp; do
    echo "${registry}Registry: $REPO"
  done >"$KUBE_TEST_REPO_LIST"
fi

suite=(--kubeconfig="$kubeconfig" --provider=skeleton --allowed-not-ready-nodes=-1 --minStartupPods=0
  --dump-logs-on-failure=false --report-complete-ginkgo=false)
select=(--focus="$FOCUS")
[ -z "$SKIP" ] || select+=(--skip="$SKIP")
rc=0
if [ "$PROCS" -gt 1 ]; then
  ginkgo=${GINKGO:-$(dirname "$E2E")/ginkgo}
  "$ginkgo" --procs="$PROCS" --no-color --silence-skips "${select[@]}" --json-report=report.json --output-dir="$REPORT" "$E2E" -- "${suite[@]}" >"$REPORT/log" 2>&1 || rc=$?
else
  "$E2E" "${select[@]/#--/--ginkgo.}" --ginkgo.json-report="$REPORT/report.json" --ginkgo.no-color "${suite[@]}" >"$REPORT/log" 2>&1 || rc=$?
fi
deploy/conformance.py "$REPORT/report.json" || { tail -n 40 "$REPORT/log"; exit 1; }
exit "$rc"
