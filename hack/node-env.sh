#!/usr/bin/env bash
# Installs the verifier of tests/verifiers/node with its packages, unless that was done already, and prints its folder on
# stdout; progress goes to stderr. Packages are found beside the program, so the program is copied to them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source hack/env.sh

sources=(tests/verifiers/node/{package.json,package-lock.json,verify.mjs})
hash=$({ cat "${sources[@]}"; node --version; } | sha256sum | cut -c1-16)
env="$VAO_CACHE/node-$hash"

exec 9>"$VAO_CACHE/node.lock"
flock 9
# Its last step makes this file, so an interrupted installation is made again.
if [[ ! -e $env/complete ]]; then
    echo "installing JavaScript packages for tests" >&2
    rm -rf "$env"
    mkdir -p "$env"
    cp "${sources[@]}" "$env"
    npm ci --prefix "$env" --no-audit --no-fund --ignore-scripts --loglevel=error >&2
    touch "$env/complete"
fi
echo "$env"
