#!/bin/sh
# Brings what Kontiki needs to build and to run on Debian 12 and 13. Safe to run again: it says one
# line per action, and nothing when there is nothing to do. A Rust toolchain is assumed.
#
#   deploy/install.sh            all
#   deploy/install.sh --runtime  only what running needs (no compilers)
set -eu

say() { printf 'install: %s\n' "$*"; }
die() { printf 'install: %s\n' "$*" >&2; exit 1; }

runtime="containerd runc containernetworking-plugins nftables iproute2 iptables conntrack
  busybox-static ca-certificates procps util-linux"
build="clang libclang-dev mold cmake make pkg-config protobuf-compiler libprotobuf-dev git python3 python3-venv python3-pip
  curl openssl"

case "${1-}" in
  '') packages="$runtime $build" ;;
  --runtime) packages="$runtime" ;;
  *) die "unknown argument $1 (known: --runtime)" ;;
esac

[ "$(id -u)" = 0 ] || die "needs root: run it with sudo"
command -v apt-get >/dev/null || die "needs apt-get; on other distributions install by hand: $(echo $packages)"

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

updated=
apt_update() {
  [ -n "$updated" ] && return
  apt-get -qq update || say "the package lists could not all be refreshed; going on with what is there"
  updated=1
}

missing=
for package in $packages; do
  installed "$package" || missing="$missing $package"
done
if [ -n "$missing" ]; then
  say "installing$missing"
  apt_update
  # Debian starts a service at once; Kontiki runs containerds of its own and needs no other.
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $missing >/dev/null ||
    die "apt-get could not install:$missing"
fi

# kubectl: Debian 12 has only 1.20. Take Debian 13's from the mirror this machine already uses.
kubectl_minor() { kubectl version --client -o json 2>/dev/null | sed -n 's/.*"minor": "\([0-9]*\).*/\1/p' | head -n 1; }

debian_mirror() {
  {
    sed -n 's/^URIs:[[:space:]]*//p' /etc/apt/sources.list.d/*.sources
    sed -n 's/^deb[[:space:]]\{1,\}\(\[[^]]*\][[:space:]]*\)\{0,1\}\([^[:space:]]*\).*/\2/p' \
      /etc/apt/sources.list /etc/apt/sources.list.d/*.list
  } 2>/dev/null | tr ' ' '\n' | grep -E '/debian/?$' | head -n 1
}

fetch_kubectl() {
  mirror=$(debian_mirror)
  [ -n "$mirror" ] || die "no Debian mirror found in /etc/apt; install kubectl 1.32 or newer by hand"
  dir=$(mktemp -d)
  trap 'rm -rf "$dir"' EXIT
  mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
  printf 'Types: deb\nURIs: %s\nSuites: trixie\nComponents: main\nSigned-By: %s\n' \
    "$mirror" /usr/share/keyrings/debian-archive-keyring.gpg >"$dir/trixie.sources"
  options="-o Dir::Etc::sourcelist=$dir/trixie.sources -o Dir::Etc::sourceparts=-
    -o Dir::State::Lists=$dir/lists -o Dir::Cache=$dir/cache -o APT::Sandbox::User=root"
  apt-get -qq $options update || die "cannot read $mirror; install kubectl 1.32 or newer by hand"
  (cd "$dir" && apt-get -qq $options download kubectl/trixie) || die "cannot fetch kubectl from $mirror"
  dpkg -x "$dir"/kubectl_*.deb "$dir/tree"
  install -m 0755 "$dir/tree/usr/bin/kubectl" /usr/local/bin/kubectl
}

minor=$(kubectl_minor)
if [ "${minor:-0}" -lt 32 ]; then
  say "installing kubectl from Debian 13 into /usr/local/bin"
  fetch_kubectl
  hash -r
  [ "$(kubectl_minor || echo 0)" -ge 32 ] || die "the kubectl fetched does not run here; install 1.32 or newer by hand"
fi

# Building takes a Rust toolchain, which Debian's own is too old for.
if [ "$packages" != "$runtime" ] && ! command -v cargo >/dev/null && [ ! -x "${HOME:-/root}/.cargo/bin/cargo" ]; then
  say "note: no cargo found; building needs Rust 1.95 or newer (rustup)"
fi
