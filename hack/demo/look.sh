# What the steps look at: tokens, statuses, answers.
# shellcheck shell=bash disable=SC2154 # variables of hack/demo.sh

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

introspect() { "$python" hack/demo/introspect.py "$issuer/introspect" "$work/caller.token" <<<"$1" 2>&1; }
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
