#!/usr/bin/env bash
# Installs the Debian packages that building and testing need, when they are missing.
#   gcc, libc6-dev, libseccomp-dev, pkg-config   the static celox-runtime (cgo)
#   ca-certificates                              modules come over HTTPS
#   busybox-static                               images and containers of the tests
#   curl                                         make run fetches the sample's pages
#   containernetworking-plugins, iptables        plugins that take the place of the pod network in tests
# With the argument "vm", also what `make test-vm` needs:
#   qemu-system-x86, e2fsprogs                   a virtual machine and its disk
#   xz-utils                                     kernel modules of newer Debians
# With the argument "bench", also what a scenario of test/bench compares with:
#   nginx-light                                  a reverse proxy
set -euo pipefail
packages=(gcc libc6-dev libseccomp-dev busybox-static pkg-config curl ca-certificates containernetworking-plugins iptables)
[ "${1-}" != vm ] || packages+=(qemu-system-x86 e2fsprogs xz-utils)
[ "${1-}" != bench ] || packages+=(nginx-light)
need=()
for p in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || need+=("$p")
done
[ ${#need[@]} -eq 0 ] && exit 0
if [ "$(id -u)" != 0 ]; then
  echo "missing packages: ${need[*]}. Run as root: apt-get install ${need[*]}" >&2
  exit 1
fi
echo "installing ${need[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq && apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
