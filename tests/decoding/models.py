"""Small models for the tests of decoding."""

import torch

from reformer import LSH, Full, Local, ReformerConfig, ReformerForCausalLM
from reformer.ops.randomness import generator

LAYERS = {
    "lsh": (LSH(num_hashes=3, window_length=8, num_buckets=8),),
    "one bucket": (LSH(num_hashes=2, window_length=24, num_buckets=1),),
    "factors": (LSH(num_hashes=2, window_length=16, num_buckets=(4, 2)),),
    "next values": (
        LSH(num_hashes=2, window_length=16, num_buckets=8, values="next"),
        LSH(num_hashes=2, window_length=16, num_buckets=64, values="next"),
    ),
    "window 1": (LSH(num_hashes=2, window_length=1, num_buckets=4), Local(window_length=1)),
    "local": (Local(window_length=16), Local(window_length=5, rotary_base=10000.0)),
    "full": (Full(), Full(rotary_base=10000.0)),
    "mixed": (
        Local(window_length=16, rotary_base=10000.0),
        LSH(num_hashes=2, window_length=16, num_buckets=8),
        Full(),
        LSH(num_hashes=3, window_length=8, num_buckets=16, values="next"),
    ),
}


def make_model(layers, dtype=torch.float64, max_length=1024, **fields):
    """A model with large enough weights that what a token sees shows in its logits."""
    values = {
        "vocab_size": 61, "hidden_size": 24, "feed_forward_size": 32, "num_heads": 2,
        "head_size": 8, "init_scale": 0.5, "slice_length": 300, "seed": 3,
    }  # fmt: skip
    config = ReformerConfig(layers=layers, max_length=max_length, **(values | fields))
    return ReformerForCausalLM(config).eval().to(dtype)


def random_ids(length, seed=0, vocab_size=61):
    return torch.randint(0, vocab_size, (length,), generator=generator(seed)).tolist()


@torch.no_grad()
def whole_logits(model, ids):
    """Logits after every token, by one forward pass over the whole sequence."""
    return model(torch.tensor([ids])).logits[0]
