"""Bits per byte are what the model's own probabilities say, token by token."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reformer.data.sources import CopySource
from reformer.data.store import TokenStore
from reformer.models.language import LanguageModelOutput, ReformerForCausalLM
from reformer.tasks.copy import CopyValidation
from reformer.training.evaluation import TextValidation, score_text, windows
from tests.training.conftest import CONFIG


@pytest.fixture(scope="module")
def model() -> ReformerForCausalLM:
    return ReformerForCausalLM(CONFIG)


def _store(num_tokens: int) -> TokenStore:
    tokens = np.random.default_rng(0).integers(0, 256, num_tokens).astype(np.uint8)
    return TokenStore(tokens, num_tokens)


@given(st.integers(0, 100), st.integers(2, 20))
def test_every_token_but_the_first_is_scored_once_with_half_a_window_before_it(
    num_tokens: int, length: int
) -> None:
    scored = []
    for start, first, end in windows(num_tokens, length):
        assert 0 <= start < first < end <= num_tokens and end - start <= length
        assert start == 0 or first - start >= length // 2
        scored += range(first, end)
    assert scored == list(range(1, num_tokens))


@pytest.mark.parametrize("num_tokens", [1, 2, 31, 32, 33, 100, 700])
def test_the_score_is_the_sum_over_tokens(model: ReformerForCausalLM, num_tokens: int) -> None:
    store = _store(num_tokens)
    model.eval()
    nats = math.log(256)
    for start, first, end in windows(num_tokens, 32):
        ids = torch.from_numpy(store.tokens[start:end].astype(np.int64))
        with torch.no_grad():
            logs = model(ids[None]).logits[0].double().log_softmax(-1)
        for t in range(first - start, end - start):
            nats -= float(logs[t - 1, ids[t]])
    score = score_text(model, store)
    assert score.nats == pytest.approx(nats, rel=1e-5)
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / num_tokens, rel=1e-5)
    assert score.perplexity == pytest.approx(math.exp(nats / num_tokens), rel=1e-4)


def test_bits_are_per_byte_of_the_text_not_per_token(model: ReformerForCausalLM) -> None:
    store = _store(50)
    double = TokenStore(store.tokens, num_bytes=100)
    one, two = score_text(model, store), score_text(model, double)
    assert one.bits_per_byte == pytest.approx(2 * two.bits_per_byte)
    assert one.perplexity == two.perplexity
    assert (one + two).bits_per_byte == pytest.approx(2 * one.nats / math.log(2) / 150)


def test_a_shorter_context_is_respected(model: ReformerForCausalLM) -> None:
    lengths = []
    hook = model.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    score_text(model, _store(100), length=8)
    hook.remove()
    assert set(lengths) == {8}
    assert score_text(model, _store(9), length=1).bits_per_byte == pytest.approx(8.0)


def test_evaluation_leaves_a_training_model_in_training(model: ReformerForCausalLM) -> None:
    model.train()
    first = score_text(model, _store(100))
    assert model.training
    assert score_text(model, _store(100)) == first


def test_the_way_sees_a_part_and_the_end_sees_all(model: ReformerForCausalLM) -> None:
    validation = TextValidation(_store(500), part_tokens=100)
    name = "validation_bits_per_byte"
    part = validation.measure(model, whole=False)[name]
    assert part == pytest.approx(
        score_text(model, TokenStore(_store(500).tokens[:100], 100)).bits_per_byte
    )
    assert (
        validation.measure(model, whole=True)[name] == score_text(model, _store(500)).bits_per_byte
    )


class _Repeater(torch.nn.Module):
    """Knows the copy task, but for the symbol 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(
        self, input_ids: torch.Tensor, labels: torch.Tensor | None = None
    ) -> LanguageModelOutput:
        half = input_ids.shape[1] // 2
        guess = torch.cat([input_ids[:, 1:half], input_ids], dim=1)[:, : input_ids.shape[1]]
        logits = torch.nn.functional.one_hot(guess.masked_fill(guess == 1, 2), 5) * 50.0
        if labels is None:
            return LanguageModelOutput(logits=logits)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:])
        return LanguageModelOutput(loss=loss)


def test_copy_accuracy_counts_the_second_half(model: ReformerForCausalLM) -> None:
    source = CopySource(16, 5, 0)
    measured = CopyValidation(source, 40).measure(_Repeater(), whole=True)  # type: ignore[arg-type]
    words = source.batch(0, 40)["labels"][:, 9:]
    assert measured["validation_accuracy"] == pytest.approx(float((words != 1).float().mean()))
