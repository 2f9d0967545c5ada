#!/usr/bin/env bash
# Prints the path of promtool, which tests alerts. Without one in PATH it is taken out of Debian's package, which is not
# installed: its installation starts a server.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source hack/env.sh

if command -v promtool; then exit 0; fi
tool="$VAO_CACHE/tools/promtool"

exec 9>"$VAO_CACHE/promtool.lock"
flock 9
if [[ ! -x $tool ]]; then
    command -v apt-get >/dev/null || { echo "no apt-get here; install promtool (of Prometheus) by other means" >&2; exit 1; }
    echo "fetching promtool, once" >&2
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    as_root=()
    if ((EUID != 0)); then as_root=(sudo); fi
    # With the user of the downloads apt would complain about a directory that is ours alone.
    fetch() { (cd "$work" && apt-get download -o APT::Sandbox::User=root --quiet prometheus >&2); }
    # The lists of a fresh machine are empty or old.
    fetch || { "${as_root[@]}" apt-get update --quiet >&2 && fetch; }
    dpkg-deb --fsys-tarfile "$work"/prometheus_*.deb | tar --extract --directory "$work" ./usr/bin/promtool
    mkdir -p "${tool%/*}"
    mv "$work/usr/bin/promtool" "$tool"
fi
echo "$tool"
