# How the demo tells what it does, and ends where something does not hold.
# shellcheck shell=bash disable=SC2154 # variables of hack/demo.sh

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
