#!/usr/bin/env bash
# Installs the Debian packages that tests need and that cannot be had otherwise, if they are missing.
set -euo pipefail

# libfaketime moves the operator's clock.
packages=(libfaketime)

missing=()
for package in "${packages[@]}"; do
    dpkg-query --show --showformat '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
((${#missing[@]})) || exit 0

command -v apt-get >/dev/null || { echo "no apt-get here; install ${missing[*]} by other means" >&2; exit 1; }
as_root=()
if ((EUID != 0)); then as_root=(sudo); fi
echo "installing Debian packages: ${missing[*]}" >&2
install() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install --yes --quiet "${missing[@]}" >&2; }
# The lists of a fresh machine are empty or old.
install || { "${as_root[@]}" apt-get -o DPkg::Lock::Timeout=300 update --quiet >&2 && install; }
