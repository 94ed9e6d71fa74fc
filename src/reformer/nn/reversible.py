"""The reversible stack (paper section 3, "Reversible Transformer").

    y1 = x1 + Attention(Norm(x2)),   y2 = x2 + FeedForward(Norm(y1))

The branches of a stack alternate: each reads the stream that the one before has written, and adds
to the other. A decoder's blocks have three, so that every other block has the streams swapped.

The forward keeps the last streams and a small record per layer. The backward rebuilds
x2 = y2 - FeedForward(Norm(y1)), x1 = y1 - Attention(Norm(x2)) and differentiates one branch
at a time. What all branches share, an encoder's output, gets one gradient, their sum: the encoder
runs backward once. Each branch is recomputed through its block's own ``__call__``, so module hooks
fire, and parameters receive their gradients directly; ``torch.autograd.grad`` with respect
to parameters inside the stack therefore finds none.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from reformer.config import Layer, ReformerConfig
from reformer.nn.attention import self_attention
from reformer.nn.cache import LayerGrowth
from reformer.nn.feed_forward import FeedForward
from reformer.nn.record import LayerRecord, Memory
from reformer.nn.streams import ExactStreams, FloatStreams, Streams
from reformer.ops.autocast import AutocastState
from reformer.ops.randomness import derive_seed, dropout

Branch = Literal["attention", "cross_attention", "feed_forward"]
_DROPOUT: dict[Branch, int] = {"attention": 1, "feed_forward": 2, "cross_attention": 3}
"""Names the dropout masks of each branch."""


class ReversibleBlock(nn.Module):
    """One layer: the attention branch and the feed-forward branch, each behind a norm.

    Subclasses add branches: a module with the branch's name, and its norm, NAME_norm.
    """

    branches: tuple[Branch, ...] = ("attention", "feed_forward")

    def __init__(self, config: ReformerConfig, layer: Layer) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.attention = self_attention(config, layer)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.feed_forward = FeedForward(config)
        self.dropout, self.dropout_shared = config.dropout, config.dropout_shared

    def forward(self, x: Tensor, branch: Branch, record: LayerRecord) -> Tensor:
        """What the branch adds to its stream, given the other stream's value x [B, L, D]."""
        return self._drop(self.run(x, branch, record), branch, record)

    def _drop(self, out: Tensor, branch: Branch, record: LayerRecord) -> Tensor:
        """Dropout of the branch's output, or of the gradient that comes back to it."""
        if self.dropout == 0 or record.dropout_seed is None:
            return out
        seed = derive_seed(record.dropout_seed, _DROPOUT[branch])
        return dropout(out, self.dropout, shared=self.dropout_shared, seed=seed)

    def run(self, x: Tensor, branch: Branch, record: LayerRecord) -> Tensor:
        """The branch without dropout."""
        if branch == "attention":
            return self.attention(self.attention_norm(x), record)
        return self.feed_forward(self.feed_forward_norm(x), self._expected_gradient(x, record))

    def _expected_gradient(self, x: Tensor, record: LayerRecord) -> Tensor | None:
        """What will come back to the feed-forward layer, where that is known and of use."""
        if record.gradient is None or not self.feed_forward.is_sliced(x):
            return None
        return self._drop(record.gradient, "feed_forward", record)

    def append(self, x: Tensor, branch: Branch, growth: LayerGrowth) -> Tensor:
        """The branch on new tokens of cached sequences, packed end to end: [T, D] to [T, D]."""
        if branch == "attention":
            return self.attention.append(self.attention_norm(x), growth)
        return self.feed_forward(self.feed_forward_norm(x))


class Step(NamedTuple):
    """One branch of a stack: its layer, the stream that it reads and the one that it adds to."""

    layer: int
    branch: Branch
    source: int
    target: int


def steps(blocks: Sequence[ReversibleBlock]) -> list[Step]:
    """All branches of the blocks in forward order."""
    names = [(layer, branch) for layer, block in enumerate(blocks) for branch in block.branches]
    return [Step(*name, (place + 1) % 2, place % 2) for place, name in enumerate(names)]


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
    memory: Memory | None = None,
) -> Tensor:
    """Run the blocks on x [B, L, D], the start of both streams; returns [B, L, 2 D].

    kind: "exact" rebuilds fixed-point streams bit for bit; "float" rebuilds to rounding;
    "stored" computes as "exact" but keeps every activation. memory: what a decoder's blocks attend
    to. The result can be differentiated once: the backward consumes the streams.
    """
    streams: Streams = FloatStreams(x.dtype) if kind == "float" else ExactStreams(x.dtype)
    if torch.is_grad_enabled() and not x.requires_grad:
        x = x.detach().requires_grad_()  # frozen embeddings: the blocks still need a backward
    handed: list[Tensor] = []
    hidden, is_token = memory or (None, None)
    out: Tensor = _ReversibleStack.apply(
        x, hidden, is_token, blocks, records, streams, kind == "stored", handed
    )
    if out.grad_fn is not None:
        out.grad_fn.register_prehook(partial(_take_gradient, handed))
    return out


def _take_gradient(handed: list[Tensor], grads: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Keep the gradient [B, L, 2 D], and give autograd one without memory to hold instead.

    Autograd holds what it passes to a backward until that returns, here two streams' worth that
    is of no use after the last layer. Hooks on the tensor itself have seen the real gradient.
    """
    handed.append(grads[0])
    return (grads[0].new_zeros(()).expand(grads[0].shape),)


class _ReversibleStack(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        hidden: Tensor | None,
        is_token: Tensor | None,
        blocks: Sequence[ReversibleBlock],
        records: Sequence[LayerRecord],
        streams: Streams,
        stored: bool,
        handed: list[Tensor],
    ) -> Tensor:
        ctx.handed = handed
        ctx.blocks, ctx.records, ctx.streams = blocks, records, streams
        ctx.autocast = AutocastState.capture(x.device.type)
        ctx.kept = [] if stored and ctx.needs_input_grad[0] else None
        ctx.hidden = None
        if hidden is not None:
            # One leaf for all branches: each adds its part to the leaf's gradient.
            ctx.hidden = hidden.detach().requires_grad_(ctx.needs_input_grad[1])
            for record in records:
                record.memory = Memory(ctx.hidden, is_token)
        pair = [streams.open(x), streams.open(x)]
        for layer, branch, source, target in steps(blocks):
            x = streams.read(pair[source])
            leaf, out = _run(blocks[layer], branch, records[layer], x, ctx.kept is not None)
            streams.add(pair[target], out.detach(), f"the {branch} of layer {layer}")
            if ctx.kept is not None:
                ctx.kept.append(_Kept(leaf, get_gradient_edge(out), out.dtype))
            del x, leaf, out  # before the next branch is computed
        ctx.pair = pair
        return torch.cat([streams.read(stream) for stream in pair], dim=-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.pair is None:
            raise RuntimeError(
                "this forward pass was differentiated before and its streams are spent: "
                "run the model again for a second backward"
            )
        pair, ctx.pair = ctx.pair, None
        # Views of a tensor that others may hold: each is replaced, never changed.
        totals = list(ctx.handed.pop().split(pair[0].shape[-1], dim=-1))
        for layer, branch, source, target in reversed(steps(ctx.blocks)):
            if ctx.kept is not None:
                leaf, edge, dtype = ctx.kept.pop()
            else:
                record = ctx.records[layer]
                record.gradient = totals[target]
                with ctx.autocast.restore():
                    x = ctx.streams.read(pair[source])
                    leaf, out = _run(ctx.blocks[layer], branch, record, x, True)
                record.gradient = None
                ctx.streams.subtract(pair[target], out.detach())
                edge, dtype = get_gradient_edge(out), out.dtype
                del x, out  # nothing in the backward reads the output
            torch.autograd.backward(edge, totals[target].to(dtype))
            if leaf.grad is not None:
                totals[source] = leaf.grad.add_(totals[source])
            del leaf, edge  # before the next branch is computed
        of_memory = None if ctx.hidden is None else ctx.hidden.grad
        return totals[0] + totals[1], of_memory, None, None, None, None, None, None


def _run(
    block: ReversibleBlock, branch: Branch, record: LayerRecord, x: Tensor, with_graph: bool
) -> tuple[Tensor, Tensor]:
    """The branch's input, as a leaf, and its output."""
    with torch.set_grad_enabled(with_graph):
        leaf = x.requires_grad_(with_graph)
        return leaf, block(leaf, branch, record)
