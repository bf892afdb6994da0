"""A Ray of these tests' own, in a process that runs their scripts: one start for all of them."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from farm.site.settings import Settings
from workers.node.environment import environment, token

SERVER = """
import contextlib, io, json, sys, traceback, ray
ray.init("local", num_cpus=2, resources={"farm:attic": 1}, include_dashboard=False, _temp_dir=sys.argv[1])
for script in sys.stdin:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            exec(json.loads(script), {})
        except BaseException:
            traceback.print_exc(file=said)
    print(json.dumps(said.getvalue()), flush=True)
"""


class OwnRay:
    """A Ray node of 2 CPUs and one unit of farm:attic, without version 2 of the autoscaler."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process

    def ran(self, script: str) -> str:
        """What `script` printed there, its traceback included; it must be given back what it takes."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(script) + "\n")
        stdin.flush()
        while answer := stdout.readline():
            if answer.startswith('"'):  # else Ray's own words
                return json.loads(answer)
        raise AssertionError(f"Ray ended with {self._process.wait()}")


@contextmanager
def own_ray(home: Path) -> Iterator[OwnRay]:
    """Such a Ray, as on a node of the farm at `home`."""
    folder = tempfile.mkdtemp(prefix="ray-")  # short: sockets are made below it
    variables = environment(Settings(home=home, storage=home), token(home))
    command = [sys.executable, "-c", SERVER, folder]
    process = subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield OwnRay(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()  # at its end the script, and with it Ray, is over
        process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)
