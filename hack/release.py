"""Runs the build stage of the Dockerfile without a container, and prints the path of the binary that it makes.

    release.py WORK

It copies what the stage copies, as far as .dockerignore lets it, into WORK/build, and runs the stage's commands there
with WORK/target as their cache. The binary is kept in WORK/binaries, under a name made from its content: whoever got its
path can go on using it while another run builds, from whatever checkout.
"""

import filecmp
import fnmatch
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

from dockerfile_parse import DockerfileParser

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
# What the build image lacks and this machine may have: a build that calls one of them fails.
ABSENT = ["cmake", "clang", "nasm", "pkg-config", "go", "bindgen"]

DAY = 24 * 60 * 60


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
            shutil.copytree(CHECKOUT / source, build / target, copy_function=shutil.copy)
        else:
            shutil.copy(CHECKOUT / source, build / target)


def date(build, last):
    """Gives files that are as they were in the last build the times that they had there; the others are new.

    Cargo builds what has newer times, and the last build may be of another checkout, whose files are newer than these.
    """
    for path in (path for path in build.rglob("*") if path.is_file()):
        before = last / path.relative_to(build)
        if before.is_file() and filecmp.cmp(before, path, shallow=False):
            shutil.copystat(before, path)


def keep(binary, work):
    """Moves the binary to where no other run touches it, and removes those that nobody has asked for for a day."""
    kept = work / "binaries" / hashlib.sha256(binary.read_bytes()).hexdigest()[:16] / binary.name
    kept.parent.mkdir(parents=True, exist_ok=True)
    # Not in place: one of this name may be running.
    os.replace(binary, kept)
    os.utime(kept.parent)
    for other in kept.parent.parent.iterdir():
        if other.stat().st_mtime < time.time() - DAY:
            shutil.rmtree(other)
    return kept


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
    build, last = work / "build", work / "build.last"
    shutil.rmtree(last, ignore_errors=True)
    if build.exists():
        build.rename(last)
    build.mkdir(parents=True)
    with open(CHECKOUT / "Dockerfile", "rb") as dockerfile:
        instructions = DockerfileParser(fileobj=dockerfile).structure
    for instruction, value in stage(instructions, "build"):
        if instruction == "COPY":
            copy(value, build)
            date(build, last)
        elif instruction == "RUN":
            run(value, work)
    taken = [i["value"].split()[1] for i in instructions if i["value"].startswith("--from=build /build/")]
    if len(taken) != 1:
        sys.exit("the image must take exactly one file out of /build")
    print(keep(build / pathlib.Path(taken[0]).relative_to("/build"), work))


if __name__ == "__main__":
    main()
