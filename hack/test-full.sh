#!/usr/bin/env bash
# What is long and rarely breaks, beyond `make test`. Without arguments all steps, else those that are named.
#
#   hack/test-full.sh [STEP…]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source hack/env.sh
# What the tests do not install themselves.
hack/debian.sh

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A step is a function of this name and the line that tells of it.
steps=(
    "release: the release binary, built as the Dockerfile builds it, is small and needs glibc alone"
    "sbom: the bill of materials lists what is in the binary"
    "start: the release binary is ready within a second"
    "memory: two thousand accounts cost a leader and a follower little memory"
    "core: the core tests pass with the release binary"
    "helm3: the core tests pass with an operator that Helm 3 has installed"
    "helm4: the core tests pass with an operator that Helm 4 has installed"
    "kills: the leader is killed twenty times, and nothing is minted twice"
)

# 40 MB, the bound for the binary.
most=$((40 * 1000 * 1000))

release() {
    local binary size sections libraries
    binary=$(hack/release.sh)
    size=$(stat --format %s "$binary")
    ((size < most)) || fail "the binary has $size bytes"
    sections=$(readelf --wide --section-headers "$binary")
    if grep -qE '\.(symtab|debug_)' <<<"$sections"; then fail "the binary is not stripped"; fi
    # What the runtime image has, and what the kernel gives.
    libraries=$(ldd "$binary" | awk '{ print $1 }' | sed 's|.*/||' |
        grep -vE '^(libc\.so\.6|libm\.so\.6|libgcc_s\.so\.1|ld-linux-.*|linux-vdso\.so\.1)$' || true)
    [[ -z $libraries ]] || fail "the runtime image lacks $libraries"
    echo "$size bytes"
}

sbom() {
    hack/sbom.sh "$work/sbom.json"
    python3 -B tests/release/sbom.py "$work/sbom.json"
}

start() {
    local binary
    binary=$(hack/release.sh)
    VAO_TEST_BINARY=$binary VAO_TEST_READY_WITHIN=1 one operator restart::it_is_ready_soon
}

memory() {
    local binary
    binary=$(hack/release.sh)
    VAO_TEST_BINARY=$binary VAO_TEST_ACCOUNTS=2000 one counts an_account_costs_little_memory
}

core() {
    local binary
    binary=$(hack/release.sh)
    VAO_TEST_BINARY=$binary cargo test --locked --test operator
}

helm3() { VAO_TEST_CHART=3 cargo test --locked --test operator; }

helm4() { VAO_TEST_CHART=4 cargo test --locked --test operator; }

kills() { VAO_KILLS=20 one drills leader::the_leader_is_killed_again_and_again; }

# one BINARY TEST: this test alone, with what it prints. To cargo a name that no test has is no failure.
one() {
    cargo test --locked --test "$1" -- --exact --nocapture "$2" | tee "$work/log"
    grep -q '^test result: ok. 1 passed' "$work/log" || fail "there is no test $2"
}

fail() {
    echo "$*" >&2
    exit 1
}

chosen() { ((${#wanted[@]} == 0)) || [[ " ${wanted[*]} " == *" $1 "* ]]; }

wanted=("$@")
for name in "$@"; do
    [[ " ${steps[*]%%:*} " == *" $name "* ]] || fail "no step is called $name; there are: ${steps[*]%%:*}"
done
for step in "${steps[@]}"; do
    name=${step%%:*} began=$SECONDS
    chosen "$name" || continue
    printf '\n==> %s\n' "$step"
    # Not as `$name || …`: bash would go on after a failure inside.
    "$name"
    printf '==> %s: passed in %d s\n' "$name" $((SECONDS - began))
done
