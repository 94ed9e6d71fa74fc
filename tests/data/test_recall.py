"""A recall sequence can be solved, from anywhere, and in no other way than by its needles."""

import pytest
import torch

from reformer.data.files import InputError
from reformer.data.recall import NUM_CLASSES, NUM_FILLERS, NUM_VALUES, VOCAB_SIZE, RecallSource
from reformer.ops.sliced import IGNORED_LABEL

FIRST_NEEDLE = NUM_FILLERS + NUM_CLASSES


@pytest.mark.parametrize("length", [24, 25, 500])
def test_every_question_has_its_answer_earlier_on(length: int) -> None:
    batch = RecallSource(length, seed=3).batch(0, 8)
    for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        asked = [t for t, label in enumerate(labels) if label != IGNORED_LABEL]
        assert len(asked) == NUM_CLASSES and asked[-1] == length - 1
        assert {ids[t - 1] for t in asked} == set(range(NUM_FILLERS, FIRST_NEEDLE))
        needles = [token for token in ids[: length - 2 * NUM_CLASSES] if token >= FIRST_NEEDLE]
        assert sorted(needles) == sorted(labels[t] for t in asked)
        for t in asked:
            assert labels[t] == ids[t]
            assert (ids[t] - FIRST_NEEDLE) // NUM_VALUES == ids[t - 1] - NUM_FILLERS


def test_needles_stand_anywhere_and_their_values_cannot_be_guessed() -> None:
    batch = RecallSource(100, seed=0).batch(0, 800)
    body = batch["input_ids"][:, :84]
    places = (body >= FIRST_NEEDLE).sum(dim=0)
    assert places.min() > 40 and places.max() < 115  # 76 expected
    answers = torch.bincount(batch["labels"][batch["labels"] != IGNORED_LABEL])[FIRST_NEEDLE:]
    assert len(answers) == VOCAB_SIZE - FIRST_NEEDLE
    assert answers.min() > 60 and answers.max() < 145  # 100 expected


def test_a_sequence_is_a_function_of_seed_and_number() -> None:
    source = RecallSource(128, seed=5)
    together = source.batch(3, 4)["input_ids"]
    assert torch.equal(together[2], source.batch(5, 1)["input_ids"][0])
    assert not torch.equal(together, RecallSource(128, seed=6).batch(3, 4)["input_ids"])


def test_a_length_without_room_for_the_questions_is_explained() -> None:
    with pytest.raises(InputError, match="length is 23"):
        RecallSource(23, seed=0)
