"""What is asked of the engine, and what it answers: token ids, and no HTTP."""

from collections.abc import Callable
from dataclasses import dataclass, field

from reformer.generation.decode import FinishReason
from reformer.generation.sampling import Sampling


class BusyError(RuntimeError):
    """The queue is full: ask again later."""


class ClosingError(RuntimeError):
    """The engine is shutting down and takes no more requests."""


@dataclass(frozen=True)
class Request:
    """``num_samples`` continuations of one prompt. Prompt and limits have been checked."""

    prompt: list[int]
    max_new_tokens: int
    sampling: Sampling
    seed: int = 0
    num_samples: int = 1
    stop_ids: frozenset[int] = frozenset()
    num_logprobs: int | None = None
    """Log-probabilities of this many likeliest tokens beside the drawn one's; None: of none."""


@dataclass(frozen=True)
class Token:
    """A drawn token of one sample. Log-probabilities are the model's own, before sampling."""

    sample: int
    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Finished:
    """One sample has ended."""

    sample: int
    reason: FinishReason


@dataclass(frozen=True)
class Failed:
    """The whole request has ended without a result."""

    reason: str


Event = Token | Finished | Failed


@dataclass(eq=False)
class Ticket:
    """A request in the engine. ``deliver`` is called in the engine's thread."""

    request: Request
    deliver: Callable[[Event], None]
    cancelled: bool = False
    """Set by ``cancel``; the engine stops working on it within a token."""
    ended: set[int] = field(default_factory=set)
    """Samples that their reader has seen enough of, because of a stop string."""

    def cancel(self) -> None:
        """Give the whole request up."""
        self.cancelled = True

    def end(self, sample: int) -> None:
        """Give one sample up."""
        self.ended.add(sample)
