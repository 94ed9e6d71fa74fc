"""Which implementation runs: asked for, it runs or says why not; left alone, the best does."""

import pytest
import torch

from reformer.ops import dispatch
from reformer.ops.lsh_attention import lsh_attention


def query() -> torch.Tensor:
    return torch.randn(1, 2, 20, 8, generator=torch.Generator().manual_seed(0)).double()


def test_a_backend_is_chosen_for_a_context_and_by_name() -> None:
    x = query()
    tiled, dense = (lsh_attention(x, x, backend=name) for name in ("torch", "reference"))
    assert not torch.equal(tiled, dense), "rounding tells the two apart"
    with dispatch.use_backend("reference"):
        assert torch.equal(lsh_attention(x, x), dense)
        assert torch.equal(lsh_attention(x, x, backend="torch"), tiled)
        with dispatch.use_backend("torch"):
            assert torch.equal(lsh_attention(x, x), tiled)
        assert torch.equal(lsh_attention(x, x), dense)
    assert dispatch.resolve("auto") == "auto"


def test_the_choice_ends_with_its_context_even_after_an_error() -> None:
    with pytest.raises(KeyError), dispatch.use_backend("torch"):
        raise KeyError
    assert dispatch.resolve("auto") == "auto"


def test_a_backend_that_was_asked_for_never_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    x = query()
    refused: list[torch.Tensor] = []

    def refuse(tensor: torch.Tensor) -> str:
        refused.append(tensor)
        return "it is Tuesday"

    for op in ("attention", "sort_tokens", "hash_vectors"):
        monkeypatch.setitem(dispatch._implementations, (op, "cpu"), pytest.fail)
        monkeypatch.setitem(dispatch._refusals, (op, "cpu"), refuse)
    with pytest.raises(dispatch.BackendError, match="'cpu' cannot run .* here: it is Tuesday"):
        lsh_attention(x, x, backend="cpu")
    assert refused
    expected = lsh_attention(x, x, backend="torch")
    assert torch.equal(lsh_attention(x, x), expected)


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    with (
        pytest.raises(ValueError, match="'gpu': use one of auto, cpu, torch, reference"),
        dispatch.use_backend("gpu"),
    ):
        pytest.fail("the context must not open")


def test_a_plain_call_lasts_until_the_next_one() -> None:
    try:
        dispatch.use_backend("torch")
        assert dispatch.resolve("auto") == "torch"
        with dispatch.use_backend("reference"):
            assert dispatch.resolve("auto") == "reference"
        assert dispatch.resolve("auto") == "torch"
    finally:
        dispatch.use_backend("auto")
    assert dispatch.resolve("auto") == "auto"
