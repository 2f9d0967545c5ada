#!/usr/bin/env bash
# Writes the software bill of materials (CycloneDX, JSON) of the binary to the given file, with cargo-cyclonedx, which is
# built once, into the cache, where it is missing.
#
#   hack/sbom.sh FILE
set -euo pipefail
output=$(realpath "${1:?name the file to write}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source hack/env.sh

version=0.5.9
tools="$VAO_CACHE/tools/cargo-cyclonedx-$version"
if [[ ! -x $tools/bin/cargo-cyclonedx ]]; then
    echo "building cargo-cyclonedx $version, once" >&2
    cargo install --quiet --locked --root "$tools" --version "$version" cargo-cyclonedx
fi
# It writes beside the manifest, so it gets a copy; it reads the manifest, the lock file and where the source begins.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp Cargo.toml Cargo.lock "$work"
cp -r src "$work"
export PATH="$tools/bin:$PATH"
cargo cyclonedx --quiet --manifest-path "$work/Cargo.toml" --format json --spec-version 1.5 \
    --target "$(rustc -vV | sed -n 's/^host: //p')" --override-filename sbom >&2
mv "$work/sbom.json" "$output"
