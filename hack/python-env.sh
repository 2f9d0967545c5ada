#!/usr/bin/env bash
# Makes a Python environment with tests/requirements.txt, unless that was done already, and prints its path on stdout;
# progress goes to stderr. Run its programs as "$(hack/python-env.sh)/bin/python".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source hack/env.sh

hash=$({ cat tests/requirements.txt; python3 --version; } | sha256sum | cut -c1-16)
env="$VAO_CACHE/python-$hash"

exec 9>"$VAO_CACHE/python.lock"
flock 9
# Its last step makes this file, so an interrupted installation is made again.
if [[ ! -e $env/complete ]]; then
    echo "installing Python packages for tests" >&2
    rm -rf "$env"
    python3 -m venv "$env" >&2
    "$env/bin/pip" install --quiet --disable-pip-version-check -r tests/requirements.txt >&2
    touch "$env/complete"
fi
echo "$env"
