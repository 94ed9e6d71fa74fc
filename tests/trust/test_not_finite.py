"""Numbers that are not finite, in a whole model: noticed at once, and never shared."""

import pytest
import torch

from reformer.models.language import ReformerForCausalLM
from tests.models.small import (
    LENGTH,
    assert_near,
    small_config,
    small_model,
    tokens,
    without_dropout,
)

BAD_TOKEN = 31


def model_with_a_bad_token(streams: str, value: float) -> ReformerForCausalLM:
    model = small_model(small_config(streams=streams, **without_dropout())).eval()
    with torch.no_grad():
        model.reformer.embedding.tokens.weight[BAD_TOKEN, 3] = value
    return model


def rows_without_and_with_the_bad_token() -> torch.Tensor:
    input_ids = tokens(batch=3) % BAD_TOKEN
    input_ids[1, 20] = BAD_TOKEN
    return input_ids


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_bad_row_never_touches_another(value: float) -> None:
    input_ids = rows_without_and_with_the_bad_token()
    clean = model_with_a_bad_token("float", 0.0)(input_ids).logits
    model = model_with_a_bad_token("float", value)
    spoilt = model(input_ids).logits
    assert torch.equal(spoilt[[0, 2]], clean[[0, 2]])
    # Within its row a bad token has another bucket, so the others may round differently.
    assert_near([spoilt[1, :20]], [clean[1, :20]], 1e-5)
    assert not torch.isfinite(spoilt[1, 20]).all()
    segments = torch.tensor([[0] * 10 + [1] * 20 + [2] * (LENGTH - 30)] * 3)
    packed = [
        m(input_ids, segment_ids=segments).logits[1]
        for m in (model_with_a_bad_token("float", 0.0), model)
    ]
    assert_near([packed[1][30:]], [packed[0][30:]], 1e-5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
def test_exact_streams_refuse_what_is_not_finite(value: float) -> None:
    input_ids = rows_without_and_with_the_bad_token()
    model = model_with_a_bad_token("exact", value)
    with pytest.raises(ArithmeticError, match="the embedding reaches"):
        model(input_ids)
    assert torch.isfinite(model(input_ids[[0, 2]]).logits).all()


@pytest.mark.parametrize("streams", ["exact", "float", "stored"])
@pytest.mark.parametrize("autocast", [False, True])
def test_weights_of_odd_sizes_give_no_new_nan(streams: str, autocast: bool) -> None:
    """All weights zero, and embeddings ten thousand times too large."""
    for scale, largest in ((0.0, 1.0), (1.0, 500.0)):
        model = small_model(small_config(4, streams=streams), weight_scale=scale)
        with torch.no_grad():
            table = model.reformer.embedding.tokens.weight
            table.mul_(largest / table.abs().max().clamp(min=1.0))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = model(tokens(), labels=tokens()).loss
        loss.backward()
        assert torch.isfinite(loss.detach())
        for parameter in model.parameters():
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()
