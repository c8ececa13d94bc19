#!/bin/sh
# The newest kube-apiserver, which the figures hold our API against: built once from its own Go modules into
# ~/.cache/kontiki/peers. Prints its folder. Safe to run again, also at the same time. Ends with 3 where there is
# no Go that could build it. Takes half an hour or more, and so makes way for whatever else runs.
set -eu

version=1.37.2
wants=1.26 # what its modules ask for
module=k8s.io/kubernetes
peers="$HOME/.cache/kontiki/peers"
dir="$peers/kube-apiserver-$version"

say() { printf 'get-kube-apiserver: %s\n' "$*" >&2; }

mkdir -p "$peers"
exec 9>"$peers/lock-kube-apiserver"
flock 9
if [ -x "$dir/kube-apiserver" ]; then
  echo "$dir"
  exit
fi

# No other toolchain is fetched for it.
export GOTOOLCHAIN=local
have=$(go env GOVERSION 2>/dev/null | sed 's/^go//')
if [ -z "$have" ] || [ "$(printf '%s\n%s\n' "$wants" "$have" | sort -V | head -n 1)" != "$wants" ]; then
  say "kube-apiserver $version is left out: it takes Go $wants or newer, and here is ${have:-none}"
  exit 3
fi

say "building kube-apiserver $version with Go $have"
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
# It is a command: something has to ask for it, so that its requirements are resolved.
printf '//go:build tools\n\npackage peer\n\nimport _ "%s/cmd/kube-apiserver"\n' "$module" >peer.go

minor=${version#1.}
say_version="-X k8s.io/component-base/version.gitVersion=v$version"
say_version="$say_version -X k8s.io/component-base/version.gitMajor=1"
say_version="$say_version -X k8s.io/component-base/version.gitMinor=${minor%%.*}"
mkdir bin
nice -n 10 go build -p 1 -ldflags "-s -w $say_version" -o bin/kube-apiserver "$module/cmd/kube-apiserver" >&2
rm -rf "$dir"
mv bin "$dir"
echo "$dir"
