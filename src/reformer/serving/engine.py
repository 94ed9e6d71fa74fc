"""Many requests on one model: continuous batching over cached sequences.

One thread owns the model. Each step it lets waiting requests in, gives every running sequence
its next token, and reads a slice of the prompts that are still being read, all in one pass.
What a request gets does not depend on what runs beside it: tokens are drawn from its own
logits with its own random stream, and with ``batch_invariant`` even the rounding is the same.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from reformer.generation.decode import Continuation
from reformer.generation.extend import new_cache
from reformer.generation.sampling import Sampler
from reformer.models.language import ReformerForCausalLM
from reformer.serving.prefixes import PrefixStore
from reformer.serving.request import (
    BusyError,
    ClosingError,
    Event,
    Failed,
    Finished,
    Request,
    Ticket,
    Token,
)

_logger = logging.getLogger("reformer")


@dataclass(frozen=True)
class EngineSettings:
    """How much the engine does at once."""

    num_slots: int = 8
    """Sequences that run together; several samples of a request take a slot each."""
    queue_length: int = 32
    """Requests that may wait; more are refused."""
    prefill_tokens: int = 512
    """Prompt tokens that are read in one step: how long running sequences wait for a new one."""
    prefix_bytes: int = 512 << 20
    """Memory for finished sequences that later prompts may begin with; 0 keeps none."""
    batch_invariant: bool = False
    """Run every sequence by itself, so that its rounding never depends on its neighbours."""


@dataclass
class Counters:
    """What the engine has done since it began, and what it is doing."""

    requests: int = 0
    refused: int = 0
    cancelled: int = 0
    failed: int = 0
    finished: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    running: int = 0
    waiting: int = 0
    prefix_bytes: int = 0
    step_seconds: float = 0.0


@dataclass(eq=False)
class _Running:
    """One sample of a request; those after the first wait until the prompt has been read."""

    ticket: Ticket
    sample: int
    continuation: Continuation
    waits_for_prompt: bool = False


class Engine:
    """Runs requests until ``close``. ``submit`` may be called from any thread."""

    def __init__(self, model: ReformerForCausalLM, settings: EngineSettings) -> None:
        self.model, self.settings = model.eval(), settings
        self.counters = Counters()
        self._cache = new_cache(model)
        self._prefixes = PrefixStore(0 if settings.batch_invariant else settings.prefix_bytes)
        self._waiting: deque[Ticket] = deque()
        self._running: list[_Running] = []
        self._closing = self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def closing(self) -> bool:
        """Whether no more requests are taken."""
        return self._closing

    def submit(self, request: Request, deliver: Callable[[Event], None]) -> Ticket:
        """Queue a request; BusyError when the queue is full, ClosingError when shutting down."""
        ticket = Ticket(request, deliver)
        with self._changed:
            if self._closing:
                raise ClosingError("the server is shutting down")
            if len(self._waiting) >= self.settings.queue_length:
                self._waiting = deque(t for t in self._waiting if not t.cancelled)
            if len(self._waiting) >= self.settings.queue_length:
                self.counters.refused += 1
                raise BusyError(f"{len(self._waiting)} requests are waiting already")
            self.counters.requests += 1
            self._waiting.append(ticket)
            self.counters.waiting = len(self._waiting)
            self._changed.notify()
        return ticket

    def drain(self) -> None:
        """Take no more requests; those that were taken are finished."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def close(self, timeout: float | None = None) -> None:
        """Stop after the current step; what is unfinished fails."""
        with self._changed:
            self._closing = self._stopping = True
            self._changed.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._running or self._stopping)
                if self._stopping:
                    break
                admitted = self._admit()
            started = time.monotonic()
            for ticket in admitted:
                self._begin(ticket)
            self._drop_what_was_given_up()
            if self._running:
                self._step()
            self.counters.step_seconds += time.monotonic() - started
            self.counters.running = len(self._running)
            self.counters.prefix_bytes = self._prefixes.num_bytes
        for ticket in {run.ticket for run in self._running} | set(self._waiting):
            ticket.deliver(Failed("the server is shutting down"))

    def _admit(self) -> list[Ticket]:
        """Requests that find room, in the order of their arrival."""
        free = self.settings.num_slots - len(self._running)
        admitted = []
        while self._waiting:
            ticket = self._waiting[0]
            needed = 0 if ticket.cancelled else ticket.request.num_samples
            if needed > free:
                break
            free -= needed
            admitted.append(self._waiting.popleft())
        self.counters.waiting = len(self._waiting)
        return admitted

    def _begin(self, ticket: Ticket) -> None:
        if ticket.cancelled:
            self.counters.cancelled += 1
            return
        request = ticket.request
        row = self._prefixes.take(request.prompt) or self._cache.new_row()
        self.counters.prompt_tokens += len(request.prompt)
        self.counters.reused_tokens += len(row)
        for sample in range(request.num_samples):
            sampler = Sampler(request.sampling, self.model.config.vocab_size, request.seed, sample)
            continuation = Continuation(
                row,
                request.prompt[len(row) :],
                sampler,
                max_new_tokens=request.max_new_tokens,
                stop_ids=request.stop_ids,
            )
            self._running.append(_Running(ticket, sample, continuation, sample > 0))

    def _drop_what_was_given_up(self) -> None:
        for ticket in {run.ticket for run in self._running if run.ticket.cancelled}:
            self.counters.cancelled += 1
            self._running = [run for run in self._running if run.ticket is not ticket]
        for run in [run for run in self._running if run.sample in run.ticket.ended]:
            self._retire(run)

    def _step(self) -> None:
        """One pass: a token for every running sequence, a slice of what must be read first."""
        active = [run for run in self._running if not run.waits_for_prompt]
        portions = self._portions(active)
        moved = [run for run in active if portions.get(run)]
        for run, logits in self._read(moved, portions):
            if not run.continuation.pending:
                try:
                    self._draw(run, logits)
                except (ValueError, RuntimeError) as error:  # logits that are not numbers
                    self._fail(run.ticket, error)
        for run in [run for run in self._running if run.continuation.finish_reason is not None]:
            self._retire(run)

    def _portions(self, active: list[_Running]) -> dict[_Running, list[int]]:
        """What each sequence reads in this step: short rests whole, prompts within the limit."""
        portions, room = {}, self.settings.prefill_tokens
        for run in active:
            pending = run.continuation.pending
            if len(pending) == 1:
                portions[run] = pending
            elif room > 0:
                portions[run] = pending[:room]
                # Alone, a prompt is always cut in the same places.
                room -= 0 if self.settings.batch_invariant else len(portions[run])
        return portions

    def _read(
        self, runs: list[_Running], portions: dict[_Running, list[int]]
    ) -> list[tuple[_Running, Tensor]]:
        """Append the portions; each run's logits after its last token.

        When a pass fails, its sequences are tried one by one: only those at fault fail.
        """
        if self.settings.batch_invariant and len(runs) > 1:
            return [pair for run in runs for pair in self._read([run], portions)]
        try:
            batch = self._cache.with_rows(run.continuation.row for run in runs)
            with torch.no_grad():
                hidden = self.model.reformer.append([portions[run] for run in runs], batch)
                ends = torch.tensor([len(portions[run]) for run in runs]).cumsum(0) - 1
                logits = self.model.head(self.model.reformer.norm(hidden[ends]))
        except Exception as error:
            if len(runs) > 1:
                return [pair for run in runs for pair in self._read([run], portions)]
            self._fail(runs[0].ticket, error)
            return []
        for run in runs:
            del run.continuation.pending[: len(portions[run])]
        return list(zip(runs, logits.float().cpu(), strict=True))

    def _draw(self, run: _Running, logits: Tensor) -> None:
        ticket = run.ticket
        if run.sample == 0:
            for other in self._running:
                if other.ticket is ticket and other.waits_for_prompt:
                    other.continuation.row = run.continuation.row.fork()
                    other.continuation.pending, other.waits_for_prompt = [], False
                    self._draw(other, logits)
        token_id = run.continuation.accept(logits)
        self.counters.generated_tokens += 1
        ticket.deliver(_token(run.sample, token_id, logits, ticket.request.num_logprobs))
        if run.continuation.finish_reason is not None:
            self.counters.finished += 1
            ticket.deliver(Finished(run.sample, run.continuation.finish_reason))

    def _retire(self, run: _Running) -> None:
        """A sequence leaves; what it holds may serve later prompts."""
        self._running.remove(run)
        row = run.continuation.row
        if all(other.continuation.row is not row for other in self._running):
            self._prefixes.keep(row)

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        _logger.error("A request failed: %s", error, exc_info=error)
        self.counters.failed += 1
        self._running = [run for run in self._running if run.ticket is not ticket]
        ticket.deliver(Failed(f"the model could not go on: {error}"))


def _token(sample: int, token_id: int, logits: Tensor, num_logprobs: int | None) -> Token:
    if num_logprobs is None:
        return Token(sample, token_id)
    logs = logits.double().log_softmax(-1)
    values, ids = logs.topk(min(num_logprobs, len(logs)))
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return Token(sample, token_id, float(logs[token_id]), top)
