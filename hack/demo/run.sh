# Starts the control plane and the operator as the chart installs it.
# shellcheck shell=bash disable=SC2154 # variables of hack/demo.sh

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
        "$python" hack/demo/container.py virtual-account-operator-demo)
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
