"""Encoder and decoder: one sequence read from both sides, another one written from it.

The encoder is a reversible stack of any layers over the source; its normed output, the memory
[B, S, F], is what every block of the decoder attends to. Both share one embedding. The backward
of the decoder sums up the memory's gradient over its blocks, so the encoder runs backward once,
and nothing is kept per layer on either side (Kitaev et al., 2020, section 5, "machine
translation").
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from reformer.config import ConfigError, ReformerConfig
from reformer.models.language_head import LanguageModelOutput, language_head
from reformer.models.pretrained import PretrainedReformer
from reformer.models.reformer import Reformer, final_norm
from reformer.nn.cache import ProjectedMemory
from reformer.nn.decoder import DecoderBlock
from reformer.nn.record import Memory
from reformer.nn.reversible import ReversibleBlock
from reformer.ops.randomness import derive_seed
from reformer.ops.sliced import chunked_cross_entropy


class EncoderDecoder(Reformer):
    """Source and target ids to the decoder's final streams, side by side [B, T, 2 D]."""

    block = DecoderBlock

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__(config)
        self.encoder_config = encoder_config(config)
        self.encoder = nn.ModuleList(
            ReversibleBlock(self.encoder_config, layer) for layer in self.encoder_config.layers
        )
        self.encoder_norm = final_norm(config)

    def forward(
        self,
        input_ids: Tensor,
        *,
        segment_ids: Tensor | None = None,
        positions: Tensor | None = None,
        draw: int | None = None,
        source_ids: Tensor | None = None,
        source_segment_ids: Tensor | None = None,
    ) -> Tensor:
        """Run both stacks.

        input_ids: int64 [B, T], what the decoder reads; source_ids: int64 [B, S], what the encoder
        reads; source_segment_ids: [B, S], negative for padding, which nobody sees, else 0. T and S
        are from 1 to max_length. segment_ids, positions, draw: as in ``Reformer.forward``.
        """
        if source_ids is None:
            raise ValueError("source_ids is missing: an encoder needs something to read")
        if len(source_ids) != len(input_ids):
            raise ValueError(
                f"there are {len(source_ids)} sources and {len(input_ids)} targets: each needs one"
            )
        memory = self.encode(source_ids, source_segment_ids, draw)
        return self.through(
            self.blocks, self.config, input_ids, segment_ids, positions, draw, memory
        )

    def encode(
        self, source_ids: Tensor, segment_ids: Tensor | None = None, draw: int | None = None
    ) -> Memory:
        """The encoder's output, with each row's padding marked."""
        is_token = None if segment_ids is None else segment_ids >= 0
        if is_token is not None and not bool(is_token.any(dim=1).all()):
            raise ValueError("a source is nothing but padding: give each at least one token")
        hidden = self.through(
            self.encoder, self.encoder_config, source_ids, segment_ids, None, draw
        )
        return Memory(self.encoder_norm(hidden), is_token)

    @torch.no_grad()
    def remember(self, source_ids: Sequence[int]) -> tuple[ProjectedMemory, ...]:
        """What each layer of the decoder reads of a source, once for all tokens that it writes:
        the ``memory`` of a cached sequence. As in evaluation, without dropout."""
        ids = torch.tensor([list(source_ids)], device=self.norm.weight.device)
        hidden = self.encode(ids).hidden[0]
        blocks = cast("list[DecoderBlock]", list(self.blocks))
        return tuple(block.cross_attention.project(hidden) for block in blocks)


def encoder_config(config: ReformerConfig) -> ReformerConfig:
    """The encoder's own config: its layers, both sides, hash rotations and dropout of its own."""
    if config.encoder_layers is None:
        raise ConfigError("encoder_layers is None: an encoder-decoder needs layers for its encoder")
    seed = derive_seed(config.seed, _ENCODER) % 2**31
    layers = config.encoder_layers
    return replace(config, layers=layers, encoder_layers=None, causal=False, seed=seed)


_ENCODER = 1
"""Names the encoder's draws apart from the decoder's."""


class ReformerEncoderDecoder(PretrainedReformer):
    """Predicts each token of a target from a source and the target's tokens before it.

    The last id of the vocabulary, ``mark``, ends sources and targets, and begins what the decoder
    reads: tokenizers of vocab_size - 1 ids never write it.
    """

    trunk = EncoderDecoder
    reformer: EncoderDecoder

    @classmethod
    def build_head(cls, config: ReformerConfig) -> nn.Module:
        if not config.causal:
            raise ConfigError("causal is False: a decoder needs causal=True")
        return language_head(config)

    @property
    def mark(self) -> int:
        """The id that ends a sequence, and that the decoder starts from."""
        return self.config.vocab_size - 1

    def forward(
        self,
        input_ids: Tensor,
        target_ids: Tensor,
        labels: Tensor | None = None,
        *,
        segment_ids: Tensor | None = None,
        draw: int | None = None,
    ) -> LanguageModelOutput:
        """Logits, or the loss when labels are given.

        input_ids: int64 [B, S], the sources; segment_ids: [B, S], 0, or -1 for padding.
        target_ids: int64 [B, T]; the decoder reads the mark and all but the last of them, so that
        logits[:, t] are those of target_ids[:, t]; padding comes last and may be any id. labels:
        [B, T], aligned with target_ids; -100 does not count. The loss is the mean in nats, computed
        in slices: the logits never exist as a whole. draw: see ``ReformerForCausalLM``.
        """
        read = torch.full_like(target_ids, self.mark)
        read[:, 1:] = target_ids[:, :-1]
        hidden = self.reformer(
            read, draw=self._draw(draw), source_ids=input_ids, source_segment_ids=segment_ids
        )
        if labels is None:
            return LanguageModelOutput(logits=self._logits(hidden))
        if labels.shape != target_ids.shape:
            raise ValueError(
                f"labels is {list(labels.shape)}: it must match target_ids {list(target_ids.shape)}"
            )
        loss = chunked_cross_entropy(
            self._logits,
            hidden.flatten(0, 1),
            labels.flatten(),
            self.config.slice_length,
            [*self.reformer.norm.parameters(), *self.head.parameters()],
        )
        return LanguageModelOutput(loss=loss)

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.head(self.reformer.norm(hidden))
