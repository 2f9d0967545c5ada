#!/usr/bin/env bash
# Builds what the tests need, Go and Rust side by side, and runs all of them. Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source hack/env.sh

say() { printf '==> %s (%d s)\n' "$1" "$SECONDS" >&2; }

# Cargo says what it builds; the others are quiet, or say "still building".
say "building the tests, the control plane and the Python environment"
hack/debian.sh
hack/promtool.sh >/dev/null
{ hack/python-env.sh && hack/schemas.sh; } >/dev/null &
python=$!
hack/helm.sh >/dev/null &
helm=$!
tests/plane/build.sh >/dev/null &
plane=$!
trap 'kill "$python" "$helm" "$plane" 2>/dev/null || true' EXIT
cargo test --locked --no-run
wait "$python"
wait "$helm"
wait "$plane"
trap - EXIT

say "running the tests"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
cargo test --locked --no-fail-fast "$@" 2>&1 | tee "$log" || status=$?

say "summary"
awk '
    /^test result:/ { passed += $4; failed += $6; ignored += $8 }
    /^test .* \.\.\. FAILED/ { names = names "  " $2 "\n" }
    END {
        printf "%d passed, %d failed, %d ignored\n%s", passed, failed, ignored, names
    }
' "$log"
exit "$status"
