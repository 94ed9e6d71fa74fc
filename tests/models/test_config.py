"""What a config refuses, beyond what random ones try: sizes that would never come to an end."""

import pytest

from reformer.config import LSH, ConfigError, Local
from tests.models.small import small_config


@pytest.mark.parametrize("kind", [LSH, Local])
@pytest.mark.parametrize("name", ["chunks_before", "chunks_after"])
def test_a_query_never_looks_at_more_chunks_than_there_are_tokens(
    kind: type[LSH] | type[Local], name: str
) -> None:
    chunks = {"window_length": 8, "rule": "chunk"}
    small_config(layers=(kind(**chunks, **{name: 64}),), causal=False)
    with pytest.raises(ConfigError, match=f"{name} is 65: a sequence of max_length 64 has no"):
        small_config(layers=(kind(**chunks, **{name: 65}),), causal=False)
