# The steps, in the order of main.
# shellcheck shell=bash disable=SC2154 # variables of hack/demo.sh

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
mail() { "$python" hack/demo/mail.py "$mails" "$@"; }

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
