import os

import hypothesis
import pytest
import torch

# The first call into torch takes longer than hypothesis' deadline allows.
hypothesis.settings.register_profile("house", deadline=None, max_examples=20, derandomize=True)
hypothesis.settings.register_profile("slow", deadline=None, max_examples=100, derandomize=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "house"))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
