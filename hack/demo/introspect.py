"""A service that asks the operator about a token (RFC 7662).

usage: introspect.py URL FILE < token

FILE holds the caller's own Kubernetes token. It prints the answer, JSON on one line.
"""

import json
import sys
import urllib.error
import urllib.parse
import urllib.request


def main(url: str, caller: str) -> None:
    with open(caller) as file:
        headers = {"Authorization": f"Bearer {file.read().strip()}"}
    form = urllib.parse.urlencode({"token": sys.stdin.read().strip()}).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, form, headers), timeout=10) as answer:
            print(json.dumps(json.load(answer)))
    except urllib.error.HTTPError as error:
        sys.exit(f"{error}: {error.read().decode()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
