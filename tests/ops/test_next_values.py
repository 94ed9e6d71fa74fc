"""Values of the next token: the rule's own softmax over values one place further, and no leak."""

import pytest
import torch
from torch import Tensor

from reformer.ops.lsh_attention import lsh_attention
from tests.ops.definition import Case, random_case

BACKENDS = ["reference", "torch"]


def causal_case(seed: int) -> Case:
    case = random_case(seed, rule="window")
    changes = {"key": None, "causal": True, "include_self": False}
    return Case(**{**vars(case), **changes})


def attend(case: Case, query_key: Tensor, value: Tensor, backend: str = "auto") -> Tensor:
    return lsh_attention(
        query_key, value, buckets=case.buckets, window_length=case.window, values="next",
        segment_ids=case.segments, score_scale=case.scale, backend=backend,
    )  # fmt: skip


def by_the_words_of_the_rule(case: Case, value: Tensor) -> Tensor:
    """Query by query and key by key."""
    _, counts, alone = case.counts()
    scores = case.scores().masked_fill(counts == 0, -torch.inf)
    weights = scores.softmax(dim=-1)
    batch, _, length, _ = value.shape
    rows = []
    for b in range(batch):
        segments = [0] * length if case.segments is None else case.segments[b].tolist()
        followed = [j + 1 < length and segments[j + 1] == segments[j] for j in range(length)]
        given = torch.zeros_like(value[b])
        given[:, followed] = value[b][:, 1:][:, followed[:-1]]
        out = weights[b] @ given
        rows.append(torch.where(alone[b][..., None], value[b], out))
    return torch.stack(rows)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(30))
def test_a_token_gives_the_value_of_the_one_after_it(seed: int, backend: str) -> None:
    case = causal_case(seed)
    inputs = [t.clone().requires_grad_() for t in (case.query, case.value)]
    wanted_inputs = [t.clone().requires_grad_() for t in (case.query, case.value)]
    out = attend(case, *inputs, backend)
    told = Case(**{**vars(case), "query": wanted_inputs[0]})
    wanted = by_the_words_of_the_rule(told, wanted_inputs[1])
    torch.testing.assert_close(out, wanted, rtol=1e-10, atol=1e-12)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).double()
    found = torch.autograd.grad(out, inputs, upstream)
    expected = torch.autograd.grad(wanted, wanted_inputs, upstream)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("seed", range(30))
def test_nothing_comes_from_later_tokens_or_other_segments(seed: int) -> None:
    case = causal_case(seed)
    length = case.query.shape[2]
    # Segments that alternate: a token's successor is of the other one.
    case = Case(
        **{**vars(case), "segments": (torch.arange(length) % 2).expand(len(case.query), -1)}
    )
    token = seed % length
    before = attend(case, case.query, case.value)
    changed = case.value.clone()
    changed[:, :, token] = torch.nan
    after = attend(case, case.query, changed)
    same = (before == after).all(dim=-1).all(dim=1).all(dim=0)
    places = torch.arange(length)
    assert same[(places < token) | (places % 2 != token % 2)].all()


def test_what_followed_is_found_by_what_came_before() -> None:
    """The same symbol twice: the second time, what came after the first one is read exactly."""
    symbols = torch.tensor([3, 1, 4, 0, 5, 9, 2, 6, 4])
    codes = torch.nn.functional.one_hot(symbols, 10).double()[None, None]
    out = lsh_attention(30 * codes, codes, num_hashes=8, num_buckets=4, values="next")
    assert int(out[0, 0, -1].argmax()) == 0
    own = lsh_attention(30 * codes, codes, num_hashes=8, num_buckets=4)
    assert int(own[0, 0, -1].argmax()) == 4


def test_what_it_needs_is_said() -> None:
    x = torch.zeros(1, 1, 4, 8)
    with pytest.raises(ValueError, match="values is 'later': use 'own' or 'next'"):
        lsh_attention(x, x, values="later")
    for arguments in ({"causal": False}, {"rule": "chunk"}):
        with pytest.raises(ValueError, match="needs causal=True and rule='window'"):
            lsh_attention(x, x, values="next", **arguments)
