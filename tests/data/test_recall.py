"""A recall sequence can be solved, from anywhere, and in no other way than by its keys."""

import pytest
import torch

from reformer.data.files import InputError
from reformer.data.recall import NUM_FILLERS, NUM_KEYS, VOCAB_SIZE, RecallSource
from reformer.ops.sliced import IGNORED_LABEL

KEYS = range(NUM_FILLERS, NUM_FILLERS + NUM_KEYS)


@pytest.mark.parametrize("length", [64, 65, 500])
def test_every_question_has_its_answer_earlier_on(length: int) -> None:
    batch = RecallSource(length, seed=3).batch(0, 8)
    for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        asked = [t for t, label in enumerate(labels) if label != IGNORED_LABEL]
        assert len(asked) == 16 and asked[-1] == length - 1
        body = ids[: length - 32]
        assert len({ids[t - 1] for t in asked}) == 16
        for t in asked:
            assert labels[t] == ids[t] and ids[t - 1] in KEYS
            assert body.count(ids[t - 1]) == 1
            assert body[body.index(ids[t - 1]) + 1] == ids[t]


def test_pairs_stand_anywhere_and_their_values_cannot_be_guessed() -> None:
    batch = RecallSource(256, seed=0).batch(0, 400)
    ids = batch["input_ids"]
    body = ids[:, :224]
    places = ((body >= NUM_FILLERS) & (body < NUM_FILLERS + NUM_KEYS)).sum(dim=0)
    assert places[0] > 0 and places[222] > 0
    assert places[::2].min() > 30 and places[::2].max() < 100  # 57 expected
    values = ids[batch["labels"] != IGNORED_LABEL]
    assert values.min() == NUM_FILLERS + NUM_KEYS and values.max() == VOCAB_SIZE - 1
    assert torch.bincount(values)[NUM_FILLERS + NUM_KEYS :].max() < 200  # 100 expected


def test_a_sequence_is_a_function_of_seed_and_number() -> None:
    source = RecallSource(128, seed=5)
    together = source.batch(3, 4)["input_ids"]
    assert torch.equal(together[2], source.batch(5, 1)["input_ids"][0])
    assert not torch.equal(together, RecallSource(128, seed=6).batch(3, 4)["input_ids"])


def test_sizes_that_cannot_be_are_explained() -> None:
    with pytest.raises(InputError, match="length is 63"):
        RecallSource(63, seed=0)
    with pytest.raises(InputError, match="num_pairs is 65"):
        RecallSource(512, seed=0, num_pairs=65)
