"""Imported models under the window rule: the same weights, decoded with a cache."""

import pytest
import torch

from reformer import Full, ReformerForCausalLM
from reformer.config import LSH, Local, ReformerConfig
from reformer.generation.decode import can_cache
from reformer.interop.huggingface import load
from reformer.interop.window_rule import under_window_rule
from tests.cli.conftest import call
from tests.interop.their_models import their_model


def test_everything_but_what_a_query_sees_stays():
    theirs = their_model(attn_layers=["local", "lsh"])
    chunked, windowed = load(theirs), load(theirs, rule="window")
    assert not can_cache(chunked.config) and can_cache(windowed.config)
    for key, tensor in chunked.state_dict().items():
        assert torch.equal(windowed.state_dict()[key], tensor)
    for before, after in zip(chunked.config.layers, windowed.config.layers, strict=True):
        assert after.window_length == before.window_length * (before.chunks_before + 1)
        assert getattr(after, "num_buckets", None) == getattr(before, "num_buckets", None)
    layers = (LSH(2, 8), Local(4), Full())
    config = ReformerConfig(layers=layers, max_length=64)
    assert under_window_rule(config) == config


def test_local_layers_within_one_chunk_compute_what_theirs_do():
    theirs = their_model(attn_layers=["local", "local"])
    length = theirs.config.local_attn_chunk_length
    ids = torch.arange(length)[None]
    ours = load(theirs, rule="window")
    assert torch.allclose(ours(ids).logits, theirs(ids).logits, atol=1e-5)


def test_generation_reads_each_token_once_and_is_the_whole_pass(monkeypatch):
    model = load(their_model(attn_layers=["local", "lsh"]), rule="window").double()
    read = []
    append = type(model.reformer).append
    monkeypatch.setattr(
        type(model.reformer),
        "append",
        lambda self, ids, cache: read.append(len(ids[0])) or append(self, ids, cache),
    )
    (found,) = model.generate([1, 2, 3, 4, 5], max_new_tokens=12, temperature=0)
    assert read == [5] + [1] * 11
    with torch.no_grad():
        logits = model(torch.tensor([[1, 2, 3, 4, 5, *found.token_ids]])).logits[0]
    assert found.token_ids == logits[4:-1].argmax(-1).tolist()


def test_the_command_converts_to_either_rule(tmp_path):
    their_model().save_pretrained(tmp_path / "theirs")
    assert call("convert", tmp_path / "theirs", tmp_path / "fast", "--rule", "window").code == 0
    assert can_cache(ReformerForCausalLM.from_pretrained(tmp_path / "fast").config)
    answer = call("convert", tmp_path / "fast", tmp_path / "back", "--rule", "window")
    assert answer.code == 2
    assert "rule is 'window'" in answer.err


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_window_holds_what_chunks_could_show(before):
    layer = LSH(window_length=8, rule="chunk", chunks_before=before)
    config = ReformerConfig(layers=(layer,), max_length=64)
    assert under_window_rule(config).layers[0].window_length == 8 * (before + 1)
