"""Causal language model: the trunk, a norm over both streams, and a linear head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor, nn

from reformer.config import ConfigError, ReformerConfig
from reformer.models.language_head import LanguageModelOutput, language_head
from reformer.models.pretrained import PretrainedReformer
from reformer.ops.sliced import IGNORED_LABEL, chunked_cross_entropy

if TYPE_CHECKING:
    from reformer.generation.completions import GenerationSettings, Prompt


class ReformerForCausalLM(PretrainedReformer):
    """Predicts each token from the tokens before it."""

    @classmethod
    def build_head(cls, config: ReformerConfig) -> nn.Module:
        if not config.causal:
            raise ConfigError("causal is False: a causal language model needs causal=True")
        return language_head(config)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        *,
        segment_ids: Tensor | None = None,
        positions: Tensor | None = None,
        draw: int | None = None,
    ) -> LanguageModelOutput:
        """Logits, or the loss when labels are given.

        input_ids: [B, L]; segment_ids, positions: see ``Reformer.forward``. labels: [B, L],
        aligned with input_ids: labels[:, t] is predicted from the tokens before t; -100, the
        first token, padding and the first token of a segment do not count. The loss is the
        mean in nats, computed in slices: the logits never exist as a whole.
        draw: in training mode, names the dropout masks and hash rotations; by default the
        model counts its training passes. Ignored in evaluation mode.
        """
        hidden = self.reformer(
            input_ids, segment_ids=segment_ids, positions=positions, draw=self._draw(draw)
        )
        if labels is None:
            return LanguageModelOutput(logits=self._logits(hidden))
        targets = _next_tokens(input_ids, labels, segment_ids)
        loss = chunked_cross_entropy(
            self._logits,
            hidden.flatten(0, 1),
            targets.flatten(),
            self.config.slice_length,
            [*self.reformer.norm.parameters(), *self.head.parameters()],
        )
        return LanguageModelOutput(loss=loss)

    def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        *,
        num_samples: int = 1,
        num_beams: int | None = None,
        length_penalty: float = 1.0,
        **settings: Unpack[GenerationSettings],
    ) -> Any:
        """Completions of a prompt: ``num_samples`` of them, each with its ids and its text.

        prompt: token ids, a list or a tensor [L]; or text, with ``tokenizer``. A list of prompts
        or a tensor [B, L] gives such a list for each; nothing depends on what else is there.
        settings: max_new_tokens (100), temperature (1; 0 is greedy), top_k, top_p, min_p,
        repetition_penalty, seed (0), stop_ids, tokenizer, stop (strings, with a tokenizer).
        num_beams: search for the likeliest completions, best first, instead of drawing;
        length_penalty: their scores are divided by length^length_penalty.
        """
        from reformer.generation.completions import complete

        return complete(
            self, prompt, num_samples, num_beams, length_penalty=length_penalty, settings=settings
        )

    def stream(
        self,
        prompt: Prompt,
        **settings: Unpack[GenerationSettings],
    ) -> Iterator[Any]:
        """The first completion of ``generate`` as it is written.

        Pieces of text with ``tokenizer``, token ids without; prompt and settings as there.
        """
        from reformer.generation.completions import stream

        return stream(self, prompt, settings)

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.head(self.reformer.norm(hidden))


def _next_tokens(input_ids: Tensor, labels: Tensor, segment_ids: Tensor | None) -> Tensor:
    """The label that each position predicts: the next one, within its segment."""
    if labels.shape != input_ids.shape:
        raise ValueError(
            f"labels is {list(labels.shape)}: it must match input_ids {list(input_ids.shape)}"
        )
    targets = torch.full_like(labels, IGNORED_LABEL)
    targets[:, :-1] = labels[:, 1:]
    if segment_ids is not None:
        same = (segment_ids[:, 1:] == segment_ids[:, :-1]) & (segment_ids[:, 1:] >= 0)
        targets[:, :-1][~same] = IGNORED_LABEL
    return targets
