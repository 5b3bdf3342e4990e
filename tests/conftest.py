import os
import shutil
import tempfile

import hypothesis
import pytest
import torch
from fresh import Fresh
from shared import FOLDER
from theorems import COLLECTED, theorems

# The first call into torch takes longer than hypothesis' deadline allows.
hypothesis.settings.register_profile("day", deadline=None, max_examples=20, derandomize=True)
hypothesis.settings.register_profile("night", deadline=None, max_examples=100, derandomize=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "day"))


def pytest_configure(config):
    if FOLDER not in os.environ:  # its workers find it there
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="scorediff-tests-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(FOLDER)))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    config.stash[COLLECTED] = theorems(items)


@pytest.fixture(scope="session")
def fresh(tmp_path_factory):
    """Runs a program in a process that has imported nothing of ours."""
    made = Fresh(tmp_path_factory.mktemp("fresh"))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
