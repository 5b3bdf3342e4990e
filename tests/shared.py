"""What is computed once in a run of the suite, whatever the number of its processes."""

import functools
import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from scorediff._core.files import write_whole

#: The environment's word for the folder of this run, which its first process makes and removes.
FOLDER = "SCOREDIFF_TESTS_SHARED"


def keep(path: Path, value: Any) -> None:
    """Pickled, whole or not at all, whoever else is at it or interrupts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda part: part.write_bytes(pickle.dumps(value)))


def shared(compute: Callable[..., Any]) -> Callable[..., Any]:
    """`compute`, called once for arguments of one `repr`: by whichever process comes first, while the others wait."""

    @functools.cache
    def once(*args: Any) -> Any:
        if FOLDER not in os.environ:
            return compute(*args)
        key = hashlib.sha256(repr((compute.__module__, compute.__qualname__, args)).encode()).hexdigest()
        path = Path(os.environ[FOLDER]) / f"{key}.pickle"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                keep(path, compute(*args))
            return pickle.loads(path.read_bytes())

    return once
