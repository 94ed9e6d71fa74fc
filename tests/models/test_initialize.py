"""What new weights are like."""

import pytest
import torch

from reformer import ConfigError, ReformerForCausalLM
from reformer.data.image_tokens import with_image_shape

from .small import small_config


def _similarity(rows: torch.Tensor) -> torch.Tensor:
    rows = rows.detach() / rows.detach().norm(dim=-1, keepdim=True)
    return rows @ rows.T


def test_levels_that_are_near_begin_alike_and_all_are_told_apart() -> None:
    config = small_config(vocab_size=257, hidden_size=256, num_levels=256)
    model = ReformerForCausalLM(config)
    for weight in (model.reformer.embedding.tokens.weight, model.head.weight):
        alike = _similarity(weight)
        levels = alike[:256, :256]
        near = [levels.diagonal(offset).mean() for offset in (1, 4, 16, 64)]
        assert near[0] > 0.8
        assert near == sorted(near, reverse=True)
        assert near[3] < 0.2
        assert levels.triu(1).max() < 0.95
        # The start symbol is no level.
        assert alike[256, :256].abs().max() < 0.3


def test_levels_are_as_strong_as_other_tokens() -> None:
    config = small_config(vocab_size=512, hidden_size=64, num_levels=256, init_scale=0.3)
    weight = ReformerForCausalLM(config).reformer.embedding.tokens.weight
    strength = weight.square().mean(dim=-1).sqrt()
    torch.testing.assert_close(strength[:256].mean(), torch.tensor(0.3), rtol=0.1, atol=0)
    torch.testing.assert_close(strength[256:].mean(), torch.tensor(0.3), rtol=0.1, atol=0)


def test_pictures_have_levels_and_text_has_none() -> None:
    config = small_config()
    assert config.num_levels == 0
    assert with_image_shape(config, (2, 2, 1)).num_levels == 256


def test_more_levels_than_tokens_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_levels is 300: it can be at most vocab_size"):
        small_config(vocab_size=256, num_levels=300)
