"""The plan counts the parameters that the model has, and knows what does not fit."""

from dataclasses import replace

import pytest

from reformer.config import ConfigError
from reformer.models.language import ReformerForCausalLM
from reformer.presets import PRESETS
from reformer.training.planner import count_parameters, format_bytes, plan, require_memory
from tests.training.conftest import CONFIG, SETTINGS


@pytest.mark.parametrize("config", [CONFIG, PRESETS["tiny"]()[0], PRESETS["copy"]()[0]])
def test_parameters_are_those_of_the_model(config: object) -> None:
    model = ReformerForCausalLM(config)  # type: ignore[arg-type]
    assert count_parameters(config) == sum(p.numel() for p in model.parameters())  # type: ignore[arg-type]


def test_reversible_layers_cost_parameters_only() -> None:
    deep = replace(CONFIG, layers=CONFIG.layers * 10)
    shallow_plan, deep_plan = plan(CONFIG, SETTINGS), plan(deep, SETTINGS)
    assert deep_plan.streams == shallow_plan.streams
    assert deep_plan.moments > 3 * shallow_plan.moments
    stored = plan(replace(deep, streams="stored"), SETTINGS)
    assert stored.streams > 5 * deep_plan.streams
    assert sum(deep_plan.terms().values()) == deep_plan.total


def test_what_cannot_fit_is_refused_before_anything_is_allocated() -> None:
    huge = replace(CONFIG, hidden_size=2**16, feed_forward_size=2**18)
    with pytest.raises(ConfigError, match="memory"):
        require_memory(plan(huge, SETTINGS), 16 * 10**9)


def test_sizes_are_for_people() -> None:
    assert [format_bytes(10.0**n) for n in (1, 4, 7, 10, 13)] == [
        "10 bytes", "10 KB", "10.0 MB", "10.0 GB", "10.0 TB"
    ]  # fmt: skip
