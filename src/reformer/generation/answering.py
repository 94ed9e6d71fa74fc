"""Questions answered from a document: the best span, or that there is none.

The score of a span is the sum of its ends' logits; the first token's stands for "no answer". All
pages of a document are one softmax of spans, each measured against the "no answer" of its page,
which counts once a page: of more pages, a span must be the further above it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from reformer.data.reading import Page, Reader, batch_of
from reformer.data.rows import in_batches
from reformer.data.tokenizer import ByteTokenizer, JsonTokenizer, PlacedTokens
from reformer.models.question_answering import ReformerForQuestionAnswering

_LONGEST_ANSWER = 256
_TOKENS_PER_PASS = 16384


@dataclass(frozen=True)
class Answer:
    """An answer and its characters ``start`` to ``end`` - 1; empty when there is none."""

    text: str
    start: int
    end: int
    confidence: float
    """The probability of both ends, or of no answer."""


@dataclass(frozen=True)
class _Span:
    """The best span of a page, in tokens of the document."""

    first: int
    last: int
    margin: float
    """Its score above that of no answer."""
    log_total: float
    """The log of the sum over the page's spans, and no answer, of exp(margin)."""


def answer(
    model: ReformerForQuestionAnswering,
    tokenizer: ByteTokenizer | JsonTokenizer,
    document: str,
    question: str,
) -> Answer:
    """The model's answer to a question on a document of any length, in evaluation mode.

    A document longer than the model's sequences is read in pages that overlap. The answer is the
    span that is likeliest on all of them, or none.
    InputError when the question is too long for the model.
    """
    reader = Reader(tokenizer, model.config)
    tokens = reader.document(document)
    return answer_pages(model, reader.pages(reader.question(question), tokens), tokens, document)


@torch.no_grad()
def answer_pages(
    model: ReformerForQuestionAnswering,
    pages: Sequence[Page],
    tokens: PlacedTokens,
    document: str,
) -> Answer:
    """The best answer on the pages of a question, in evaluation mode."""
    spans = [
        span for batch in in_batches(pages, _TOKENS_PER_PASS) for span in _best_spans(model, batch)
    ]
    best = max(spans, key=lambda span: span.margin)
    log_none = math.log(len(spans))
    log_total = float(
        torch.tensor([span.log_total for span in spans], dtype=torch.float64).logsumexp(0)
    )
    if best.margin <= log_none:
        return Answer("", 0, 0, math.exp(log_none - log_total))
    # Where pages overlap, both may hold it.
    same = [s.margin for s in spans if (s.first, s.last) == (best.first, best.last)]
    confidence = sum(math.exp(margin - log_total) for margin in same)
    start, end = int(tokens.starts[best.first]), int(tokens.ends[best.last])
    text = document[start:end]
    start += len(text) - len(text.lstrip())
    text = text.strip()
    return Answer(text, start, start + len(text), confidence)


def _best_spans(model: ReformerForQuestionAnswering, pages: Sequence[Page]) -> list[_Span]:
    device = next(model.parameters()).device
    output = model(**{name: tensor.to(device) for name, tensor in batch_of(pages).items()})
    rows = zip(pages, output.start_logits.double(), output.end_logits.double(), strict=True)
    return [
        _best_span(page, start[: len(page)].cpu(), end[: len(page)].cpu())
        for page, start, end in rows
    ]


def _best_span(page: Page, start_logits: Tensor, end_logits: Tensor) -> _Span:
    begin = page.question_length
    null = float(start_logits[0] + end_logits[0])
    if len(page) == begin:
        return _Span(0, 0, -torch.inf, 0.0)
    first, last = best_span(start_logits[begin:], end_logits[begin:], _LONGEST_ANSWER)
    score = float(start_logits[begin + first] + end_logits[begin + last])
    # Tokens of the question are no answers.
    whole = sum(
        float(torch.cat([logits[:1], logits[begin:]]).logsumexp(0))
        for logits in (start_logits, end_logits)
    )
    return _Span(page.first + first, page.first + last, score - null, whole - null)


def best_span(start_logits: Tensor, end_logits: Tensor, longest: int) -> tuple[int, int]:
    """The first and last of at most ``longest`` tokens with the largest sum of their logits.

    start_logits, end_logits: [L].
    """
    padded = functional.pad(end_logits, (0, longest - 1), value=-torch.inf)
    ends, places = functional.max_pool1d(padded[None], longest, stride=1, return_indices=True)
    first = int((start_logits + ends[0]).argmax())
    return first, int(places[0, first])
