#!/usr/bin/env bash
# Fetches the JSON schemas of Kubernetes 1.33 and 1.37, unless that was done already, and prints the directory on stdout;
# progress goes to stderr. For kubeconform: -schema-location DIR/1.33/{{.ResourceKind}}{{.KindSuffix}}.json
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source hack/env.sh

# The Python package of a validator, which carries the schemas of every version.
package=kubernetes-validate==1.37.0
versions=(1.33 1.37)

schemas="$VAO_CACHE/schemas-$(sha256sum hack/schemas.sh | cut -c1-16)"
python=$(hack/python-env.sh)/bin/python

exec 9>"$VAO_CACHE/schemas.lock"
flock 9
if [[ ! -d $schemas ]]; then
    echo "fetching the schemas of Kubernetes ${versions[*]}" >&2
    work=$(mktemp -d "$VAO_CACHE/schemas-new.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$package" >&2
    "$python" - "$work" "${versions[@]}" <<'PYTHON'
import json, pathlib, sys, zipfile

work = pathlib.Path(sys.argv[1])
with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
    for version in sys.argv[2:]:
        # Strict: a field that does not exist is an error.
        folder = f"kubernetes_validate/kubernetes-json-schema/v{version}.0-local-strict/"
        (work / "schemas" / version).mkdir(parents=True)
        for name in wheel.namelist():
            if name.startswith(folder) and name.endswith(".json"):
                # Their ids, and so the references, are places on a web server.
                schema = json.loads(wheel.read(name).decode().replace('"/api/_definitions.json', '"_definitions.json'))
                schema.pop("$id", None)
                (work / "schemas" / version / name[len(folder):]).write_text(json.dumps(schema))
PYTHON
    mv "$work/schemas" "$schemas"
fi
echo "$schemas"
