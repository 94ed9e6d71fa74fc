"""A conversation with a model, which reads each message once however long the conversation is.

The cache holds the conversation's tokens. Before a turn it is brought in line with what the
conversation should be: a common beginning stays, the rest is taken back and read anew. Undoing
turns, another system message and loaded conversations all follow from that.
"""

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

from reformer.data.chat_template import NAMES_ARE, ChatEncoder, Message, is_name, read_messages
from reformer.data.files import InputError
from reformer.generation.decode import Continuation, advance
from reformer.generation.extend import extend, new_cache
from reformer.generation.sampling import Sampler, Sampling
from reformer.generation.text import WrittenText
from reformer.models.language import ReformerForCausalLM


class ChatError(ValueError):
    """Something that this conversation cannot do; the message says why."""


class Turn(NamedTuple):
    """A message and the ids that it was written or read as."""

    message: Message
    token_ids: list[int]


class Chat:
    """A conversation. ``forgotten`` counts the oldest messages that no longer fit the model;
    ``name`` is who answers, where the model has learned several."""

    def __init__(
        self,
        model: ReformerForCausalLM,
        encoder: ChatEncoder,
        *,
        sampling: Sampling | None = None,
        max_new_tokens: int = 500,
        seed: int = 0,
    ) -> None:
        self.model, self.encoder = model.eval(), encoder
        self.sampling, self.seed = sampling or Sampling(), seed
        self.max_new_tokens = min(max_new_tokens, max(1, model.config.max_length // 2))
        self.turns: list[Turn] = []
        self.system: Turn | None = None
        self.name: str | None = None
        self.forgotten = 0
        self._cache = new_cache(model)
        self._row = self._cache.new_row()

    @property
    def messages(self) -> list[Message]:
        """The whole conversation, the system message first, forgotten messages too."""
        system = [] if self.system is None else [self.system.message]
        return system + [turn.message for turn in self.turns]

    def reply(self, content: str) -> Generator[str, None, None]:
        """Say something, and get the answer piece by piece.

        ChatError when the message alone is longer than the model can take. An answer that is
        not read to its end counts as far as it was read.
        """
        asked = self._turn(Message("user", content))
        self._require_room(asked)
        self.turns.append(asked)
        try:
            self._forget_what_does_not_fit()
        except ChatError:
            self.turns.pop()
            raise
        return self._answer()

    def _answer(self) -> Generator[str, None, None]:
        name = self.name
        pending = self._catch_up()
        written = WrittenText(self.encoder.tokenizer)
        end = self.encoder.markers["end"]
        continuation = Continuation(
            self._row,
            pending,
            Sampler(self.sampling, self.model.config.vocab_size, self.seed, len(self.turns)),
            max_new_tokens=self.max_new_tokens,
            stop_ids=self.encoder.markers.values(),
        )
        try:
            while continuation.finish_reason is None:
                (token_id,) = advance(self.model, self._cache, [continuation])
                if token_id not in self.encoder.markers.values():
                    yield written.feed(token_id)
            yield written.finish()
        finally:
            ids = continuation.output
            if continuation.finish_reason == "stop":
                ids = ids[:-1]
            text = written.text if name is None else written.text.removeprefix(" ")
            answer = Message("assistant", text, name)
            self.turns.append(Turn(answer, [*self.encoder.answer(name), *ids, end]))

    def answer_as(self, name: str | None) -> None:
        """Who says the answers from now on; None: whoever the model chooses."""
        if name is not None and not is_name(name):
            raise ChatError(f"the name is {name!r}: {NAMES_ARE}")
        self.name = name

    def undo(self) -> None:
        """Take back the last message from the user and everything after it."""
        asked = [n for n, turn in enumerate(self.turns) if turn.message.role == "user"]
        if not asked:
            raise ChatError("there is nothing to undo")
        del self.turns[asked[-1] :]
        self.forgotten = min(self.forgotten, len(self.turns))

    def set_system(self, content: str) -> None:
        """Replace the system message; an empty one takes it away. The past is read anew."""
        turn = self._turn(Message("system", content)) if content else None
        if turn is not None:
            self._require_room(turn)
        self.system = turn

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the conversation as JSON, in the form that dialogue training reads."""
        values = {"messages": [_plain(message) for message in self.messages]}
        part = Path(f"{os.fspath(path)}.part")
        try:
            part.write_text(json.dumps(values, ensure_ascii=False) + "\n", encoding="utf-8")
            os.replace(part, path)
        except OSError as error:
            raise ChatError(f"cannot write {path}: {error.strerror}") from error

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on with a saved conversation instead of this one."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            messages = read_messages(values["messages"])
        except OSError as error:
            raise ChatError(f"cannot read {path}: {error.strerror}") from error
        except (InputError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise ChatError(f"{path} is not a conversation: {error}") from error
        turns = [self._turn(message) for message in messages]
        systems = [turn for turn in turns if turn.message.role == "system"]
        self.system = systems[-1] if systems else None
        self.turns = [turn for turn in turns if turn.message.role != "system"]
        self.forgotten = 0

    def _turn(self, message: Message) -> Turn:
        return Turn(message, self.encoder.message(message))

    def _fixed(self) -> list[int]:
        """What a conversation begins with, however much of it is forgotten."""
        return self.encoder.start() + ([] if self.system is None else self.system.token_ids)

    def _room(self) -> int:
        """Tokens that messages may take: the answer, and what it begins with, must fit too."""
        taken = self.max_new_tokens + len(self.encoder.answer(self.name))
        return self.model.config.max_length - taken

    def _require_room(self, turn: Turn) -> None:
        fixed = self.encoder.start() if turn.message.role == "system" else self._fixed()
        spare = self._room() - len(fixed)
        if len(turn.token_ids) > spare:
            raise ChatError(
                f"the {turn.message.role} message has {len(turn.token_ids)} tokens, and this "
                f"model has room for {max(0, spare)}: say less"
            )

    def _forget_what_does_not_fit(self) -> None:
        """Leave out whole turns, the oldest first: down to half the room, so that it is rare."""
        fixed = len(self._fixed())
        sizes = [len(turn.token_ids) for turn in self.turns]
        total = fixed + sum(sizes[self.forgotten :])
        if total <= self._room():
            return
        while total > self._room() // 2 and self.forgotten < len(self.turns) - 1:
            total -= sizes[self.forgotten]
            self.forgotten += 1
        if total > self._room():
            raise ChatError(
                f"the system message and the latest message have {total} tokens together, and "
                f"this model has room for {self._room()}: say less"
            )

    def _catch_up(self) -> list[int]:
        """Bring the cache in line with the conversation; the ids that are still to be read."""
        wanted = self._fixed()
        for turn in self.turns[self.forgotten :]:
            wanted += turn.token_ids
        held = self._row.input_ids
        shared = _common_length(held, wanted)
        if self._row.can_truncate(shared):
            self._row.truncate(shared)
        else:
            self._row, shared = self._cache.new_row(), 0
        rest = [*wanted[shared:], *self.encoder.answer(self.name)]
        # All but the last id are read here: what fails leaves the conversation as it was.
        if len(rest) > 1:
            extend(self.model, [rest[:-1]], self._cache.with_rows([self._row]))
        return rest[-1:]


def _plain(message: Message) -> dict[str, str]:
    """A message as JSON holds it: no name where there is none."""
    return {name: value for name, value in message._asdict().items() if value is not None}


def _common_length(first: list[int], second: list[int]) -> int:
    """How many ids two lists begin with in common."""
    if first == second[: len(first)]:
        return len(first)
    pairs = zip(first, second, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
