"""What a whole training step never makes: logits of every position, or positions squared."""

import torch

from reformer.config import LSH, Local
from tests.models.small import small_config, small_model
from tests.ops.largest_tensor import LargestTensor


def test_a_training_step_makes_nothing_as_large_as_its_logits_or_its_length_squared() -> None:
    length, vocabulary, slice_length = 512, 2000, 64
    config = small_config(
        max_length=length,
        vocab_size=vocabulary,
        slice_length=slice_length,
        layers=(Local(window_length=16), LSH(window_length=16)),
    )
    model = small_model(config)
    input_ids = torch.arange(length)[None] * 7 % vocabulary
    with LargestTensor() as largest:
        model(input_ids, labels=input_ids, draw=0).loss.backward()
    assert largest.elements <= slice_length * vocabulary
    assert largest.elements < length * length < length * vocabulary
