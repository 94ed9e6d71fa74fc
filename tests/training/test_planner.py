"""The plan counts the parameters that the model has, and knows what does not fit."""

from dataclasses import replace

import pytest

from reformer.config import ConfigError
from reformer.models.encoder_decoder import ReformerEncoderDecoder
from reformer.models.language import ReformerForCausalLM
from reformer.presets import PRESETS
from reformer.training.planner import (
    count_parameters,
    fit,
    format_bytes,
    parse_bytes,
    plan,
    require_memory,
)
from tests.training.conftest import CONFIG, SETTINGS


@pytest.mark.parametrize("config", [CONFIG, PRESETS["tiny"]()[0], PRESETS["copy"]()[0]])
def test_parameters_are_those_of_the_model(config: object) -> None:
    model = ReformerForCausalLM(config)  # type: ignore[arg-type]
    assert count_parameters(config) == sum(p.numel() for p in model.parameters())  # type: ignore[arg-type]


def test_an_encoder_is_counted_too() -> None:
    config, settings = PRESETS["seq2seq"]()
    model = ReformerEncoderDecoder(config)
    assert count_parameters(config) == sum(p.numel() for p in model.parameters())
    alone = replace(config, encoder_layers=None)
    assert plan(config, settings).total > plan(alone, settings).total
    deep = replace(config, encoder_layers=(config.encoder_layers or ()) * 4)
    more = plan(deep, settings).total - plan(config, settings).total
    assert more == 4 * 4 * (count_parameters(deep) - count_parameters(config))


def test_reversible_layers_cost_parameters_and_buckets_only() -> None:
    deep = replace(CONFIG, layers=CONFIG.layers * 10)
    shallow_plan, deep_plan = plan(CONFIG, SETTINGS), plan(deep, SETTINGS)
    by_parameters = {"parameters", "gradients", "optimizer moments", "buckets"}
    for term, deep_term in zip(shallow_plan.terms, deep_plan.terms, strict=True):
        assert (deep_term.size > term.size) == (term.name in by_parameters), term
    stored = plan(replace(deep, streams="stored"), SETTINGS)
    assert stored.size("stored activations") > 10 * deep_plan.size("streams")


def test_a_large_tensor_is_held_in_whole_large_pages() -> None:
    """A head of 32 x 40,000 numbers is 5.1 MB, which takes three pages of 2 MB."""
    small = replace(CONFIG, hidden_size=16, vocab_size=40_000)
    weights = count_parameters(small)
    head, embedding = 32 * 40_000 * 4, 16 * 40_000 * 4
    assert embedding < 4 * 2**20 < head < 6 * 2**20
    held = plan(small, SETTINGS).size("parameters")
    assert held == weights * 4 - head + 6 * 2**20


def test_freed_gradients_and_narrow_moments_halve_what_parameters_take() -> None:
    wide = replace(CONFIG, hidden_size=256, feed_forward_size=1024, layers=CONFIG.layers * 6)
    saving = replace(SETTINGS, gradients="freed", moments="bfloat16")
    names = ("parameters", "gradients", "optimizer moments")
    kept, saved = (
        sum(plan(wide, settings).size(name) for name in names) for settings in (SETTINGS, saving)
    )
    assert 0.5 < saved / kept < 0.6


def test_a_limit_shortens_the_slices_until_the_plan_fits() -> None:
    config = replace(CONFIG, vocab_size=32768, max_length=8192, slice_length=8192)
    whole = plan(config, SETTINGS).total
    fitted = fit(config, SETTINGS, whole * 2 // 3)
    assert fitted.slice_length < 8192
    assert plan(fitted, SETTINGS).total <= whole * 2 // 3
    assert fit(config, SETTINGS, whole) == config
    with pytest.raises(ConfigError, match="needs about"):
        fit(config, SETTINGS, 10**8)


@pytest.mark.parametrize(("name", "most"), [("novel-512k", 9 * 10**9), ("million", 16 * 10**9)])
def test_a_whole_book_fits_into_the_memory_that_its_preset_names(name: str, most: int) -> None:
    config, settings = PRESETS[name]()
    assert fit(config, settings, most) == config


@pytest.mark.parametrize(
    ("text", "size"), [("16GB", 16 * 10**9), ("0.5 GiB", 2**29), ("7 mb", 7 * 10**6)]
)
def test_sizes_are_read_with_their_units(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["16", "GB", "-1GB", "1 parsec", "", "1e3GB", "NaN GB"])
def test_a_size_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="16GB"):
        parse_bytes(text)


def test_what_cannot_fit_is_refused_before_anything_is_allocated() -> None:
    huge = replace(CONFIG, hidden_size=2**16, feed_forward_size=2**18)
    with pytest.raises(ConfigError, match="memory"):
        require_memory(plan(huge, SETTINGS), 16 * 10**9)


def test_sizes_are_for_people() -> None:
    assert [format_bytes(10.0**n) for n in (1, 4, 7, 10, 13)] == [
        "10 bytes", "10 KB", "10.0 MB", "10.0 GB", "10.0 TB"
    ]  # fmt: skip
