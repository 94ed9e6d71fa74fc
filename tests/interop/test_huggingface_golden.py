"""The golden values of transformers' own Reformer tests that need no hub, by imported models.

Those tests build their models right after ``torch.manual_seed(0)``, so theirs is built that
way here, and imported.
"""

import pytest
import torch
import transformers
from transformers.models.reformer.modeling_reformer import ReformerLayer

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
    config = transformers.ReformerConfig(**{**CONFIG, **changes})
    torch.manual_seed(0)
    model = cls(config)
    if hasattr(model, "lm_head"):
        _draw_decoder(model.lm_head.decoder, config)
    return model.eval(), load(model)


@torch.no_grad()
def _draw_decoder(decoder, config):
    """The weights that the golden values were computed with.

    A decoder with a bias of its own, as from 5.24, draws that first, so another weight follows.
    """
    torch.manual_seed(0)
    transformers.ReformerModel(config)
    torch.nn.Linear(decoder.in_features, decoder.out_features, bias=False)
    decoder.weight.normal_(0.0, config.initializer_range)


IDS = torch.tensor([
    [89, 279, 286, 84, 194, 316, 182, 28, 283, 37, 169, 7, 253, 267, 107, 250,
     44, 7, 102, 62, 3, 243, 171, 265, 302, 48, 164, 264, 148, 229, 280, 150],
    [9, 192, 66, 112, 163, 83, 135, 70, 224, 96, 31, 80, 196, 80, 63, 22,
     85, 100, 47, 283, 0, 163, 126, 143, 195, 82, 53, 82, 18, 27, 182, 52],
])  # fmt: skip
MASK = torch.tensor(
    [
        [int(c) for c in "10011000101010010110110011001111"],
        [int(c) for c in "00000111111010011110010101100010"],
    ]
)
HIDDEN = torch.tensor([[
    [1.90826353, -1.45999730, -0.620405462, 1.52503433, -0.364464232, -0.827359235, 0.839670803,
     0.244492178, 0.498332758, 2.69175139, -0.00708081422, 1.04915401, -1.83476661, 0.767220476,
     0.298580543, 0.0284803992],
    [-0.0266374286, 0.433497576, 0.310386309, 0.546039944, -0.000247292666, -0.752305019,
     0.239162103, 0.725216186, -0.758357372, 0.420635998, -0.0404739919, 0.159924145, 2.05135748,
     -1.15997978, 0.537166397, 0.262873606],
    [0.185247482, 0.707046037, -0.677089715, -2.24209655, -0.0375307980, -0.859380874,
     -2.81027884, 1.01276376, -1.69438001, 0.417574660, -1.49196962, -1.76483717, -0.194566312,
     -1.71183858, 0.772903565, -1.11557056],
    [0.946069193, 0.153417623, -0.958686996, 0.118126669, 1.75967724, 1.62194590, -0.574108159,
     0.679920443, 0.544028163, 0.205466114, -0.363045868, 0.241865062, 0.320348382, -0.905611176,
     -0.192690727, -1.19917547],
]])  # fmt: skip


def _close(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "masked", "expected"),
    [
        ({"attn_layers": ["lsh"], "is_decoder": False}, False,
         [1.6879, -1.3083, -0.4708, 1.3555, -0.6292]),
        ({"attn_layers": ["lsh"], "num_buckets": [2, 4]}, True,
         [1.6439, -1.2306, -0.5108, 1.3006, -0.6537]),
        ({"attn_layers": ["local"], "is_decoder": False}, False,
         [1.4212, -2.0576, -0.9688, 1.4599, -0.1344]),
    ],
)  # fmt: skip
def test_one_layer(changes, masked, expected):
    settings = {**CONFIG, "lsh_num_chunks_before": 0, "local_num_chunks_before": 0, **changes}
    config = transformers.ReformerConfig(**settings)
    whole = transformers.ReformerModel(config)
    torch.manual_seed(0)
    whole.encoder.layers[0] = ReformerLayer(config)
    block = load(whole).reformer.blocks[0]
    segments = torch.tensor([[-1, 0, -1, -1]]) if masked else None
    record = LayerRecord(0, None, segments, torch.arange(4))
    first = HIDDEN + block(HIDDEN, "attention", record)
    second = HIDDEN + block(first, "feed_forward", record)
    _close(second[0, 0, :5], expected)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"attn_layers": ["lsh"] * 4, "num_buckets": [2, 4]},
         [-0.9896, -0.9396, -1.0831, -0.0597, 0.2456]),
        ({"attn_layers": ["local"] * 4}, [-1.6791, 0.7171, 0.1594, 0.4063, 1.2584]),
    ],
)  # fmt: skip
def test_the_bare_model(changes, expected):
    _, ours = _built(transformers.ReformerModel, **changes)
    out = ours(IDS, segment_ids=MASK - 1).last_hidden_state
    _close(out[0, 0, :5], expected)


def test_the_masked_language_model():
    # This golden value stands at a padding position, where ours sees nothing on purpose: their
    # model is held to it, and ours to theirs at every other position.
    layers = ["local", "lsh"] * 3
    theirs, ours = _built(
        transformers.ReformerForMaskedLM, attn_layers=layers, num_buckets=[2, 4], is_decoder=False
    )
    expected = theirs(IDS, attention_mask=MASK).logits
    _close(expected[1, -1, :5], [0.1018, -0.2026, 0.2116, 0.0270, -0.1233])
    found = ours(IDS, segment_ids=MASK - 1).logits
    torch.testing.assert_close(found[MASK > 0], expected[MASK > 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "loss", "gradient"),
    [
        ({"attn_layers": ["local"] * 4}, 5.8019, [-0.0005, -0.0001, -0.0002, -0.0006, -0.0006]),
        ({"attn_layers": ["lsh"] * 4, "num_buckets": [2, 4], "num_hashes": 6}, 5.7854,
         [0.0004, 0.0003, 0.0006, -0.0004, 0.0002]),
    ],
)  # fmt: skip
def test_training_the_language_model(changes, loss, gradient):
    _, ours = _built(transformers.ReformerModelWithLMHead, **changes)
    found = ours.train()(IDS, labels=IDS).loss
    found.backward()
    _close(found.detach(), loss)
    _close(ours.reformer.embedding.tokens.weight.grad[0, :5], gradient)
