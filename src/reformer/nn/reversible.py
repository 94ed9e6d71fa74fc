"""The reversible stack (paper section 3, "Reversible Transformer").

    y1 = x1 + Attention(Norm(x2)),   y2 = x2 + FeedForward(Norm(y1))

The forward keeps the last streams and a small record per layer. The backward rebuilds
x2 = y2 - FeedForward(Norm(y1)), x1 = y1 - Attention(Norm(x2)) and differentiates one branch
at a time. Each branch is recomputed through its block's own ``__call__``, so module hooks
fire, and parameters receive their gradients directly; ``torch.autograd.grad`` with respect
to parameters inside the stack therefore finds none.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from reformer.config import Layer, ReformerConfig
from reformer.nn.attention import self_attention
from reformer.nn.feed_forward import FeedForward
from reformer.nn.record import LayerRecord
from reformer.nn.streams import ExactStreams, FloatStreams, Streams
from reformer.ops.autocast import AutocastState
from reformer.ops.randomness import derive_seed, dropout

Branch = Literal["attention", "feed_forward"]


class ReversibleBlock(nn.Module):
    """One layer: the attention branch and the feed-forward branch, each behind a norm."""

    def __init__(self, config: ReformerConfig, layer: Layer) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.attention = self_attention(config, layer)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.feed_forward = FeedForward(config)
        self.dropout, self.dropout_shared = config.dropout, config.dropout_shared

    def forward(self, x: Tensor, branch: Branch, record: LayerRecord) -> Tensor:
        """What the branch adds to its stream, given the other stream's value x [B, L, D]."""
        if branch == "attention":
            out = self.attention(self.attention_norm(x), record)
        else:
            out = self.feed_forward(self.feed_forward_norm(x))
        if self.dropout > 0 and record.dropout_seed is not None:
            seed = derive_seed(record.dropout_seed, 1 if branch == "attention" else 2)
            out = dropout(out, self.dropout, shared=self.dropout_shared, seed=seed)
        return out


class _Kept(NamedTuple):
    """A branch's graph: its input, as a leaf, and where its gradient enters."""

    leaf: Tensor
    edge: GradientEdge
    dtype: torch.dtype


def reversible_stack(
    x: Tensor,
    blocks: Sequence[ReversibleBlock],
    records: Sequence[LayerRecord],
    kind: Literal["exact", "float", "stored"],
) -> Tensor:
    """Run the blocks on x [B, L, D], the start of both streams; returns [B, L, 2 D].

    kind: "exact" rebuilds fixed-point streams bit for bit; "float" rebuilds to rounding;
    "stored" computes as "exact" but keeps every activation. The result can be differentiated
    once: the backward consumes the streams.
    """
    streams: Streams = FloatStreams(x.dtype) if kind == "float" else ExactStreams(x.dtype)
    if torch.is_grad_enabled() and not x.requires_grad:
        x = x.detach().requires_grad_()  # frozen embeddings: the blocks still need a backward
    return _ReversibleStack.apply(x, blocks, records, streams, kind == "stored")


class _ReversibleStack(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        blocks: Sequence[ReversibleBlock],
        records: Sequence[LayerRecord],
        streams: Streams,
        stored: bool,
    ) -> Tensor:
        ctx.blocks, ctx.records, ctx.streams = blocks, records, streams
        ctx.autocast = AutocastState.capture(x.device.type)
        ctx.kept = [] if stored and ctx.needs_input_grad[0] else None
        first, second = streams.open(x), streams.open(x)
        for index, (block, record) in enumerate(zip(blocks, records, strict=True)):
            for branch, source, target in _branches(first, second):
                leaf, out = _run(block, branch, record, streams.read(source), ctx.kept is not None)
                streams.add(target, out.detach(), f"the {branch} of layer {index}")
                if ctx.kept is not None:
                    ctx.kept.append(_Kept(leaf, get_gradient_edge(out), out.dtype))
                del leaf, out  # before the next branch is computed
        ctx.first, ctx.second = first, second
        return torch.cat((streams.read(first), streams.read(second)), dim=-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.first is None:
            raise RuntimeError(
                "this forward pass was differentiated before and its streams are spent: "
                "run the model again for a second backward"
            )
        first, second = ctx.first, ctx.second
        ctx.first = ctx.second = None
        width = first.shape[-1]
        # Own copies: both are updated in place.
        grad_first, grad_second = (g.clone() for g in grads[0].split(width, dim=-1))
        for block, record in zip(reversed(ctx.blocks), reversed(ctx.records), strict=True):
            steps = zip(_branches(first, second), _branches(grad_first, grad_second), strict=True)
            for (branch, source, target), (_, grad_source, grad_target) in reversed(list(steps)):
                if ctx.kept is not None:
                    leaf, edge, dtype = ctx.kept.pop()
                else:
                    with ctx.autocast.restore():
                        leaf, out = _run(block, branch, record, ctx.streams.read(source), True)
                    ctx.streams.subtract(target, out.detach())
                    edge, dtype = get_gradient_edge(out), out.dtype
                    del out  # nothing in the backward reads it
                torch.autograd.backward(edge, grad_target.to(dtype))
                if leaf.grad is not None:
                    grad_source += leaf.grad
                del leaf, edge  # before the next branch is computed
        return grad_first.add_(grad_second), None, None, None, None


def _branches(first: Tensor, second: Tensor) -> list[tuple[Branch, Tensor, Tensor]]:
    """(branch, the stream it reads, the stream it adds to), in forward order."""
    return [("attention", second, first), ("feed_forward", first, second)]


def _run(
    block: ReversibleBlock, branch: Branch, record: LayerRecord, x: Tensor, with_graph: bool
) -> tuple[Tensor, Tensor]:
    """The branch's input, as a leaf, and its output."""
    with torch.set_grad_enabled(with_graph):
        leaf = x.requires_grad_(with_graph)
        return leaf, block(leaf, branch, record)
