"""Starts a fake for a test and stops it afterwards."""

import contextlib
import pathlib
import subprocess
import sys
from collections.abc import Iterator

HERE = pathlib.Path(__file__).parent


@contextlib.contextmanager
def started(script: str, *options: str) -> Iterator[int]:
    """Runs a fake; its port."""
    command = [sys.executable, "-B", str(HERE / script), "--port", "0", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            if not line.startswith("listening on "):
                raise RuntimeError(f"{script} did not start; it said {line!r}")
            yield int(line.split()[-1])
        finally:
            process.terminate()
