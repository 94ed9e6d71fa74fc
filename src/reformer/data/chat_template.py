"""How a conversation is written as tokens: a marker before each message, a marker after it.

The markers are control characters, one token each; they are taken out of what people write,
so no message can pretend to be another one. A run's template is its chat.json.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

from reformer.data.files import InputError
from reformer.data.tokenizer import Tokenizer

Role = Literal["system", "user", "assistant"]
ROLES = get_args(Role)
TEMPLATE_FILE = "chat.json"


class Message(NamedTuple):
    """One turn of a conversation."""

    role: Role
    content: str
    name: str | None = None
    """Who of several in that role says it."""

    @property
    def written(self) -> str:
        """The content, after the name of whoever says it."""
        return self.content if self.name is None else f"{opening(self.name)} {self.content}"


def opening(name: str) -> str:
    """What a message of somebody with a name begins with."""
    return f"{name}:"


@dataclass(frozen=True)
class ChatTemplate:
    """The markers: each a string that the tokenizer turns into one token."""

    start: str = "\x01"
    """Before the first message of a conversation."""
    user: str = "\x02"
    assistant: str = "\x03"
    end: str = "\x04"
    """After every message; the model's own ends its turn."""
    system: str = "\x05"

    def __post_init__(self) -> None:
        markers = dataclasses.astuple(self)
        for name, marker in dataclasses.asdict(self).items():
            if not isinstance(marker, str) or not marker or markers.count(marker) > 1:
                raise InputError(
                    f"the chat template's {name} is {marker!r}: it must be a string that no "
                    "other marker is"
                )

    def clean(self, content: str) -> str:
        """The content without any marker in it."""
        markers = dataclasses.astuple(self)
        # Taking one out can join the halves of another.
        while any(marker in content for marker in markers):
            for marker in markers:
                content = content.replace(marker, "")
        return content


@dataclass(frozen=True)
class ChatEncoder:
    """A template together with a tokenizer: conversations to token ids."""

    template: ChatTemplate
    tokenizer: Tokenizer
    markers: dict[str, int]
    """The token id of each marker, by its name in the template."""

    def start(self) -> list[int]:
        """What every conversation begins with."""
        return [self.markers["start"]]

    def message(self, message: Message) -> list[int]:
        """One whole message, markers and all."""
        return [self.markers[message.role], *self._ids(message.written), self.markers["end"]]

    def answer(self, name: str | None = None) -> list[int]:
        """How the assistant's next message begins, which somebody with this name is to say."""
        return [self.markers["assistant"], *([] if name is None else self._ids(opening(name)))]

    def conversation(self, messages: Sequence[Message]) -> list[int]:
        """A conversation from its start, ready to be continued by the assistant."""
        written = [token_id for message in messages for token_id in self.message(message)]
        return [*self.start(), *written, *self.answer()]

    def _ids(self, text: str) -> list[int]:
        content = self.template.clean(text).encode("utf-8", errors="replace")
        return [int(i) for part in self.tokenizer.encode([content]) for i in part]


def chat_encoder(template: ChatTemplate, tokenizer: Tokenizer) -> ChatEncoder:
    """InputError when the tokenizer does not turn every marker into one token of its own."""
    markers: dict[str, int] = {}
    for name, marker in dataclasses.asdict(template).items():
        ids = [int(i) for part in tokenizer.encode([marker.encode("utf-8")]) for i in part]
        if len(ids) != 1 or ids[0] in markers.values():
            raise InputError(
                f"the chat template's {name}, {marker!r}, is {len(ids)} tokens to this tokenizer: "
                f"each marker must be one token of its own; change it in {TEMPLATE_FILE}"
            )
        markers[name] = ids[0]
    return ChatEncoder(template, tokenizer, markers)


def read_template(folder: str | os.PathLike[str]) -> ChatTemplate | None:
    """The template of the run or model in a folder; None when it has none."""
    path = Path(folder) / TEMPLATE_FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return ChatTemplate(**values)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not a chat template: {error}") from error


def template_text(template: ChatTemplate) -> str:
    """The template as the text of a chat.json."""
    return json.dumps(dataclasses.asdict(template), indent=2) + "\n"


def read_messages(values: Any) -> list[Message]:
    """Messages from JSON: a list of {"role": …, "content": …}, with a "name" where several have one
    role; InputError says what is wrong."""
    if not isinstance(values, list) or not values:
        raise InputError("messages must be a list with at least one message")
    messages = []
    for number, value in enumerate(values, start=1):
        role = value.get("role") if isinstance(value, dict) else None
        content = value.get("content") if isinstance(value, dict) else None
        if not isinstance(role, str) or role not in ROLES:
            raise InputError(
                f"message {number} has the role {role!r}: it must be one of {', '.join(ROLES)}"
            )
        if not isinstance(content, str):
            raise InputError(f"message {number} has no content that is a string")
        name = value.get("name")
        if name is not None and not (isinstance(name, str) and is_name(name)):
            raise InputError(f"message {number} has the name {name!r}: {NAMES_ARE}")
        messages.append(Message(cast("Role", role), content, name))
    return messages


NAMES_ARE = "it must be one line of 1 to 64 characters without a colon"


def is_name(text: str) -> bool:
    """Whether somebody may be called so."""
    return 0 < len(text.strip()) <= len(text) <= 64 and ":" not in text and text.isprintable()
