#!/usr/bin/env bash
# Writes config/default from the chart: `make render`. With an argument, into that directory instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${1:-config/default}
namespace=virtual-accounts

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The definitions come from config/crd, so that the repository has no third copy.
"$(hack/helm.sh)/helm3" template virtual-account-operator charts/virtual-account-operator --namespace "$namespace" \
    --set issuerUrl=https://tokens.example.com --set crds.install=false --output-dir "$work" >/dev/null

mkdir -p "$target"
find "$target" -name '*.yaml' -delete
cat >"$target/namespace.yaml" <<YAML
# Holds the operator and its key ring, Secret virtual-account-operator-keys: who reads Secrets here can mint any token. The ring
# stands in no Git, so neither Argo CD nor Flux may remove the namespace.
apiVersion: v1
kind: Namespace
metadata:
  name: $namespace
  annotations:
    argocd.argoproj.io/sync-options: Prune=false,Delete=false
    kustomize.toolkit.fluxcd.io/prune: disabled
  labels:
    pod-security.kubernetes.io/enforce: restricted
YAML
# What Helm says of itself, and who owns the release, means nothing here.
for file in "$work"/virtual-account-operator/templates/*.yaml; do
    sed -e '/^# Source: /d' -e '/app.kubernetes.io\/managed-by: Helm/d' "$file" | sed -e '1{/^---$/d}' >"$target/${file##*/}"
done
{
    cat <<'YAML'
# Rendered from the chart by `make render`. In your overlay set the issuer's URL, and the image if it is another:
#
#   resources: [.../config/default]
#   patches:
#   - patch: |
#       apiVersion: apps/v1
#       kind: Deployment
#       metadata: {name: virtual-account-operator, namespace: virtual-accounts}
#       spec:
#         template:
#           spec:
#             containers:
#             - name: operator
#               env: [{name: VAO_ISSUER_URL, value: https://va.example.com}]
resources:
- ../crd
YAML
    (cd "$target" && printf -- '- %s\n' namespace.yaml $(ls -- *.yaml | grep -vx -e namespace.yaml -e kustomization.yaml))
} >"$target/kustomization.new"
mv "$target/kustomization.new" "$target/kustomization.yaml"
