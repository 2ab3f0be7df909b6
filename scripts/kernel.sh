#!/usr/bin/env bash
# Fetches Debian's kernel for virtual machines and unpacks it into a directory, for `make test-vm`. It is not installed. What is there
# already stays.
#   scripts/kernel.sh DIRECTORY
set -euo pipefail
dir=${1:?directory}
! compgen -G "$dir/boot/vmlinuz-*" >/dev/null || exit 0
name=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image-/ {print $2; exit}' || true)
if [ -z "$name" ]; then
  apt-get update -qq
  name=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ {print $2; exit}')
fi
echo "fetching $name"
mkdir -p "$dir"
cd "$dir"
rm -rf new ./*.deb
apt-get download -qq -o APT::Sandbox::User=root "$name"
dpkg-deb -x ./*.deb new
mv new/* .
rm -rf new ./*.deb
