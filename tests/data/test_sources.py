"""A sequence is a function of its number, whoever asks for it and in whichever batch."""

import math

import numpy as np
import pytest
import torch

from reformer.data.files import InputError
from reformer.data.sources import CopySource, Source, TextSource
from reformer.data.store import TokenStore

STORE = TokenStore(np.arange(1000, dtype=np.uint16), num_bytes=2500)


@pytest.mark.parametrize("source", [TextSource(STORE, 32, 7), CopySource(32, 20, 7)])
def test_a_batch_is_the_sequences_of_its_numbers(source: Source) -> None:
    before = torch.get_rng_state()
    together = source.batch(10, 6)
    assert torch.equal(torch.get_rng_state(), before)
    for row in range(6):
        alone = source.batch(10 + row, 1)
        assert torch.equal(together["input_ids"][row], alone["input_ids"][0])
        assert torch.equal(together["labels"][row], alone["labels"][0])


def test_text_sequences_are_pieces_of_the_text_from_everywhere() -> None:
    input_ids = TextSource(STORE, 32, 0).batch(0, 2000)["input_ids"]
    assert torch.equal(input_ids - input_ids[:, :1], torch.arange(32).expand(2000, 32))
    starts = input_ids[:, 0]
    assert starts.min() < 10 and starts.max() > 958
    assert len(starts.unique()) > 800


def test_another_seed_gives_other_sequences() -> None:
    first, second = (TextSource(STORE, 32, seed).batch(0, 100)["input_ids"] for seed in (0, 1))
    assert (first == second).all(dim=1).sum() < 5


def test_a_text_as_long_as_a_sequence_is_just_enough() -> None:
    assert TextSource(STORE, 1000, 0).batch(3, 1)["input_ids"].shape == (1, 1000)
    with pytest.raises(InputError, match="length is 1001"):
        TextSource(STORE, 1001, 0)


def test_bytes_per_token() -> None:
    unit = TextSource(STORE, 8, 0).unit
    assert unit.name == "bits_per_byte" and unit.per_nat == 1 / (2.5 * math.log(2))


def test_copy_sequences_are_a_word_twice_and_only_the_second_is_labelled() -> None:
    input_ids, labels = CopySource(32, 20, 0).batch(0, 50).values()
    first, second = input_ids[:, :16], input_ids[:, 16:]
    assert torch.equal(first, second)
    assert (first[:, 0] == 0).all()
    assert (first[:, 1:] > 0).all() and first.max() == 19
    assert torch.equal(labels[:, 17:], input_ids[:, 17:])
    assert (labels[:, :17] == -100).all()


@pytest.mark.parametrize(("length", "vocab_size"), [(2, 20), (31, 20), (32, 2)])
def test_a_copy_task_that_cannot_be_is_refused(length: int, vocab_size: int) -> None:
    with pytest.raises(InputError, match="copy task"):
        CopySource(length, vocab_size, 0)
