# Stops what was started, whatever happens.
# shellcheck shell=bash disable=SC2154 # variables of hack/demo.sh

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
