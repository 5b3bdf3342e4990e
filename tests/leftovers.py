"""What a process that was killed while it wrote a file leaves behind."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """import os, signal, sys
from scorediff._core.files import write_whole
def killed(part):
    print(part, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
write_whole(sys.argv[1], killed)
"""


def left_by_a_killed_process(path: Path) -> Path:
    """The part of `path` that is left by a process that is no more."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True)
    return Path(done.stdout.strip())
