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

# --- telling -----------------------------------------------------------------------------------------------------------

steps=0
bold='' red='' green='' plain=''
if [[ -t 1 ]]; then bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'; fi

step() {
    steps=$((steps + 1))
    printf '\n%s%d. %s%s\n\n' "$bold" "$steps" "$1" "$plain"
}

say() { printf '   %s\n' "$*"; }
indent() { sed 's/^/   /'; }

# Says that something holds.
holds() { printf '   %s✓%s %s\n' "$green" "$plain" "$*"; }

# Ends the demo. What was seen comes on stdin.
fail() {
    {
        printf '\n   %s✗%s %s\n   This was seen:\n' "$red" "$plain" "$*"
        indent
        if [[ -s $log ]]; then
            echo "   The operator's last lines:"
            tail -n 15 "$log" | indent
        fi
    } >&2
    exit 1
}

# expect "what should be" PATTERN SEEN
expect() {
    # shellcheck disable=SC2053 # it is a pattern
    if [[ $3 == $2 ]]; then holds "$1"; else fail "$1" <<<"$3"; fi
}

# A kubectl command as the reader could type it, and its output.
show() {
    say "\$ kubectl $*"
    kubectl "$@" | indent
    echo
}

# --- building ----------------------------------------------------------------------------------------------------------

build() {
    local started=$SECONDS jobs=() job
    echo "Building the control plane (Go) and the operator (Rust), side by side. The first time takes about 15 minutes."
    tests/plane/build.sh >"$work/plane.path" 2>"$work/plane.build" & jobs+=($!)
    cargo build --locked 2>"$work/operator.build" & jobs+=($!)
    hack/python-env.sh >"$work/python.path" 2>"$work/python.build" & jobs+=($!)
    hack/helm.sh >"$work/helm.path" 2>"$work/helm.build" & jobs+=($!)
    follow & follower_pid=$!
    for job in "${jobs[@]}"; do
        wait "$job" || { kill "${jobs[@]}" 2>/dev/null || true; fail "the build" <<<"$(tail -n 30 "$work"/*.build)"; }
    done
    stop "$follower_pid"
    follower_pid=''
    # A copy: another build may replace the original meanwhile.
    cp "$CARGO_TARGET_DIR/debug/virtual-account-operator" "$work/operator"
    plane=$(<"$work/plane.path")
    helm=$(<"$work/helm.path")/helm4
    python=$(<"$work/python.path")/bin/python bao=$(<"$work/python.path")/bin/bao
    echo "Built in $((SECONDS - started)) s."
}

# A line of progress every 10 s.
follow() {
    local started=$SECONDS
    # The current `sleep` would otherwise outlive it.
    trap 'kill "$nap" 2>/dev/null; exit' TERM
    while true; do
        sleep 10 & nap=$!
        wait "$nap"
        printf '   %4d s: operator: %d crates compiled; control plane: %s\n' $((SECONDS - started)) \
            "$(grep -c '^ *Compiling' "$work/operator.build")" "$(plane_progress)"
    done
}

plane_progress() {
    if [[ -s $work/plane.path ]]; then echo built; else tail -n 1 "$work/plane.build" | sed 's/^ *//'; fi
}

# --- running -----------------------------------------------------------------------------------------------------------

kubectl() { "$plane" kubectl --kubeconfig "$KUBECONFIG" --cache-dir "$work/kubectl-cache" "$@"; }

start_plane() {
    mkfifo "$work/commands"
    # It ends at the end of its stdin, so no other process may hold the pipe: it dies with this script in any case.
    "$plane" up --dir "$work/plane" <"$work/commands" >"$work/plane.ready" 2>"$log" & plane_pid=$!
    exec 9>"$work/commands"
    wait_until 60 "the control plane is ready" test -s "$work/plane.ready"
    server=$(field server <"$work/plane.ready")
    export KUBECONFIG=$work/plane/admin.kubeconfig
    say "etcd, kube-apiserver and kube-controller-manager run; the API server is $server"
}

install() {
    # The issuer's URL names the port, so the port must be known before.
    issuer=http://127.0.0.1:$(free_port)
    # Short times, to be looked at. OpenBao and the mail server run on this machine, hence local endpoints.
    tee "$work/values.yaml" <<YAML | indent
issuerUrl: $issuer
settings:
  logFormat: json
  minimumRotationInterval: 5s
  maxClockSkew: 5s
  allowLocalEndpoints: true
  clusterName: demo
YAML
    local words=(install virtual-account-operator charts/virtual-account-operator --create-namespace --namespace "$namespace")
    say "\$ helm ${words[*]} --values values.yaml"
    # Nothing from or for the Helm of whoever looks on.
    HOME=$work KUBECACHEDIR=$work/helm-cache "$helm" "${words[@]}" --values "$work/values.yaml" --hide-notes | indent
    kubectl wait --for=condition=Established --timeout=30s crd/virtualaccounts.virtualaccounts.dev >/dev/null
    # The garbage collector looks for new kinds when it starts.
    echo "restart kube-controller-manager" >&9
    kubectl create serviceaccount demo-caller -n "$namespace" | indent
    kubectl create clusterrolebinding demo-caller --clusterrole virtual-account-operator-introspection \
        --serviceaccount "$namespace:demo-caller" | indent
    kubectl create token demo-caller -n "$namespace" >"$work/caller.token"
}

# The operator gets nothing but its service account's token and the chart's roles.
operator_kubeconfig() {
    local token
    token=$(kubectl create token virtual-account-operator -n "$namespace" --duration 24h)
    cat <<YAML
apiVersion: v1
kind: Config
current-context: operator
clusters: [{name: demo, cluster: {server: "$server", certificate-authority: "$work/plane/ca.crt"}}]
users: [{name: operator, user: {token: "$token"}}]
contexts: [{name: operator, context: {cluster: demo, user: operator, namespace: $namespace}}]
YAML
}

start_operator() {
    (umask 077 && operator_kubeconfig >"$work/operator.kubeconfig")
    # There are no nodes: this script is the kubelet. It reads the Deployment back and starts what that says.
    local words=() environment=() word
    mapfile -d '' words < <(kubectl get deployment virtual-account-operator -n "$namespace" -o json |
        "$python" hack/container.py virtual-account-operator-demo)
    for word in "${words[@]}"; do
        [[ $word ]] || break
        environment+=("$word")
    done
    local arguments=("${words[@]:${#environment[@]}+1}")
    say "There are no nodes here, so this script starts what the Deployment says, but for the addresses:"
    say "\$ ${environment[*]} virtual-account-operator ${arguments[*]}"
    env -i "${environment[@]}" KUBECONFIG="$work/operator.kubeconfig" \
        VAO_PUBLIC_ADDRESS="${issuer#http://}" VAO_OPS_ADDRESS=127.0.0.1:0 \
        "$work/operator" "${arguments[@]}" </dev/null 9>&- >"$log" 2>&1 &
    operator_pid=$!
    wait_until 60 "the operator is ready" ready
    say "discovery, keys and online checks: $issuer"
    say "health and metrics:                http://$(listening ops)"
    holds "it is ready: $(get "http://$(listening ops)/readyz")"
}

# The kernel says which one is free.
free_port() { "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

ready() { [[ $(listening ops) ]] && get "http://$(listening ops)/readyz" >/dev/null; }

# Where a listener is bound: the log says it.
listening() { sed -n "s/.*\"listener\":\"$1\",\"address\":\"\([^\"]*\)\".*/\1/p" "$log" | head -n 1; }

alive() { kill -0 "$1" 2>/dev/null; }
get() { "$python" -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode().strip())' "$1" 2>/dev/null; }

# wait_until SECONDS "what" COMMAND...
wait_until() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        if ((SECONDS >= deadline)); then fail "$what" <<<"not within the time it should take"; fi
        if ! alive "$plane_pid"; then fail "$what" <<<"the control plane ended"; fi
        if [[ $operator_pid ]] && ! alive "$operator_pid"; then fail "$what" <<<"the operator ended"; fi
        sleep 0.2
    done
}

# --- the story ---------------------------------------------------------------------------------------------------------

show_accounts() {
    # The other samples are channels, which lead away from this machine.
    local samples=(-f config/samples/minimal.yaml -f config/samples/full.yaml -f config/samples/expiring.yaml)
    say "\$ kubectl apply ${samples[*]}"
    kubectl apply "${samples[@]}" | indent
    kubectl wait --for=condition=Ready --timeout=60s va --all >/dev/null ||
        fail "every account gets ready" <<<"$(kubectl get va -A -o wide)"
    echo
    show get va -A -o wide
    holds "all are Ready; each token is in a Secret"
}

show_claims() {
    token=$(secret_key token)
    say "Secret $secret has a token; its header and its claims are:"
    decode header <<<"$token" | indent
    decode claims <<<"$token" | indent
    expect "its id is the one that the account's status names" "$(status jwtId)" "$(claim jti <<<"$token")"
    expect "it holds no permissions: those are asked for online" 'va:default:payments-api' "$(claim sub <<<"$token")"
}

show_verification() {
    say "discovery:  $issuer/.well-known/openid-configuration"
    say "keys:       $issuer/jwks.json"
    local claims
    claims=$(offline "$token")
    expect "the signature, issuer, audience and times are good" "$(claim jti <<<"$token")" "$(field jti <<<"$claims")"
    expect "a token with one other character is refused" 'refused: *' "$(offline "$(forged <<<"$token")")"
}

show_introspection() {
    local answer
    answer=$(introspect "$token")
    pretty <<<"$answer" | indent
    expect "it is active" 'true' "$(field active <<<"$answer")"
    expect "the answer has its permissions" '*ledger.transfers*writer*' "$(field authorization_details <<<"$answer")"
}

rotate_now() {
    local before=$token now previous
    kubectl annotate va "$account" "$rotate=demo-1,grace=${grace}s" >/dev/null
    say "\$ kubectl annotate va $account $rotate=demo-1,grace=${grace}s"
    # shellcheck disable=SC2329 # wait_until calls it
    rotated() { [[ $(secret_key jti) != "$(claim jti <<<"$before")" && $(phase_of "$before") == Superseded ]]; }
    wait_until 30 "the Secret gets another token" rotated
    now=$(secret_key token) previous=$(secret_key previous-token)
    ends_at=$(ledger "$before" graceEndsAt)
    show get va "$account" -o 'custom-columns=JTI:.status.jwts[*].id,PHASE:.status.jwts[*].phase,GRACE ENDS:.status.jwts[*].graceEndsAt'
    expect "the previous token is in the Secret, beside the new one" "$before" "$previous"
    accepted "the new token" "$now"
    accepted "the previous token" "$previous"
    token=$now retired=$previous
}

end_grace() {
    local left
    say "the previous token is good until $ends_at"
    while left=$(seconds_until "$ends_at") && ((left > 0)); do
        if [[ -t 1 ]]; then printf '\r   %2d s left ' "$left"; fi
        sleep 1
    done
    if [[ -t 1 ]]; then printf '\r                \r'; fi
    refused "the previous token" "$retired"
    say "  A service that verifies offline cannot know; it accepts a token until its exp."
    accepted "the new token" "$token"
    # shellcheck disable=SC2329
    gone() { [[ -z $(secret_key previous-token) ]]; }
    wait_until 30 "the Secret drops the previous token" gone
    holds "the Secret no longer has it"
}

revoke() {
    local jti revoked=$token
    jti=$(claim jti <<<"$token")
    kubectl patch va "$account" --type merge -p "{\"spec\":{\"revokedJwtIds\":[\"$jti\"]}}" >/dev/null
    say "\$ kubectl patch va $account --type merge -p '{\"spec\":{\"revokedJwtIds\":[\"$jti\"]}}'"
    # shellcheck disable=SC2329
    replaced() { local seen; seen=$(secret_key jti) && [[ $seen && $seen != "$jti" ]]; }
    wait_until 30 "the Secret gets a successor" replaced
    refused "the revoked token" "$revoked"
    token=$(secret_key token)
    accepted "its successor, which was issued at once," "$token"
    # shellcheck disable=SC2329
    told() { kubectl events --for "va/$account" | grep -q Revoked; }
    wait_until 10 "an Event tells of it" told
    show events --for "va/$account"
}

start_post_office() {
    mkdir "$mails"
    "$python" tests/fakes/tls.py "$work"
    mkfifo "$work/post"
    # It ends at the end of its stdin, too.
    "$python" -B tests/fakes/smtp_server.py "$mails" --tls starttls --cert "$work/cert.pem" --key "$work/key.pem" \
        --username demo --password demo-password <"$work/post" 9>&- >"$work/post.ready" 2>"$work/post.log" & post_pid=$!
    exec 8>"$work/post"
    wait_until 30 "the mail server is ready" grep -q '^listening on ' "$work/post.ready"
    say "a mail server (aiosmtpd) runs at 127.0.0.1:$(post_port); it wants STARTTLS and a login, which is in Secret smtp"
    kubectl create secret generic smtp --from-literal username=demo --from-literal password=demo-password \
        --from-file "ca.crt=$work/cert.pem" | indent
}
post_port() { sed -n 's/^listening on //p' "$work/post.ready"; }

open_channel() {
    tee "$work/channel.yaml" <<YAML | indent
apiVersion: virtualaccounts.dev/v1alpha1
kind: NotificationChannel
metadata:
  name: mail
spec:
  email:
    host: 127.0.0.1
    port: $(post_port)
    auth:
      usernameRef: {name: smtp, key: username}
      passwordRef: {name: smtp, key: password}
    from: Virtual accounts <virtual-accounts@example.com>
    caBundle: {name: smtp, key: ca.crt}
YAML
    kubectl apply -f "$work/channel.yaml" | indent
    kubectl wait --for=condition=Ready --timeout=60s nc/mail >/dev/null ||
        fail "the channel gets ready" <<<"$(kubectl describe nc/mail)"
    show get nc
    expect "the operator logged in over TLS to find that out" '*"AUTH PLAIN encrypted"*' "$(cat "$mails/events")"
    expect "and sent nobody anything" '' "$(taken)"
}

rotate_and_tell() {
    local before=$token target='{"spec":{"notificationTargets":[{"channelRef":{"name":"mail"},"toEmails":["alice@example.com"]}]}}'
    say "\$ kubectl patch va $account --type merge -p '$target'"
    kubectl patch va "$account" --type merge -p "$target" >/dev/null
    say "\$ kubectl annotate va $account --overwrite $rotate=demo-2"
    kubectl annotate va "$account" --overwrite "$rotate=demo-2" >/dev/null
    # shellcheck disable=SC2329
    arrived() { [[ $(taken) ]]; }
    wait_until 30 "a mail arrives" arrived
    token=$(secret_key token)
    say "this arrived for alice@example.com:"
    echo
    mail show | indent
    echo
    expect "it has two parts, text and HTML" 'multipart/alternative text/plain text/html' "$(mail parts)"
    expect "both name the account" 'text/plain text/html' "$(mail names "default/$account")"
    expect "both name the new token by its id" 'text/plain text/html' "$(mail names "$(claim jti <<<"$token")")"
    expect "neither the new token nor the previous one is anywhere in it" 'true' "$(printf '%s\n' "$token" "$before" | mail lacks)"
    # shellcheck disable=SC2329
    recorded() { [[ $(status 'notifications[0].state') == Sent ]]; }
    wait_until 30 "the status records that it was sent" recorded
    holds "the status says that it was sent"
    expect "and under which id: the one in the mail's header" \
        "$(status 'notifications[0].id')" "$(mail header X-Virtual-Account-Notice)"
    show get va "$account" -o 'custom-columns=KIND:.status.notifications[*].kind,STATE:.status.notifications[*].state,SENT AT:.status.notifications[*].sentAt'
}

taken() { find "$mails" -name '*.json'; }
mail() { "$python" hack/mail.py "$mails" "$@"; }

start_bao() {
    export BAO_ADDR=http://127.0.0.1:$(free_port) BAO_TOKEN=demo-root-token
    "$bao" server -dev -dev-no-store-token -dev-root-token-id "$BAO_TOKEN" -dev-listen-address "${BAO_ADDR#http://}" \
        </dev/null 8>&- 9>&- >"$work/bao.log" 2>&1 &
    bao_pid=$!
    # shellcheck disable=SC2329
    unsealed() { "$bao" status >/dev/null 2>&1; }
    wait_until 30 "OpenBao is ready" unsealed
    say "OpenBao runs at $BAO_ADDR; its token is in Secret openbao-token"
    kubectl create secret generic openbao-token --from-literal "token=$BAO_TOKEN" | indent
}

fill_store() {
    tee "$work/store.yaml" <<YAML | indent
apiVersion: virtualaccounts.dev/v1alpha1
kind: TokenStore
metadata:
  name: openbao
spec:
  hashicorpVault:
    address: $BAO_ADDR
    auth:
      tokenRef: {name: openbao-token, key: token}
---
apiVersion: virtualaccounts.dev/v1alpha1
kind: VirtualAccount
metadata:
  name: $loader
spec:
  permissions:
  - {resourceFqn: warehouse.reports, resourceType: dataset, roleId: writer}
  secretStores:
  - storeRef: {name: openbao}
    secretPath: /$loader/token
YAML
    kubectl apply -f "$work/store.yaml" | indent
    kubectl wait --for=condition=Ready --timeout=60s "ts/openbao" "va/$loader" >/dev/null ||
        fail "store and account get ready" <<<"$(kubectl describe ts/openbao "va/$loader")"
    show get ts
    show get va "$loader"
    say "\$ bao kv get -mount=secret $loader/token   # without the token itself"
    in_store | withheld | indent
    expect "the store holds the newest token" "$(stored_jti)" "$(kubectl get va "$loader" -o 'jsonpath={.status.jwtId}')"
    expect "the token that a consumer finds there verifies" "$(stored_jti)" "$(offline "$(in_store | field token)" | field jti)"
}

rotate_store() {
    local before token
    before=$(stored_jti) token=$(in_store | field token)
    say "\$ kubectl annotate va $loader $rotate=demo-3,grace=8s"
    kubectl annotate va "$loader" "$rotate=demo-3,grace=8s" >/dev/null
    # shellcheck disable=SC2329
    rotated() { [[ $(stored_jti) != "$before" && $(kubectl get va "$loader" -o 'jsonpath={.status.jwts[1].phase}') == Superseded ]]; }
    wait_until 30 "the store gets another token" rotated
    expect "the old version is still there" "$before" "$(stored_jti 1)"
    accepted "the previous token" "$token"
    # shellcheck disable=SC2329
    ended() { [[ -z $(stored_jti 1) ]]; }
    wait_until 40 "the old version ends" ended
    holds "after the grace the store no longer gives out the old version"
    refused "the previous token" "$token"
}

empty_store() {
    show delete va "$loader"
    # shellcheck disable=SC2329
    emptied() { [[ -z $(stored_jti) ]]; }
    wait_until 30 "the store is emptied" emptied
    holds "the path is empty: $(BAO_FORMAT=table "$bao" kv get -mount=secret "$loader/token" 2>&1 | head -n 1)"
}

# in_store [VERSION]: what a consumer finds there, as JSON; {} if nothing.
in_store() {
    "$bao" kv get -format json -mount=secret ${1:+-version "$1"} "$loader/token" 2>/dev/null |
        "$python" -c 'import json, sys; text = sys.stdin.read(); print(json.dumps(((json.loads(text) if text.strip() else {}).get("data") or {}).get("data") or {}))'
}
stored_jti() { in_store "$@" | "$python" -c 'import json, sys; print(json.load(sys.stdin).get("jti", ""))'; }
withheld() { "$python" -c 'import json, sys; data = json.load(sys.stdin); data["token"] = data["token"][:12] + "..."; print(json.dumps(data, indent=2))'; }

invite() {
    cat <<TEXT
   In another terminal:

     export KUBECONFIG=$KUBECONFIG
     kubectl get va -A -o wide        # no kubectl? alias kubectl='$plane kubectl'
     kubectl explain va.spec
     kubectl edit va $account
     kubectl annotate nc mail --overwrite virtualaccounts.dev/test-requested-at="\$(date)"

   Mails: $mails
   The operator's log: $log
TEXT
}

stay() {
    printf '\nCtrl-C ends it all.\n'
    # `wait` can be interrupted by the trap at once; `sleep` cannot.
    trap 'told_to_end=yes; exit 0' INT TERM
    wait -n "$plane_pid" "$operator_pid" || true
    fail "control plane and operator keep running" <<<"one of them ended"
}

# --- looking -----------------------------------------------------------------------------------------------------------

# accepted "which token" TOKEN: online and offline.
accepted() {
    expect "$1 is accepted online" 'true' "$(introspect "$2" | field active)"
    expect "$1 is accepted offline" "$(claim jti <<<"$2")" "$(offline "$2" | field jti)"
}

# refused "which token" TOKEN: online, by the endpoint and by the command, which says why.
refused() {
    expect "$1 is refused online" '{"active": false}' "$(introspect "$2")"
    local reason
    if reason=$("$work/operator" verify --namespace "$namespace" <<<"$2" 2>&1); then fail "$1 is refused" <<<"$reason"; fi
    say "  $reason"
}

introspect() { "$python" hack/introspect.py "$issuer/introspect" "$work/caller.token" <<<"$1" 2>&1; }
# With the issuer's URL as the audience, which is the operator's default.
offline() { "$python" tests/verifiers/python/verify.py "$issuer" "$issuer" <<<"$1" 2>&1 || true; }

secret_key() { kubectl get secret "$secret" -o "go-template={{with index .data \"$1\"}}{{base64decode .}}{{end}}"; }
status() { kubectl get va "$account" -o "jsonpath={.status.$1}"; }
# ledger TOKEN FIELD: of the token's entry.
ledger() { kubectl get va "$account" -o "jsonpath={.status.jwts[?(@.id==\"$(claim jti <<<"$1")\")].$2}"; }
phase_of() { ledger "$1" phase; }

# Python for what is JSON; each reads stdin.
field() { "$python" -c 'import json, sys; value = json.load(sys.stdin).get(sys.argv[1]); print(value if isinstance(value, str) else json.dumps(value))' "$1" 2>/dev/null || true; }
pretty() { "$python" -m json.tool; }
decode() { "$python" -c '
import base64, json, sys
part = sys.stdin.read().split(".")[["header", "claims"].index(sys.argv[1])]
print(json.dumps(json.loads(base64.urlsafe_b64decode(part + "==")), indent=2))' "$1"; }
claim() { decode claims | field "$1"; }
# The token with another character in its signature; not the last one, of which some bits mean nothing.
forged() { "$python" -c 'import sys; t = sys.stdin.read().strip(); print(t[:-9] + ("A" if t[-9] != "A" else "B") + t[-8:])'; }
seconds_until() { "$python" -c '
import datetime, math, sys
end = datetime.datetime.fromisoformat(sys.argv[1].replace("Z", "+00:00"))
print(max(0, math.ceil((end - datetime.datetime.now(datetime.timezone.utc)).total_seconds())))' "$1"; }

# --- the end -----------------------------------------------------------------------------------------------------------

# Ends a process that this script started, and waits for it: TERM, and KILL if it does not obey.
stop() {
    [[ $1 ]] || return 0
    kill "$1" 2>/dev/null || true
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        alive "$1" || break
        sleep 0.1
    done
    kill -KILL "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

clean_up() {
    local code=$? job
    trap '' INT TERM
    stop "$follower_pid"
    stop "$operator_pid"
    stop "$bao_pid"
    stop "$post_pid"
    exec 8>&- 9>&-
    stop "$plane_pid"
    # What is left of an interrupted build.
    for job in $(jobs -p); do stop "$job"; done
    if ((code == 0)) || [[ $told_to_end ]]; then
        rm -rf "$work"
        if ((code == 0)); then printf '\nAll of that held; everything is stopped.\n'; fi
    else
        echo "   Everything is stopped; logs are in $work" >&2
    fi
}

main
