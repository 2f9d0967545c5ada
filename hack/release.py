"""Runs the build stage of the Dockerfile without a container, and prints the path of the binary that it makes.

    release.py WORK

It copies what the stage copies, as far as .dockerignore lets it, into WORK/build, and runs the stage's commands there
with WORK/target as their cache. Files keep their times, so that cargo builds only what has changed.
"""

import fnmatch
import os
import pathlib
import re
import shutil
import subprocess
import sys

from dockerfile_parse import DockerfileParser

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
# What the build image lacks and this machine may have: a build that calls one of them fails.
ABSENT = ["cmake", "clang", "nasm", "pkg-config", "go", "bindgen"]


def stage(instructions, name):
    """The instructions of one stage."""
    inside = False
    for instruction in instructions:
        if instruction["instruction"] == "FROM":
            inside = instruction["value"].split()[-2:] == ["AS", name]
        elif inside:
            yield instruction["instruction"], instruction["value"]


def allowed(path):
    """Whether .dockerignore, an allow list, lets this path of the checkout into the context."""
    lines = (CHECKOUT / ".dockerignore").read_text().split("\n")
    first, *rest = [line for line in lines if line and not line.startswith("#")]
    if first != "*" or not all(line.startswith("!") for line in rest):
        sys.exit(".dockerignore is no allow list any more")
    return any(fnmatch.fnmatch(path, line[1:]) for line in rest)


def copy(value, build):
    *sources, target = value.split()
    for source in sources:
        if not allowed(source):
            sys.exit(f".dockerignore keeps out {source}, which the Dockerfile copies")
        if (CHECKOUT / source).is_dir():
            shutil.copytree(CHECKOUT / source, build / target)
        else:
            shutil.copy2(CHECKOUT / source, build / target)


def run(value, work):
    command = re.sub(r"--mount=\S+\s+", "", value)
    absent = work / "absent"
    absent.mkdir(exist_ok=True)
    for tool in ABSENT:
        (absent / tool).write_text(f"#!/bin/sh\necho '{tool} is not in the build image' >&2\nexit 127\n")
        (absent / tool).chmod(0o755)
    env = os.environ | {"CARGO_TARGET_DIR": str(work / "target"), "PATH": f"{absent}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", command], cwd=work / "build", env=env, stdout=sys.stderr)
    if done.returncode:
        sys.exit(f"the command of the Dockerfile failed: {command}")


def main():
    work = pathlib.Path(sys.argv[1]).resolve()
    build = work / "build"
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir(parents=True)
    with open(CHECKOUT / "Dockerfile", "rb") as dockerfile:
        instructions = DockerfileParser(fileobj=dockerfile).structure
    for instruction, value in stage(instructions, "build"):
        if instruction == "COPY":
            copy(value, build)
        elif instruction == "RUN":
            run(value, work)
    taken = [i["value"].split()[1] for i in instructions if i["value"].startswith("--from=build /build/")]
    if len(taken) != 1:
        sys.exit("the image must take exactly one file out of /build")
    print(build / pathlib.Path(taken[0]).relative_to("/build"))


if __name__ == "__main__":
    main()
