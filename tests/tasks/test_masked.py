"""Hidden spans are found from both sides, and what is learned serves other tasks."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from reformer.data.masking import MASK, MaskedSource, mask_spans
from reformer.data.store import TokenStore
from reformer.models.classification import ReformerForSequenceClassification
from reformer.models.masked_language import ReformerForMaskedLM
from reformer.models.store import read_weights
from reformer.tasks.masked import MaskedValidation
from tests.cli.conftest import call

SMALL = ("--preset", "tiny", "--length", "64", "--evaluate-tokens", "2000", "--batch-size", "4")


def test_spans_hide_a_fixed_share_and_change_nothing_else() -> None:
    tokens = np.arange(1, 2001)
    kept = masked = 0
    for seed in range(10):
        hidden, labels = mask_spans(tokens, seed)
        places = labels != -100
        assert places.sum() == 300
        assert (labels[places] == tokens[places]).all()
        assert (hidden[~places] == tokens[~places]).all()
        masked += int((hidden[places] == MASK).sum())
        kept += int((hidden[places] == tokens[places]).sum())
        lengths = np.diff(np.flatnonzero(np.diff(np.pad(places, 1).astype(int))))[::2]
        assert lengths.mean() > 2.5
    assert 0.7 < masked / 3000 < 0.9 and 0.03 < kept / 3000 < 0.2
    for length in (1, 2, 7):
        assert (mask_spans(np.arange(length), 0)[1] != -100).sum() == 1


def test_sequences_are_functions_of_their_number() -> None:
    store = TokenStore(np.arange(200, dtype=np.uint8), 200)
    source = MaskedSource(store, 50, seed=3)
    whole, tail = source.batch(0, 8), source.batch(5, 3)
    for name in ("input_ids", "labels"):
        assert torch.equal(whole[name][5:], tail[name])
    assert not torch.equal(whole["input_ids"][0], whole["input_ids"][1])


def test_a_model_that_knows_nothing_needs_eight_bits() -> None:
    store = TokenStore((np.arange(200) % 256).astype(np.uint8), 200)

    class Ignorant(torch.nn.Module):
        config = type("Config", (), {"max_length": 64})

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, ids: torch.Tensor) -> object:
            return type("Output", (), {"logits": torch.zeros(*ids.shape, 256)})

    measured = MaskedValidation(store, 100).measure(Ignorant(), whole=True)  # type: ignore[arg-type]
    assert measured["validation_bits_per_byte"] == pytest.approx(math.log2(256))


def test_what_is_learned_is_handed_on(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the whale and the ship and the sea. " * 200)
    first, second = tmp_path / "masked", tmp_path / "classify"
    trained = call("train", text, "--task", "masked", *SMALL, "--steps", 30, "--out", first)
    assert trained.code == 0, trained.err
    scores = json.loads(call("evaluate", first, text, "--json").out)
    assert scores["bits_per_byte"] < 5 and 0 < scores["accuracy"] < 1

    texts = tmp_path / "texts.csv"
    texts.write_text("text,label\n" + "the whale,a\nthe ship,b\n" * 20)
    words = ("train", texts, "--task", "classify", "--init", first, "--batch-size", 4)
    trained = call(*words, "--steps", 1, "--learning-rate", 1e-9, "--out", second)
    assert trained.code == 0, trained.err
    model = ReformerForSequenceClassification.from_pretrained(second)
    trunk = {f"reformer.{n}": t for n, t in model.reformer.state_dict().items()}
    before = read_weights(first, trunk, prefix="reformer.")
    assert all(torch.allclose(trunk[name], before[name], atol=1e-6) for name in trunk)
    assert not ReformerForMaskedLM.from_pretrained(first).config.causal

    misfit = call(*words, "--steps", 1, "--hidden-size", 24, "--out", tmp_path / "misfit")
    assert misfit.code == 2
    assert f"{first}/model.safetensors: reformer.embedding.tokens.weight is" in misfit.err
    assert not (tmp_path / "misfit").exists()
