"""The numbers of an inspection mean what they say."""

import dataclasses

import pytest
import torch

from reformer.config import LSH, Full, Local, ReformerConfig
from reformer.inspection.attention import inspect_attention
from reformer.models.language import ReformerForCausalLM

LENGTH = 96
IDS = torch.randint(64, (1, LENGTH), generator=torch.Generator().manual_seed(1))


def _model(layer: LSH) -> ReformerForCausalLM:
    config = ReformerConfig(
        vocab_size=64, hidden_size=32, feed_forward_size=32, num_heads=2, head_size=16,
        max_length=LENGTH, layers=(Local(window_length=8), layer, Full(), layer), init_scale=1.0,
    )  # fmt: skip
    return ReformerForCausalLM(config).eval()


def test_only_lsh_layers_are_reported_and_each_head_of_them() -> None:
    reports = inspect_attention(_model(LSH(2, 8)), IDS).reports
    assert [(r.layer, r.head) for r in reports] == [(1, 0), (1, 1), (3, 0), (3, 1)]


def test_one_bucket_and_a_long_window_find_everything() -> None:
    layer = LSH(num_hashes=1, window_length=LENGTH, num_buckets=1)
    inspection = inspect_attention(_model(layer), IDS, num_queries=LENGTH)
    for report in inspection.reports:
        assert report.covered == pytest.approx(1.0)
        assert report.covered_by_rounds == pytest.approx([1.0, 1.0])
        assert report.gain_of_one_more_round == pytest.approx(0.0)
        assert report.effective_buckets == pytest.approx(1.0)
        assert report.bucket_sizes == [LENGTH]
        assert report.keys_seen == pytest.approx((LENGTH - 1) / 2)
        assert report.covered_by_distance == pytest.approx(report.mass_by_distance)
        assert sum(report.mass_by_distance) == pytest.approx((LENGTH - 1) / LENGTH)


def test_what_is_found_lies_between_nothing_and_all_and_grows_with_rounds() -> None:
    inspection = inspect_attention(_model(LSH(num_hashes=3, window_length=8)), IDS)
    for report in inspection.reports:
        assert 0.0 < report.covered < 1.0
        found = report.covered_by_rounds
        assert len(found) == 6 and found == sorted(found)
        assert report.gain_of_one_more_round == pytest.approx(found[3] - found[2])
        assert sum(report.bucket_sizes) == LENGTH
        assert sum(report.covered_by_distance) < sum(report.mass_by_distance)


def test_pictures_are_the_attention_that_the_layer_computes() -> None:
    model = _model(LSH(num_hashes=2, window_length=8))
    inspection = inspect_attention(model, IDS, num_queries=LENGTH)
    # One column a key at this length, so a picture times the values is the layer's output.
    attention = model.reformer.blocks[3].attention
    taken: list[torch.Tensor] = []
    hook = attention.register_forward_pre_hook(lambda _, args: taken.append(args[0]))
    merged: list[torch.Tensor] = []
    inner = attention.output.register_forward_pre_hook(lambda _, args: merged.append(args[0]))
    with torch.no_grad():
        model(IDS)
        value = attention.split(attention.value(taken[0]))[0]
    hook.remove(), inner.remove()
    computed = merged[0][0].view(LENGTH, 2, 16)
    for head in range(2):
        expected = inspection.pictures[2 + head] @ value[head]
        own = computed[:, head]
        # A query that sees no other token sees itself, which pictures leave blank.
        with_keys = inspection.pictures[2 + head].sum(dim=1) > 0
        assert with_keys.sum() > LENGTH / 2
        torch.testing.assert_close(expected[with_keys], own[with_keys])


def test_inspection_leaves_the_model_as_it_was() -> None:
    model = _model(LSH(2, 8))
    with torch.no_grad():
        before = model(IDS).logits
        inspect_attention(model, IDS)
        assert torch.equal(model(IDS).logits, before)
    assert all(not block.attention._forward_hooks for block in model.reformer.blocks)


def test_a_short_text_is_enough() -> None:
    layer = dataclasses.replace(LSH(), num_hashes=1)
    inspection = inspect_attention(_model(layer), IDS[:, :2])
    assert inspection.length == 2 and len(inspection.queries) == 2
