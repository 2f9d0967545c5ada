#!/usr/bin/env bash
# Checks licenses, banned crates and sources of dependencies (deny.toml) with cargo-deny, which is built once, into the
# cache, where it is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source hack/env.sh

version=0.20.2
tools="$VAO_CACHE/tools/cargo-deny-$version"
if [[ ! -x $tools/bin/cargo-deny ]]; then
    echo "building cargo-deny $version, once" >&2
    cargo install --quiet --locked --root "$tools" --version "$version" cargo-deny
fi
"$tools/bin/cargo-deny" --locked check licenses bans sources
