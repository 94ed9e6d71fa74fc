"""Hugging Face Reformers to compare with: random configurations, weights that matter."""

import math
import random

import torch
import transformers

CLASSES = (
    transformers.ReformerModelWithLMHead,
    transformers.ReformerForMaskedLM,
    transformers.ReformerForSequenceClassification,
    transformers.ReformerForQuestionAnswering,
    transformers.ReformerModel,
)
SMALL = {
    "vocab_size": 32,
    "hidden_size": 16,
    "feed_forward_size": 24,
    "num_attention_heads": 2,
    "attention_head_size": 8,
    "attn_layers": ["local", "lsh"],
    "axial_pos_shape": [4, 8],
    "axial_pos_embds_dim": [6, 10],
    "max_position_embeddings": 32,
    "lsh_attn_chunk_length": 4,
    "local_attn_chunk_length": 4,
    "num_buckets": 8,
    "num_hashes": 2,
    "hash_seed": 0,
    "is_decoder": True,
    "hidden_dropout_prob": 0.0,
    "local_attention_probs_dropout_prob": 0.0,
    "lsh_attention_probs_dropout_prob": 0.0,
}


def their_model(cls=transformers.ReformerModelWithLMHead, seed=0, **changes):
    """A model of theirs in evaluation mode, its weights spread so that every one shows."""
    model = cls(transformers.ReformerConfig(**{**SMALL, **changes}))
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Matrices keep the size of what they multiply; the rest is of order 1.
            scale = 1 / math.sqrt(parameter.shape[-1]) if parameter.dim() > 1 else 0.3
            if "embedding" in name:
                scale = 1.0
            parameter.normal_(0.0, scale, generator=rng)
            if "layer_norm.weight" in name:
                parameter += 1.0
    return model.eval()


def random_model(index):
    """(model, length to train at) of the configuration with this number."""
    draw = random.Random(index)
    cls = CLASSES[index % len(CLASSES)]
    chunks = draw.choice([(4, 4), (4, 8), (8, 4), (2, 6), (5, 5), (6, 4), (3, 8)])
    common = math.lcm(*chunks)
    rows, columns = draw.choice([1, 2, 3]), common * draw.choice([1, 2, 3])
    axial = draw.random() < 0.6
    width = draw.choice([12, 16, 20])
    part = draw.randint(1, width - 1)
    causal = {0: True, 1: False}.get(index % len(CLASSES), draw.random() < 0.5)
    after = 0 if cls is CLASSES[0] else draw.choice([0, 1])
    num_buckets = draw.choice([2, 4, 6, [2, 4], [4, 2, 2], 8, None])
    model = their_model(
        cls,
        seed=index,
        vocab_size=draw.choice([11, 29]),
        hidden_size=width,
        feed_forward_size=draw.choice([8, 24]),
        num_attention_heads=draw.choice([1, 2, 3]),
        attention_head_size=draw.choice([2, 4, 8]),
        attn_layers=[draw.choice(["lsh", "local"]) for _ in range(draw.randint(1, 4))],
        axial_pos_embds=axial,
        axial_pos_shape=[rows, columns],
        axial_pos_embds_dim=[part, width - part],
        # Theirs picks the number of buckets by its first input: here always the longest.
        max_position_embeddings=rows * columns + (draw.choice([0, 7]) if num_buckets else 0),
        lsh_attn_chunk_length=chunks[0],
        local_attn_chunk_length=chunks[1],
        lsh_num_chunks_before=draw.choice([0, 1, 2]),
        lsh_num_chunks_after=after,
        local_num_chunks_before=draw.choice([0, 1, 2]),
        local_num_chunks_after=after,
        num_buckets=num_buckets,
        num_hashes=draw.choice([1, 2, 3, 4]),
        hash_seed=draw.randint(0, 1000),
        hidden_act=draw.choice(["relu", "gelu", "gelu_new", "silu", "tanh"]),
        layer_norm_eps=draw.choice([1e-12, 1e-6]),
        is_decoder=causal,
        num_labels=2
        if cls is transformers.ReformerForQuestionAnswering
        else draw.choice([1, 2, 5]),
        chunk_size_feed_forward=draw.choice([0, 1]),
    )
    return model, rows * columns


def random_inputs(model, length, index, padded):
    """Token ids [3, length] and an attention mask; with ``padded``, rows end (one starts) late."""
    rng = torch.Generator().manual_seed(index)
    ids = torch.randint(1, model.config.vocab_size, (3, length), generator=rng)
    mask = torch.ones_like(ids)
    if padded:
        mask[0, length // 2 + 1 :] = 0
        mask[1, length - 1 :] = 0
    return ids, mask
