"""What each query sees, and what attention gives for it, from the text of the rules alone.

Python sets and loops over tokens, and plain dense tensors. Shares nothing with
``reformer.ops``: the tests hold the package to this page.
"""

import math
import random
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

Tokens = list[int]


def sorted_tokens(buckets: Tokens, segments: Tokens) -> Tokens:
    """The order: by (segment, bucket, position), padding (a negative segment) last."""

    def place(token: int) -> tuple[float, ...]:
        if segments[token] < 0:
            return (math.inf, token)
        return (segments[token], buckets[token], token)

    return sorted(range(len(buckets)), key=place)


def window_sets(
    rounds: list[Tokens], segments: Tokens, window: int, causal: bool
) -> list[list[set[int]]]:
    """Per round and query: its last W - 1 bucket mates (and next W - 1 when not causal)."""
    sets = []
    for buckets in rounds:
        seen: list[set[int]] = []
        for i, segment in enumerate(segments):
            mates = [
                j
                for j in range(len(segments))
                if segment >= 0 and segments[j] == segment and buckets[j] == buckets[i]
            ]
            earlier = [j for j in mates if j < i]
            later = [] if causal else [j for j in mates if j > i]
            nearest = earlier[max(0, len(earlier) - (window - 1)) :] + later[: window - 1]
            seen.append(set(nearest))
        sets.append(seen)
    return sets


def chunk_occurrences(
    rounds: list[Tokens],
    segments: Tokens,
    chunk: int,
    before: int,
    after: int,
    causal: bool,
    include_self: bool,
) -> list[Counter[int]]:
    """Per query: how often each key stands in its chunk or the neighbours, over all rounds."""
    chunks: list[list[int | None]] = []
    for buckets in rounds:
        places: list[int | None] = [*sorted_tokens(buckets, segments)]
        places += [None] * (-len(places) % chunk)
        chunks += [places[start : start + chunk] for start in range(0, len(places), chunk)]
    occurrences: list[Counter[int]] = [Counter() for _ in segments]
    for g, queries in enumerate(chunks):
        for offset in range(-before, after + 1):
            for j in chunks[(g + offset) % len(chunks)]:
                for i in queries:
                    if i is None or j is None or segments[j] < 0 or segments[i] != segments[j]:
                        continue
                    if (causal and j > i) or (j == i and not include_self):
                        continue
                    occurrences[i][j] += 1
    return occurrences


@dataclass(frozen=True)
class Case:
    """One random call of the attention op and the sets that it must attend to."""

    query: Tensor
    key: Tensor | None
    value: Tensor
    buckets: Tensor  # [B, H, R, L]
    segments: Tensor | None  # [B, L]
    rule: str
    window: int
    causal: bool
    include_self: bool
    before: int
    after: int
    scale: float

    def counts(self) -> tuple[Tensor, Tensor, Tensor]:
        """How often i sees j: per round [B, H, R, L, L], for the softmax [B, H, L, L], and
        bool [B, H, L], which queries saw nobody and so got themselves."""
        batch, heads, rounds, length = self.buckets.shape
        per_round = torch.zeros(batch, heads, rounds, length, length, dtype=torch.float64)
        total = torch.zeros(batch, heads, length, length, dtype=torch.float64)
        for b in range(batch):
            segments = [0] * length if self.segments is None else self.segments[b].tolist()
            for h in range(heads):
                hashed = self.buckets[b, h].tolist()
                if self.rule == "window":
                    self._window_counts(hashed, segments, per_round[b, h], total[b, h])
                else:
                    occurrences = chunk_occurrences(
                        hashed, segments, self.window, self.before, self.after,
                        self.causal, self.include_self,
                    )  # fmt: skip
                    for i, keys in enumerate(occurrences):
                        for j, times in keys.items():
                            total[b, h, i, j] = times
        alone = total.sum(dim=-1) == 0
        total += torch.diag_embed(alone.double())
        return per_round, total, alone

    def _window_counts(
        self, hashed: list[Tokens], segments: Tokens, per_round: Tensor, total: Tensor
    ) -> None:
        for r, sets in enumerate(window_sets(hashed, segments, self.window, self.causal)):
            for i, seen in enumerate(sets):
                if self.include_self:
                    seen.add(i)
                for j in seen:
                    per_round[r, i, j] = 1
                    total[i, j] = 1

    def scores(self) -> Tensor:
        """scale * q_i . k_j; shared keys are the queries brought to unit length."""
        key = self.key
        if key is None:
            width = self.query.shape[-1]
            norm = (self.query.pow(2).sum(dim=-1, keepdim=True) / width + 1e-6).sqrt()
            key = self.query / norm / width**0.5
        return self.scale * torch.einsum("bhid,bhjd->bhij", self.query, key)

    def attend(self) -> tuple[Tensor, Tensor]:
        """One softmax over everything that is seen, as often as it is seen."""
        _, total, _ = self.counts()
        terms = total * (self.scores() - self._top()).exp()
        normalizer = terms.sum(dim=-1)
        out = torch.einsum("bhij,bhjd->bhid", terms / normalizer[..., None], self.value)
        return out, normalizer.log() + self._top()[..., 0]

    def attend_by_rounds(self) -> tuple[Tensor, Tensor]:
        """Paper eq. 16: a softmax per round of scores less log N_ij, joined by logsumexp.

        Window rule only. Queries that see nobody are left to ``attend``.
        """
        per_round, _, alone = self.counts()
        times = per_round.sum(dim=2, keepdim=True)
        scores = self.scores()[:, :, None] - times.clamp(min=1).log()
        scores = scores.masked_fill(per_round == 0, -torch.inf)
        lse = scores.logsumexp(dim=-1)
        partial = (scores - lse.clamp(min=-1e300)[..., None]).exp() @ self.value[:, :, None]
        total = lse.logsumexp(dim=2)
        share = (lse - total.clamp(min=-1e300)[:, :, None]).exp()
        out = (share[..., None] * partial).sum(dim=2)
        expected_out, expected_lse = self.attend()
        return (
            torch.where(alone[..., None], expected_out, out),
            torch.where(alone, expected_lse, total),
        )

    def _top(self) -> Tensor:
        return self.scores().amax(dim=-1, keepdim=True).detach()


def random_case(seed: int, *, rule: str, longest: int = 90) -> Case:
    """A call of any shape and kind; a function of the seed."""
    chance = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    some = min(20, longest)
    length = chance.choice([1, 2, 3, chance.randint(4, some), chance.randint(some, longest)])
    batch, heads = chance.randint(1, 2), chance.randint(1, 3)
    width, rounds = chance.choice([1, 2, 3, 8, 16]), chance.randint(1, 4)
    num_buckets = chance.choice([1, 2, 4, 16])

    def tensor() -> Tensor:
        layout = chance.choice([(0, 1, 2, 3), (0, 2, 1, 3), (3, 0, 1, 2), (1, 2, 3, 0)])
        shape = [(batch, heads, length, width)[axis] for axis in layout]
        inverse = [layout.index(axis) for axis in range(4)]
        flat = torch.randn(shape, generator=generator, dtype=torch.float64)
        return flat.permute(inverse)

    segments = None
    if chance.random() < 0.5:
        cuts = torch.randint(0, 3, (batch, length), generator=generator).sort(dim=-1).values
        padded = torch.arange(length) >= length - chance.randint(0, length // 2)
        segments = torch.where(padded, -1, cuts + chance.choice([0, 5]))
    shared = chance.random() < 0.6
    causal = chance.random() < 0.6
    return Case(
        query=tensor(),
        key=None if shared else tensor(),
        value=tensor(),
        buckets=torch.randint(0, num_buckets, (batch, heads, rounds, length), generator=generator),
        segments=segments,
        rule=rule,
        window=chance.choice([1, 2, 3, 7, 16, 17, chance.randint(1, length + 5)]),
        causal=causal,
        include_self=chance.random() < (0.2 if shared else 0.8),
        before=chance.choice([0, 1, 1, 2, 3]),
        after=chance.choice([0, 0, 1]) if causal else chance.choice([0, 1, 2]),
        scale=chance.choice([1.0, width**-0.5, 3.0]),
    )
