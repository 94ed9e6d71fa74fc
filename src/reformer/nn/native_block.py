"""A block as the native kernel takes it, put together once and looked over for every token.

For a single token a layer's arithmetic takes less time than Python needs to find a dozen tensors
in its modules. What was found is kept, for as long as the modules hold the very same things.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from reformer.nn.attention import FullSelfAttention, LSHSelfAttention
from reformer.nn.reversible import ReversibleBlock
from reformer.nn.streams import ExactStreams
from reformer.ops.append_layer import LayerTensors


class _Held(NamedTuple):
    """Something by its name in a module's dictionary of parts."""

    holder: Mapping[str, Any]
    name: str
    thing: object


class _NativeBlock(NamedTuple):
    """What a block was when it was looked through."""

    layer: LayerTensors | None
    """None: it is more than its weights, or these are not the kernel's kind."""
    held: Sequence[_Held]
    hooks: Sequence[Mapping[int, Any]]
    had_hooks: bool
    addresses: Sequence[tuple[Tensor, int]]

    def is_current(self) -> bool:
        return (
            all(holder.get(name) is thing for holder, name, thing in self.held)
            and all(weight.data_ptr() == address for weight, address in self.addresses)
            and any(self.hooks) == self.had_hooks
        )


_known: WeakKeyDictionary[ReversibleBlock, _NativeBlock] = WeakKeyDictionary()


def native_layer(block: ReversibleBlock) -> LayerTensors | None:
    """The block for ``ops.append_layer``; None where it is more than its weights.

    Hooks, modules and weights of another kind, also those set after the last call, are seen.
    """
    known = _known.get(block)
    if known is None or not known.is_current():
        known = _known[block] = _look_through(block)
    return known.layer


def _look_through(block: ReversibleBlock) -> _NativeBlock:
    modules = list(block.modules())
    weights = [weight for module in modules for weight in module._parameters.values()]
    held = [
        _Held(parts, name, thing)
        for module in modules
        for parts in (module._modules, module._parameters)
        for name, thing in parts.items()
    ]
    for module, name in ((block.attention, "layer"), (block.feed_forward, "activation")):
        held.append(_Held(vars(module), name, getattr(module, name)))
    hooks = [hooks for m in modules for hooks in (m._forward_hooks, m._forward_pre_hooks)]
    had_hooks = any(hooks)
    is_plain = _is_plain(block) and not had_hooks and all(map(_is_plain_weight, weights))
    layer = _layer_tensors(block) if is_plain else None
    addresses = [(weight, weight.data_ptr()) for weight in weights if weight is not None]
    return _NativeBlock(layer, held, hooks, had_hooks, addresses)


def _is_plain(block: ReversibleBlock) -> bool:
    attention, feed_forward = block.attention, block.feed_forward
    linears = [*attention.children(), *feed_forward.children()]
    return (
        block.branches == ReversibleBlock.branches
        and feed_forward.activation in (functional.gelu, torch.relu_)
        and all(type(linear) is nn.Linear for linear in linears)
    )


def _is_plain_weight(weight: Tensor | None) -> bool:
    return weight is None or (
        weight.dtype == torch.float32 and weight.device.type == "cpu" and weight.is_contiguous()
    )


def _layer_tensors(block: ReversibleBlock) -> LayerTensors:
    attention, feed_forward = block.attention, block.feed_forward
    if isinstance(attention, LSHSelfAttention):
        query, key, scale = attention.query_key.weight, None, attention.layer.score_scale
    else:
        query, key = attention.query.weight, attention.key.weight
        scale = attention.head_size**-0.5
    if isinstance(attention, FullSelfAttention):
        window = attention.max_length
    else:
        window = attention.layer.window_length
    return LayerTensors(
        attention_norm_weight=block.attention_norm.weight,
        attention_norm_bias=block.attention_norm.bias,
        query=query,
        key=key,
        value=attention.value.weight,
        output=attention.output.weight,
        feed_forward_norm_weight=block.feed_forward_norm.weight,
        feed_forward_norm_bias=block.feed_forward_norm.bias,
        inner_weight=feed_forward.inner.weight,
        inner_bias=feed_forward.inner.bias,
        outer_weight=feed_forward.output.weight,
        outer_bias=feed_forward.output.bias,
        num_heads=attention.num_heads,
        head_size=attention.head_size,
        window_length=window,
        scale=scale,
        values=getattr(attention.layer, "values", "own"),
        rotary_base=getattr(attention.layer, "rotary_base", None),
        norm_epsilon=block.attention_norm.eps,
        is_relu=feed_forward.activation is torch.relu_,
        unit=ExactStreams(torch.float32).unit,
    )
