"""Programs that start afresh, without waiting for torch each time.

One process imports torch and numpy, which `import scorediff` may load, and nothing of what it may not; every program
runs in a fork of it, to its own end.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

SERVER = """
import json, os, sys
import numpy, torch
for line in sys.stdin:
    program, out, err = json.loads(line)
    child = os.fork()
    if not child:
        for target, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), target)
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
"""


class Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class Fresh:
    """`fresh(program)`: run it to its end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, program: str) -> Ended:
        out, err = self._folder / "out", self._folder / "err"
        self._server.stdin.write(json.dumps([program, str(out), str(err)]) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        return Ended(code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))

    def close(self) -> None:
        self._server.communicate()
