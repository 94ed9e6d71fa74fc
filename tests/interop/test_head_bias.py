"""The bias of language heads, in every way that versions of transformers have stored it."""

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from reformer import ReformerConfig, ReformerForCausalLM, ReformerForMaskedLM
from reformer.interop.huggingface import export, load
from tests.cli.conftest import call
from tests.interop.their_models import their_model

STORED, ADDED = "lm_head.bias", "lm_head.decoder.bias"
IDS = torch.arange(32)[None]
NOTHING = torch.zeros(32)
FIRST, SECOND = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
LAYOUTS = {
    "5.23": {STORED: FIRST},
    "5.24": {ADDED: FIRST, STORED: SECOND},
    "5.24, as it is trained": {ADDED: FIRST, STORED: NOTHING},
    "5.24, new": {ADDED: NOTHING, STORED: NOTHING},
    "5.24, from a checkpoint of 5.23": {ADDED: NOTHING, STORED: FIRST},
    "4": {ADDED: FIRST, STORED: FIRST},
    "4, one name": {ADDED: FIRST},
}


@pytest.fixture(params=LAYOUTS, ids=str)
def layout(request):
    return LAYOUTS[request.param]


def _written(folder, biases, theirs=None):
    """A checkpoint with just these biases, whatever the installed version would write."""
    (theirs or their_model()).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if name not in (STORED, ADDED)}
    save_file(
        kept | {name: bias.clone() for name, bias in biases.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


def _without_bias(model):
    """What the model's logits are before a bias is added."""
    hidden = model.reformer.norm(model.reformer(IDS))
    return hidden @ model.head.weight.T


def _loaded_there(folder):
    """Theirs, and what their report on the weights says."""
    return transformers.ReformerModelWithLMHead.from_pretrained(folder, output_loading_info=True)


def test_the_bias_of_the_decoder_is_added_and_no_other(layout, tmp_path):
    ours = load(_written(tmp_path, layout))
    added = layout.get(ADDED, NOTHING)
    assert torch.allclose(ours(IDS).logits, _without_bias(ours) + added, atol=1e-6)


def test_the_model_in_memory_means_what_its_folder_means(layout, tmp_path):
    folder = _written(tmp_path, layout)
    theirs, _ = _loaded_there(folder)
    found = load(theirs)(IDS).logits
    assert torch.allclose(found, theirs(IDS).logits, atol=1e-5)
    if ADDED in theirs.state_dict() or ADDED not in layout:
        assert torch.allclose(found, load(folder)(IDS).logits, atol=1e-5)


def test_export_gives_every_layout_back_and_leaves_nothing_to_draw_anew(layout, tmp_path):
    before = load_file(_written(tmp_path / "before", layout) / "model.safetensors")
    ours = load(tmp_path / "before")
    ours.save_pretrained(tmp_path / "ours")
    export(ReformerForCausalLM.from_pretrained(tmp_path / "ours"), tmp_path / "after")
    after = load_file(tmp_path / "after" / "model.safetensors")
    assert set(after) == set(before) | {STORED, ADDED}
    for name, tensor in after.items():
        assert torch.equal(tensor, before.get(name, NOTHING)), name
    theirs, report = _loaded_there(tmp_path / "after")
    assert not report["missing_keys"]
    assert set(report["unexpected_keys"]) == set(after) - set(theirs.state_dict())
    assert torch.equal(load(tmp_path / "after")(IDS).logits, ours(IDS).logits)


def test_what_is_added_is_trained_and_what_is_stored_stays(layout, tmp_path):
    ours = load(_written(tmp_path, layout)).train()
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    trained = dict(ours.named_parameters())
    assert ("head.bias" in trained) == (ADDED in layout)
    ours(IDS, labels=IDS).loss.backward()
    torch.optim.SGD(ours.parameters(), lr=1.0).step()
    changed = {n for n, t in ours.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == set(trained)


@pytest.mark.parametrize("name", ["5.23", "5.24, from a checkpoint of 5.23", "4", "4, one name"])
def test_a_checkpoint_that_was_trained_with_its_bias_can_have_it_added(name, tmp_path):
    ours = load(_written(tmp_path, LAYOUTS[name]), head_bias="added")
    assert torch.allclose(ours(IDS).logits, _without_bias(ours) + FIRST, atol=1e-6)
    assert ours.config.head_bias in ("added", "both")


def test_masked_language_models_have_it_too(tmp_path):
    masked = their_model(transformers.ReformerForMaskedLM, is_decoder=False)
    ours = load(_written(tmp_path, LAYOUTS["5.24"], masked))
    assert isinstance(ours, ReformerForMaskedLM)
    assert torch.allclose(ours(IDS).logits, _without_bias(ours) + FIRST, atol=1e-6)
    assert torch.equal(ours.head.held_bias, SECOND)


def test_a_bias_that_was_trained_here_is_added_there_or_named_as_left_over(tmp_path):
    ours = load(_written(tmp_path / "before", LAYOUTS["5.24, new"]))
    with torch.no_grad():
        ours.head.bias.copy_(FIRST)
    export(ours, tmp_path / "after")
    theirs, report = _loaded_there(tmp_path / "after")
    if ADDED in theirs.state_dict():
        expected = ours(IDS).logits
        assert not report["unexpected_keys"]
    else:
        expected = _without_bias(ours)
        assert set(report["unexpected_keys"]) == {ADDED}
    assert torch.allclose(theirs(IDS).logits, expected, atol=1e-5)


@pytest.mark.parametrize(("name", "said"), [("5.23", False), ("5.24", True), ("5.24, new", False)])
def test_the_command_says_when_older_versions_would_leave_it_out(name, said, tmp_path):
    load(_written(tmp_path / "theirs", LAYOUTS[name])).save_pretrained(tmp_path / "ours")
    answer = call("convert", tmp_path / "ours", tmp_path / "back")
    assert answer.code == 0
    assert ("transformers 5.24 or later" in answer.out) == said


@pytest.mark.parametrize("kind", ["added", "held", "both"])
def test_biases_of_a_new_model_are_zero(kind):
    # Memory that nobody has written is then not a number.
    torch.use_deterministic_algorithms(True)
    try:
        config = ReformerConfig(vocab_size=32, hidden_size=16, max_length=64, head_bias=kind)
        held = ReformerForCausalLM(config).head.state_dict()
    finally:
        torch.use_deterministic_algorithms(False)
    assert set(held) == {"weight", "bias"} | ({"held_bias"} if kind == "both" else set())
    assert all(bool((bias == 0).all()) for name, bias in held.items() if name != "weight")
