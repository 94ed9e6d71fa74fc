"""reformer-pytorch's ReformerLM and ours, side by side."""

import importlib
import inspect

import pytest
import torch
from safetensors.torch import save_file

from reformer.interop import lucidrains
from reformer.interop.errors import ConversionError
from reformer.ops.hashing import Rotations, published_rotations

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")
SETTINGS = {
    "num_tokens": 23, "dim": 16, "depth": 2, "max_seq_len": 32, "heads": 2, "dim_head": 8,
    "bucket_size": 4, "n_hashes": 1, "causal": True, "absolute_position_emb": True, "ff_chunks": 1,
}  # fmt: skip


def _theirs(**changes):
    library = pytest.importorskip("reformer_pytorch", reason="compares with reformer-pytorch")
    torch.manual_seed(0)
    model = library.ReformerLM(**{**SETTINGS, **changes}).eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=rng)
    return model


class _SharedRotations:
    """torch.randn for their hashing: our rotations, which their heads share."""

    def __init__(self, ours):
        (self.layer, *_), self.config = ours.config.layers, ours.config

    def __call__(self, shape, dtype, device):
        factors = self.layer.num_buckets
        size, rounds = self.config.head_size, self.layer.num_hashes
        one = published_rotations(1, size, rounds, factors, 5).matrix
        assert tuple(shape) == tuple(one.shape)
        return one


@pytest.mark.parametrize(
    "changes",
    [
        {"use_full_attn": True},
        {"use_full_attn": True, "causal": False},
        {"use_full_attn": True, "absolute_position_emb": False, "axial_position_emb": True,
         "axial_position_shape": (4, 8)},
        {"full_attn_thres": 4},
        {"n_hashes": 4},
        {"causal": False, "n_hashes": 2},
    ],
    ids=str,
)  # fmt: skip
def test_logits_equal_theirs(changes, monkeypatch):
    theirs = _theirs(**changes)
    ours = lucidrains.load(theirs.state_dict(), {**SETTINGS, **changes})
    ids = torch.randint(23, (2, 32), generator=torch.Generator().manual_seed(1))
    if not changes.get("use_full_attn"):
        rotations = _SharedRotations(ours)
        hashing = type(theirs.reformer.layers.blocks[0].f.net.fn.lsh_attn)
        module = importlib.import_module(hashing.__module__)
        monkeypatch.setattr(module, "torch", _With(module.torch, randn=rotations))
        for block in ours.reformer.blocks:
            block.attention.draw = lambda heads, size, rounds, factors, seed: Rotations(
                rotations((1, size, rounds, sum(factors) // 2), None, None).expand(
                    heads, -1, -1, -1
                )
            )
    with torch.no_grad():
        expected, found = theirs(ids), ours(ids).logits
    several = not changes.get("use_full_attn") and changes.get("n_hashes", 1) > 1
    tolerance = 5e-3 if several and changes.get("causal", True) else 1e-4
    assert torch.allclose(found, expected, atol=tolerance, rtol=tolerance)


class _With:
    """A module with some names replaced."""

    def __init__(self, module, **names):
        self.__dict__.update(module.__dict__)
        self.__dict__.update(names)


def test_files_are_read(tmp_path):
    theirs = _theirs()
    state = {k: v.clone() for k, v in theirs.state_dict().items()}
    expected = lucidrains.load(state, SETTINGS).state_dict()
    torch.save(state, tmp_path / "model.pt")
    save_file(state, tmp_path / "model.safetensors")
    for path in tmp_path.iterdir():
        found = lucidrains.load(path, SETTINGS).state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    "changes",
    [
        *({name: 1} for name in lucidrains.NO_EQUAL),
        {"absolute_position_emb": False}, {"emb_dim": 8}, {"ff_activation": "relu"},
        {"full_attn_thres": 100}, {"n_heads": 3},
    ],
    ids=str,
)  # fmt: skip
def test_what_has_no_equal_is_named(changes):
    with pytest.raises(ConversionError, match=next(iter(changes))):
        lucidrains.import_settings({**SETTINGS, **changes})


def test_every_setting_of_theirs_is_accounted_for():
    library = pytest.importorskip("reformer_pytorch", reason="compares with reformer-pytorch")
    names = set(inspect.signature(library.ReformerLM).parameters)
    known = lucidrains._USED | lucidrains._NO_BEARING | set(lucidrains.NO_EQUAL)
    assert names == known


@pytest.mark.parametrize("change", ["missing", "more", "shape"])
def test_weights_of_other_settings_are_named(change):
    state = dict(_theirs().state_dict())
    if change == "missing":
        del state["norm.bias"]
    elif change == "more":
        state["reformer.layers.blocks.2.f.net.norm.weight"] = torch.ones(16)
    else:
        state["out.1.bias"] = torch.zeros(24)
    named = {"missing": r"norm\.bias", "more": r"blocks\.2", "shape": r"head\.bias"}[change]
    with pytest.raises(ConversionError, match=named):
        lucidrains.load(state, SETTINGS)
