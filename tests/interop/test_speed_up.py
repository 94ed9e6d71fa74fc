"""A Reformer of transformers after ``speed_up``: the same model, the same numbers."""

import copy

import pytest
import torch

from reformer.interop.huggingface import ConversionError, load, speed_up
from tests.interop.test_huggingface_parity import ANSWERS, _compare, _distance, _targets
from tests.interop.their_models import random_inputs, random_model, their_model

CASES = [pytest.param(i, marks=() if i < 10 else pytest.mark.slow) for i in range(50)]
GREEDY = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None}


@pytest.mark.parametrize("index", CASES)
def test_outputs_are_the_same(index):
    theirs, longest = random_model(index)
    fast = speed_up(copy.deepcopy(theirs))
    for length in (longest, max(1, longest - 3), longest // 2, 1):
        ids, mask = random_inputs(theirs, length, index, padded=length > 2)
        with torch.no_grad():
            expected = theirs(ids, attention_mask=mask)
            _compare(fast(ids, attention_mask=mask), expected, mask)


@pytest.mark.parametrize("index", CASES)
def test_gradients_are_the_same(index):
    theirs, length = random_model(index)
    fast = speed_up(copy.deepcopy(theirs)).train()
    theirs.train()
    padded = index % 2 == 1 and not isinstance(theirs, ANSWERS)
    ids, mask = random_inputs(theirs, length, index, padded)
    targets = _targets(theirs, ids, mask)
    for model in (theirs, fast):
        out = model(ids, attention_mask=mask, **targets)
        (out.loss if targets else (out[0] * mask[..., None]).square().sum()).backward()
    gradients = [p.grad for p in theirs.parameters() if p.grad is not None]
    least = max(float(g.abs().max()) for g in gradients) / 10
    for name, parameter in theirs.named_parameters():
        if parameter.grad is not None:
            assert _distance(fast.get_parameter(name).grad, parameter.grad, least) < 1e-5, name


@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_is_the_same(use_cache):
    theirs = their_model(attn_layers=["local", "lsh"], num_buckets=[2, 4])
    fast = speed_up(copy.deepcopy(theirs))
    ids = torch.randint(1, 32, (1, 9), generator=torch.Generator().manual_seed(0))
    expected = theirs.generate(ids, use_cache=use_cache, **GREEDY)
    assert torch.equal(fast.generate(ids, use_cache=use_cache, **GREEDY), expected)


def test_what_the_fused_op_does_not_return_is_theirs():
    theirs = their_model()
    ids = torch.arange(32)[None]
    expected = theirs(ids, output_attentions=True, num_hashes=3)
    found = speed_up(theirs)(ids, output_attentions=True, num_hashes=3)
    for mine, other in zip(found.attentions, expected.attentions, strict=True):
        assert torch.equal(mine, other)


def test_weights_are_untouched_and_a_second_call_changes_nothing():
    theirs = their_model()
    before = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    assert speed_up(speed_up(theirs)) is theirs
    assert all(torch.equal(before[name], t) for name, t in theirs.state_dict().items())
    ids = torch.arange(32)[None]
    assert torch.allclose(load(theirs)(ids).logits, theirs(ids).logits, atol=1e-5)


def test_with_a_hash_seed_the_users_generator_stays_where_it_was():
    fast = speed_up(their_model(attn_layers=["lsh"]))
    state = torch.get_rng_state()
    fast(torch.arange(32)[None])
    assert torch.equal(torch.get_rng_state(), state)


def test_without_a_hash_seed_and_with_dropout_the_backward_sees_the_same_draws():
    changes = {"lsh_attention_probs_dropout_prob": 0.3, "local_attention_probs_dropout_prob": 0.3}
    fast = speed_up(their_model(hash_seed=None, hidden_dropout_prob=0.2, **changes)).train()
    layer = fast.reformer.encoder.layers[1].attention
    outputs = []
    layer.register_forward_hook(lambda module, inputs, out: outputs.append(out.hidden_states))
    ids = torch.arange(32)[None]
    fast(ids, labels=ids).loss.backward()
    assert len(outputs) == 2
    assert torch.allclose(outputs[0], outputs[1], atol=1e-5)


def test_other_models_are_refused():
    with pytest.raises(ConversionError, match="no Hugging Face Reformer layer"):
        speed_up(torch.nn.Linear(2, 2))
