"""The golden values of transformers' own Reformer tests that need no hub, by imported models.

Those tests build their models right after ``torch.manual_seed(0)``, so theirs is built that
way here, and imported.
"""

import pytest
import torch
import transformers

from reformer.interop.huggingface import load
from reformer.nn.record import LayerRecord

CONFIG = {
    "vocab_size": 320, "attention_head_size": 8, "hidden_size": 16, "num_attention_heads": 2,
    "num_buckets": 2, "num_hashes": 4, "lsh_attn_chunk_length": 4, "local_attn_chunk_length": 4,
    "lsh_num_chunks_before": 1, "lsh_num_chunks_after": 0, "local_num_chunks_before": 1,
    "local_num_chunks_after": 0, "chunk_size_lm_head": 0, "chunk_size_feed_forward": 0,
    "feed_forward_size": 32, "hidden_act": "gelu", "hidden_dropout_prob": 0.0,
    "lsh_attention_probs_dropout_prob": 0.0, "local_attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 32, "initializer_range": 0.02, "axial_norm_std": 1.0,
    "layer_norm_eps": 1e-12, "sinusoidal_pos_embds": False, "axial_pos_embds": True,
    "axial_pos_shape": [4, 8], "axial_pos_embds_dim": [8, 8], "hash_seed": 0, "is_decoder": True,
}  # fmt: skip


def _built(cls, **changes):
    torch.manual_seed(0)
    model = cls(transformers.ReformerConfig(**{**CONFIG, **changes}))
    return model.eval(), load(model)


def _ids_and_mask():
    rng = torch.Generator().manual_seed(5)
    ids = torch.randint(0, 320, (2, 32), generator=rng)
    mask = torch.ones_like(ids)
    mask[0, 25:] = 0
    mask[1, 9:12] = 0
    return ids, mask
