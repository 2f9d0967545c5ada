"""Checks a bill of materials: it is of this version of the program, and has every package that is linked into it, as
cargo itself counts them, with version, license and package URL.

    sbom.py FILE
"""

import json
import subprocess
import sys

# Name, version and license of every package in the binary, ours included.
TREE = ["cargo", "tree", "--locked", "--edges", "normal", "--prefix", "none", "--no-dedupe", "--format", "{p}|{l}"]


def linked():
    """The packages in the binary, by name and version: their licenses."""
    packages = {}
    for line in subprocess.run(TREE, check=True, capture_output=True, text=True).stdout.splitlines():
        package, licenses = line.split("|")
        name, version, *_ = package.split()
        packages[name, version.removeprefix("v")] = licenses
    return packages


def direct():
    """What Cargo.toml itself asks for."""
    tree = subprocess.run(TREE + ["--depth", "1"], check=True, capture_output=True, text=True).stdout
    return {tuple(line.split("|")[0].replace(" v", " ").split()[:2]) for line in tree.splitlines()[1:]}


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        bom = json.load(file)
    assert bom["bomFormat"] == "CycloneDX", bom["bomFormat"]
    packages = linked()
    root = bom["metadata"]["component"]
    ours = (root["name"], root["version"])
    assert ours[0] == "virtual-account-operator" and packages.pop(ours) == "Apache-2.0", ours
    listed = {(part["name"], part["version"]): part for part in bom["components"]}
    missing = sorted(set(packages) - set(listed))
    assert not missing, f"not listed: {missing}"
    asked = direct()
    assert len(asked) > 40 and asked <= set(listed), asked - set(listed)
    for key in packages:
        part = listed[key]
        assert part["purl"].startswith(f"pkg:cargo/{key[0]}@{key[1]}"), part["purl"]
        assert part.get("licenses"), f"{key} has no license"
    print(f"{len(listed)} packages, all {len(packages)} that are linked, {len(asked)} of them asked for by Cargo.toml")


if __name__ == "__main__":
    main()
