#!/bin/sh
# Programs of the newest Kubernetes, built once from its own Go modules into ~/.cache/kontiki/peers: "kube-apiserver" and
# "kube-controller-manager", which the figures hold our API and our controllers against; "kubectl", which the stories use
# where $KONTIKI_KUBECTL names it; or "suite", the official conformance suite with ginkgo, its test program for containers
# (agnhost) and kubectl. Prints their folder. Safe to run again, also at the same time. Ends with 3 where there is no Go
# that could build them. Takes half an hour or more, and so makes way for whatever else runs.
set -eu

version=1.37.2
wants=1.26 # what its modules ask for
module=k8s.io/kubernetes
say() { printf 'get-kubernetes: %s\n' "$*" >&2; }

what=${1-}
case "$what" in
  kube-apiserver | kube-controller-manager | kubectl) packages="$module/cmd/$what" ;;
  suite)
    packages="$module/cmd/kubectl $module/test/images/agnhost $module/test/images/nonewprivs"
    packages="$packages github.com/onsi/ginkgo/v2/ginkgo $module/test/e2e"
    ;;
  *) say "which: kube-apiserver, kube-controller-manager, kubectl or suite"; exit 2 ;;
esac
peers="$HOME/.cache/kontiki/peers"
dir="$peers/$what-$version"

mkdir -p "$peers"
exec 9>"$peers/lock-$what"
flock 9
if [ -d "$dir" ]; then
  echo "$dir"
  exit
fi

# No other toolchain is fetched for it.
export GOTOOLCHAIN=local
have=$(go env GOVERSION 2>/dev/null | sed 's/^go//')
if [ -z "$have" ] || [ "$(printf '%s\n%s\n' "$wants" "$have" | sort -V | head -n 1)" != "$wants" ]; then
  say "$what $version is left out: it takes Go $wants or newer, and here is ${have:-none}"
  exit 3
fi

say "building $what $version with Go $have"
work=$(mktemp -d "$peers/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
export CGO_ENABLED=0 GOFLAGS="-mod=mod -trimpath ${GOFLAGS-}"
printf 'module peer\n\ngo %s\n' "$wants" >go.mod
# Its go.mod finds the modules that are released with it by relative paths, which only its own checkout has: the
# published ones take their place, whose versions say 0 where its own says 1.
info=$(go mod download -json "$module@v$version")
mod=$(printf '%s\n' "$info" | sed -n 's/^[[:space:]]*"GoMod": "\(.*\)",*$/\1/p')
staged=$(sed -n 's/^[[:space:]]*\([^ ]*\) => \.\/staging\/.*/\1/p' "$mod")
[ -n "$staged" ] || { say "$mod names no staging modules"; exit 1; }
{
  printf 'module peer\n\ngo %s\n\ngodebug default=go%s\n\nrequire %s v%s\n\nreplace (\n' "$wants" "$wants" "$module" "$version"
  for name in $staged; do printf '\t%s => %s v0.%s\n' "$name" "$name" "${version#1.}"; done
  printf ')\n'
} >go.mod
# They are commands: something has to ask for them, so that their requirements are resolved.
{
  printf '//go:build tools\n\npackage peer\n\n'
  for package in $packages; do printf 'import _ "%s"\n' "$package"; done
} >peer.go

minor=${version#1.}
say_version="-X k8s.io/component-base/version.gitVersion=v$version"
say_version="$say_version -X k8s.io/component-base/version.gitMajor=1"
say_version="$say_version -X k8s.io/component-base/version.gitMinor=${minor%%.*}"
mkdir bin
for package in $packages; do
  case "$package" in
    */test/e2e) nice -n 10 go test -c -vet=off -p 1 -ldflags "-s -w $say_version" -o bin/e2e.test "$package" >&2 ;;
    *) nice -n 10 go build -p 1 -ldflags "-s -w $say_version" -o "bin/${package##*/}" "$package" >&2 ;;
  esac
done
rm -rf "$dir"
mv bin "$dir"
echo "$dir"
