"""What inspection says a query sees is what the attention op shows it."""

import pytest
import torch

from reformer.inspection.visible import visible_by_round
from reformer.ops.attention import Visibility
from reformer.ops.dense import pair_counts
from reformer.ops.order import sort_tokens


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [1, 7, 61])
@pytest.mark.parametrize("rule", ["window", "chunk"])
def test_the_union_over_rounds_is_what_attention_shows(
    rule: str, length: int, causal: bool
) -> None:
    rng = torch.Generator().manual_seed(length)
    buckets = torch.randint(4, (1, 1, 3, length), generator=rng, dtype=torch.uint8)
    visibility = Visibility(rule, 5, causal, False, 1, 0 if causal else 1)
    order, code = sort_tokens(buckets, visibility.length)
    shape = (1, 1, length)
    counts, alone = pair_counts(order, code, visibility, None, shape, buckets.device)
    expected = (counts[0, 0] > 0) & ~(alone[0, 0] & torch.eye(length, dtype=torch.bool))
    queries = torch.arange(length)
    seen = visible_by_round(buckets[0, 0], visibility, queries)
    assert torch.equal(seen.any(dim=0), expected)
    some = queries[::2]
    assert torch.equal(visible_by_round(buckets[0, 0], visibility, some), seen[:, some])


def test_each_round_shows_what_it_would_show_alone() -> None:
    buckets = torch.randint(4, (3, 40), generator=torch.Generator().manual_seed(0))
    visibility, queries = Visibility("window", 5), torch.arange(40)
    together = visible_by_round(buckets, visibility, queries)
    for number in range(3):
        alone = visible_by_round(buckets[number : number + 1], visibility, queries)
        assert torch.equal(together[number], alone[0])
