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
        content = self.template.clean(message.content).encode("utf-8", errors="replace")
        ids = [int(i) for part in self.tokenizer.encode([content]) for i in part]
        return [self.markers[message.role], *ids, self.markers["end"]]

    def conversation(self, messages: Sequence[Message]) -> list[int]:
        """A conversation from its start, ready to be continued by the assistant."""
        written = [token_id for message in messages for token_id in self.message(message)]
        return [*self.start(), *written, self.markers["assistant"]]


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
    """Messages from JSON: a list of {"role": …, "content": …}; InputError says what is wrong."""
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
        messages.append(Message(cast("Role", role), content))
    return messages
