"""Imported models compute what transformers computes: logits, losses, gradients, tensors."""

import pytest
import torch
import transformers

from reformer.interop.huggingface import load
from reformer.interop.huggingface.weights import pairs
from tests.interop.their_models import random_inputs, random_model

CASES = [pytest.param(index, marks=() if index < 15 else pytest.mark.slow) for index in range(60)]
CAUSAL = transformers.ReformerModelWithLMHead
CLASSIFIER = transformers.ReformerForSequenceClassification
ANSWERS = transformers.ReformerForQuestionAnswering
BARE = transformers.ReformerModel


def _outputs(out):
    """The float tensors of an output of either library, by name."""
    names = ("logits", "start_logits", "end_logits", "last_hidden_state", "loss")
    found = {name: getattr(out, name, None) for name in names}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _distance(ours, theirs, least=1e-30):
    """The largest difference, relative to the largest number, or to ``least``."""
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=least))


def _compare(ours, theirs, mask):
    for name, tensor in _outputs(theirs).items():
        own = _outputs(ours)[name]
        if tensor.shape[:2] == mask.shape:
            own, tensor = own[mask > 0], tensor[mask > 0]
        assert _distance(own, tensor) < 1e-5, name


def _targets(model, ids, mask):
    """Arguments that make either library compute a loss, which padding has no part in."""
    if isinstance(model, BARE):
        return {}
    if isinstance(model, ANSWERS):
        return {"start_positions": ids[:, 0] % 3, "end_positions": ids[:, 1] % 3}
    if isinstance(model, CLASSIFIER):
        count = model.config.num_labels
        labels = ids[:, 0] % count
        return {"labels": labels if count > 1 else labels.float()}
    return {"labels": ids.masked_fill(mask == 0, -100)}


@pytest.mark.parametrize("index", CASES)
def test_logits_equal_theirs(index):
    theirs, longest = random_model(index)
    ours = load(theirs)
    for length in (longest, max(1, longest - 3), longest // 2, 2, 1):
        for padded in (False, True) if length > 2 else (False,):
            ids, mask = random_inputs(theirs, length, index, padded)
            with torch.no_grad():
                expected = theirs(ids, attention_mask=mask)
                _compare(ours(ids, segment_ids=mask - 1), expected, mask)
                if not padded:
                    _compare(ours(ids), expected, mask)


@pytest.mark.parametrize("index", CASES)
@pytest.mark.parametrize("streams", ["float", "exact"])
def test_gradients_equal_theirs(index, streams):
    theirs, length = random_model(index)
    ours = load(theirs, streams=streams)
    # Their loss of answers counts padding among the possible places, ours does not.
    padded = index % 2 == 1 and not isinstance(theirs, ANSWERS)
    ids, mask = random_inputs(theirs, length, index, padded)
    targets = _targets(theirs, ids, mask)
    theirs.train()
    ours.train()
    expected = theirs(ids, attention_mask=mask, **targets)
    found = ours(ids, segment_ids=mask - 1, **targets)
    if targets:
        assert _distance(found.loss.detach(), expected.loss.detach()) < 1e-5
        expected.loss.backward()
        found.loss.backward()
    else:
        weight = torch.randn(
            1, 1, expected[0].shape[-1], generator=torch.Generator().manual_seed(1)
        )
        for out in (expected, found):
            (out.last_hidden_state * weight * mask[..., None]).sum().backward()
    own = dict(ours.named_parameters())
    # Some gradients are sums that cancel to nothing but rounding.
    least = max(float(p.grad.abs().max()) for p in own.values()) / 10
    tolerance = 1e-5 if streams == "float" else 5e-5
    for pair in pairs(ours.config, type(theirs).__name__):
        gradient = theirs.get_parameter(pair.theirs).grad
        if gradient is None:
            assert pair.theirs == "lm_head.bias" and pair.ours not in own
            continue
        gradient = gradient.reshape(own[pair.ours].shape)
        assert _distance(own[pair.ours].grad, gradient, least) < tolerance, pair.theirs
