"""Settings for every test: one thread, no network, and no luck."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from hypothesis import settings

torch.set_num_threads(1)

# The same examples in every run; `--hypothesis-profile search` looks for new ones.
settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=25)
settings.register_profile("search", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("fixed")
