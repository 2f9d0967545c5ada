# Where builds go; to be sourced. Outside the checkout, so that the next clean clone is quick.
#
#   source hack/env.sh

: "${VAO_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/virtual-account-operator}"
: "${CARGO_TARGET_DIR:=$VAO_CACHE/target}"
# The build must leave room for the control plane's, which runs beside it.
: "${CARGO_BUILD_JOBS:=$(nproc 2>/dev/null || echo 2)}"
export VAO_CACHE CARGO_TARGET_DIR CARGO_BUILD_JOBS
mkdir -p "$VAO_CACHE"
