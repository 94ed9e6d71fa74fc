"""Settings for every test and the processes that it starts: one thread, no network, no luck."""

import os

# Before torch is imported, which reads it once.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

from hypothesis import settings

# The same examples in every run; `--hypothesis-profile search` looks for new ones.
settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=25)
settings.register_profile("search", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("fixed")
