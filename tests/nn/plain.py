"""The whole model as plain residual maths, with every activation kept by autograd.

Reads the parameters by name and shares no module with ``reformer.nn`` or ``reformer.models``;
attention itself comes from ``reformer.ops``, which has its own oracle.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from reformer.config import LSH, Full, Local, ReformerConfig
from reformer.nn.record import hash_seed
from reformer.ops.hashing import default_num_buckets
from reformer.ops.lsh_attention import local_attention, lsh_attention
from reformer.ops.positions import rotate

Parameters = dict[str, Tensor]


def plain_logits(
    config: ReformerConfig, p: Parameters, input_ids: Tensor, segment_ids: Tensor | None = None
) -> Tensor:
    """y1 = x1 + Attention(Norm(x2)), y2 = x2 + FeedForward(Norm(y1)); Norm(concat), head."""
    first = second = embed(config, p, input_ids)
    for index in range(len(config.layers)):
        block = {
            name.removeprefix(f"reformer.blocks.{index}."): tensor
            for name, tensor in p.items()
            if name.startswith(f"reformer.blocks.{index}.")
        }
        first = first + attention(
            config, block, index, norm(config, block, "attention_norm", second), segment_ids
        )
        inner = linear(block, "feed_forward.inner", norm(config, block, "feed_forward_norm", first))
        gelu = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        second = second + linear(block, "feed_forward.output", gelu)
    top = {name.removeprefix("reformer."): tensor for name, tensor in p.items()}
    return linear(p, "head", norm(config, top, "norm", torch.cat([first, second], dim=-1)))


def embed(config: ReformerConfig, p: Parameters, input_ids: Tensor) -> Tensor:
    rows, columns = (p[f"reformer.embedding.positions.tables.{axis}"] for axis in (0, 1))
    places = range(input_ids.shape[1])
    width = columns.shape[0]
    positions = torch.stack([torch.cat([rows[t // width], columns[t % width]]) for t in places])
    return p["reformer.embedding.tokens.weight"][input_ids] + positions


def norm(config: ReformerConfig, p: Parameters, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    deviation = (centred.square().mean(dim=-1, keepdim=True) + config.norm_epsilon).sqrt()
    return centred / deviation * p[f"{name}.weight"] + p[f"{name}.bias"]


def linear(p: Parameters, name: str, x: Tensor) -> Tensor:
    out = x @ p[f"{name}.weight"].T
    return out + p[f"{name}.bias"] if f"{name}.bias" in p else out


def attention(
    config: ReformerConfig, p: Parameters, index: int, x: Tensor, segment_ids: Tensor | None
) -> Tensor:
    batch, length, _ = x.shape

    def heads(name: str) -> Tensor:
        flat = linear(p, f"attention.{name}", x)
        return flat.view(batch, length, config.num_heads, config.head_size).transpose(1, 2)

    layer = config.layers[index]
    if isinstance(layer, LSH):
        out = lsh_attention(
            heads("query_key"), heads("value"), num_hashes=layer.num_hashes,
            window_length=layer.window_length, seed=hash_seed(config, index),
            num_buckets=default_num_buckets(config.max_length, layer.window_length),
            segment_ids=segment_ids, causal=config.causal, backend="reference",
        )  # fmt: skip
    else:
        query, key, value = heads("query"), heads("key"), heads("value")
        if layer.rotary_base is not None:
            query, key = (rotate(t, torch.arange(length), layer.rotary_base) for t in (query, key))
        out = exact_or_local(layer, query, key, value, segment_ids, config.causal)
    return linear(p, "attention.output", out.transpose(1, 2).reshape(batch, length, -1))


def exact_or_local(
    layer: Local | Full,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segment_ids: Tensor | None,
    causal: bool,
) -> Tensor:
    length = query.shape[2]
    if isinstance(layer, Full) and segment_ids is None:
        return functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
    return local_attention(
        query, key, value, segment_ids=segment_ids, causal=causal, backend="reference",
        window_length=length if isinstance(layer, Full) else layer.window_length,
    )  # fmt: skip
