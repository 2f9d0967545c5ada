#!/usr/bin/env bash
# Compares what the operators of a test run asked of the API servers (the directory named first, which VAO_RBAC_HARVEST was)
# with the chart's roles. A further argument, any, says that only some tests ran: then rights may be left over.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

harvest=$1
shift
complete=(-complete)
(($# > 0)) && complete=()
"$(tests/plane/build.sh)" rbac "${complete[@]}" -expected tests/rbac/expected-refusals.txt "$harvest" <config/default/rbac.yaml
