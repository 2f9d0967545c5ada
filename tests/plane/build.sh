#!/usr/bin/env bash
# Builds the test control plane, unless that was done already, and prints the
# path of the binary on stdout; progress goes to stderr.
#
# The binary is kept outside the checkout under a name made from its sources and
# the Go version, so a fresh clone or a `git clean` does not cost another build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

cache="${XDG_CACHE_HOME:-$HOME/.cache}/virtual-account-operator"
hash=$({ cat go.mod go.sum ./*.go; go version; } | sha256sum | cut -c1-16)
binary="$cache/testplane-$hash"

use() {
    # The time of the last use, for remove_unused of other checkouts.
    # -c opens nothing: a file open for writing cannot be started meanwhile.
    touch -c "$binary"
    echo "$binary"
    exit 0
}

# Another checkout may be running its tests on another version, so a binary is
# removed only when nobody has asked for it for a day.
remove_unused() {
    find "$cache" -maxdepth 1 -name 'testplane-*' ! -path "$binary" -mmin +1440 -delete
}

[[ -x $binary ]] && use

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
[[ -x $binary ]] && use # another build made it while this one waited

echo "building the test control plane (first build: about 7 minutes)" >&2
temporary="$cache/testplane-$hash.new"
version=v$(go list -m -f '{{slice .Version 1}}' k8s.io/kubernetes)
IFS=. read -r major minor _ <<<"${version#v}"
flags="-s -w"
flags+=" -X k8s.io/component-base/version.gitVersion=$version"
flags+=" -X k8s.io/component-base/version.gitMajor=$major"
flags+=" -X k8s.io/component-base/version.gitMinor=$minor"
flags+=" -X k8s.io/client-go/pkg/version.gitVersion=$version"
# 9>&- and the trap: an interrupted script must not leave a build that holds the lock.
CGO_ENABLED=0 nice go build -p 2 -trimpath -buildvcs=false -ldflags "$flags" -o "$temporary" . >&2 9>&- &
build=$!
trap 'kill "$build" 2>/dev/null || true; rm -f "$temporary"' EXIT

SECONDS=0
while kill -0 "$build" 2>/dev/null; do
    sleep 1
    if ((SECONDS % 20 == 0)); then echo "  still building ($SECONDS s)" >&2; fi
done
wait "$build"

mv "$temporary" "$binary"
remove_unused
echo "built in $SECONDS s" >&2
use
