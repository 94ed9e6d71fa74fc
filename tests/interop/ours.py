"""A small model of ours, as a folder and as transformers loads it."""

import torch

import reformer.interop.huggingface.native  # noqa: F401 - registers the classes
from reformer import LSH, Local, ReformerConfig, ReformerForCausalLM

CONFIG = ReformerConfig(
    vocab_size=258,
    hidden_size=16,
    feed_forward_size=24,
    num_heads=2,
    head_size=8,
    max_length=128,
    layers=(Local(window_length=8), LSH(num_hashes=2, window_length=8)),
    dropout=0.1,
    init_scale=0.5,
)


def saved(folder, config=CONFIG, cls=ReformerForCausalLM):
    """The model, written into the folder."""
    model = cls(config).eval()
    model.save_pretrained(folder)
    return model


def some_ids(rows=2, length=20, seed=0):
    """Ids that are not the padding id."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(1, 258, (rows, length), generator=rng)
