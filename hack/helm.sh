#!/usr/bin/env bash
# Builds helm3, helm4 and kubeconform, in the versions of hack/tools/go.mod, unless that was done already, and prints the
# directory they are in on stdout; progress goes to stderr.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/tools"
source ../env.sh

hash=$({ cat go.mod go.sum ../helm.sh; go version; } | sha256sum | cut -c1-16)
tools="$VAO_CACHE/helm-$hash"

exec 9>"$VAO_CACHE/helm.lock"
flock 9
if [[ ! -d $tools ]]; then
    echo "building Helm 3, Helm 4 and kubeconform (first build: about 3 minutes)" >&2
    building=$(mktemp -d "$VAO_CACHE/helm-building.XXXXXX")
    trap 'rm -rf "$building"' EXIT
    # As Helm's own Makefile does it; else Helm 3 renders for Kubernetes 1.20.
    kubernetes=$(go list -m -f '{{.Version}}' k8s.io/client-go) flags="-s -w"
    for package in pkg/chartutil pkg/lint/rules; do
        flags+=" -X helm.sh/helm/v3/$package.k8sVersionMajor=1"
        flags+=" -X helm.sh/helm/v3/$package.k8sVersionMinor=$(cut -d. -f2 <<<"$kubernetes")"
    done
    build() { CGO_ENABLED=0 nice go build -p 2 -trimpath -buildvcs=false -ldflags "$flags" -o "$building/$1" "$2" >&2 9>&-; }
    build helm3 helm.sh/helm/v3/cmd/helm
    build helm4 helm.sh/helm/v4/cmd/helm
    build kubeconform github.com/yannh/kubeconform/cmd/kubeconform
    # Whole or not at all.
    mv "$building" "$tools"
fi
touch "$tools"
# As in tests/plane/build.sh: another checkout may still use its own.
find "$VAO_CACHE" -maxdepth 1 -name 'helm-*' -type d ! -path "$tools" -mmin +1440 -exec rm -rf {} +
echo "$tools"
