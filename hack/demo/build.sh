# Builds what the demo runs, with a line of progress now and then.
# shellcheck shell=bash disable=SC2154 # variables of hack/demo.sh

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
