#!/usr/bin/env bash
# The whole job, on a real API server, step by step: `make demo`. It keeps running until Ctrl-C; with ONCE=1 it ends by
# itself, with exit code 0 only if every step showed what it should.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source hack/env.sh

readonly namespace=virtual-accounts # the operator's
readonly account=payments-api secret=payments-api-credentials loader=warehouse-loader
readonly grace=12 # seconds: long enough to look at both tokens on a slow machine
readonly rotate=virtualaccounts.dev/rotate

work=$(mktemp -d "${TMPDIR:-/tmp}/virtual-accounts-demo.XXXXXX")
log=$work/operator.log
mails=$work/mails
# The processes that this script started; an empty one has ended or was never there.
plane_pid='' operator_pid='' follower_pid='' bao_pid='' post_pid=''
told_to_end=''

main() {
    trap clean_up EXIT
    trap 'told_to_end=yes; exit 130' INT TERM
    build
    # From here on everything is on this machine's loopback, which no proxy reaches.
    unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
    step "A real API server"
    start_plane
    step "The operator, installed by Helm"
    install
    start_operator
    step "Three accounts"
    show_accounts
    step "What a token says"
    show_claims
    step "Somebody else verifies it: Python's PyJWT, which knows nothing but the issuer's URL"
    show_verification
    step "A service asks the operator what the token may do"
    show_introspection
    step "Rotate now: two good tokens, side by side"
    rotate_now
    step "The grace period ends"
    end_grace
    step "Revoke a token"
    revoke
    step "People are told: a channel to a mail server"
    start_post_office
    open_channel
    step "A rotation, and the mail that tells of it"
    rotate_and_tell
    step "A secret store beside the Secret: OpenBao, which is a Vault"
    start_bao
    fill_store
    step "A rotation reaches the store, and the old version ends with its grace"
    rotate_store
    step "The account goes, and its token goes from the store"
    empty_store
    step "Your turn"
    invite
    [[ ${ONCE:-} ]] || stay
}

for part in tell build run story look end; do
    # shellcheck source=/dev/null
    source "hack/demo/$part.sh"
done
main
