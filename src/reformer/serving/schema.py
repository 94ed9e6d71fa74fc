"""The bodies of requests, as OpenAI's API has them: every number bounded, nothing converted.

Fields that this server does not know are left alone, as clients send many. Fields that it
knows but cannot serve are refused unless they ask for nothing.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from reformer.data.chat_template import NAMES_ARE, is_name

MOST_SAMPLES = 16
MOST_LOGPROBS = 20
MOST_TOKENS = 1 << 24

StopString = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Stop = StopString | Annotated[list[StopString], Field(max_length=16)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class StreamOptions(BaseModel):
    """Whether the stream ends with the numbers of tokens."""

    model_config = ConfigDict(strict=True)
    include_usage: bool | None = None


class _Sampled(BaseModel):
    """What completions and chats have in common."""

    model_config = ConfigDict(strict=True, extra="ignore")

    model: str | None = Field(default=None, max_length=1000)
    n: int | None = Field(default=None, ge=1, le=MOST_SAMPLES)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stop | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Number | None = Field(default=None, ge=0, le=100)
    top_p: Number | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1, lt=2**31)
    min_p: Number | None = Field(default=None, ge=0, le=1)
    repetition_penalty: Number | None = Field(default=None, gt=0, le=100)
    presence_penalty: Literal[0] | Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Literal[0] | Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None

    @property
    def stop_strings(self) -> list[str]:
        """The stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])


class CompletionBody(_Sampled):
    """POST /v1/completions."""

    prompt: str | TokenIds | Annotated[list[str], Field(min_length=1, max_length=1)] = "\n"
    max_tokens: int | None = Field(default=None, ge=1, lt=MOST_TOKENS)
    logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None
    best_of: Literal[1] | None = None


class TextPart(BaseModel):
    """A piece of a message's content."""

    model_config = ConfigDict(strict=True)
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One message; "developer" is another word for "system"."""

    model_config = ConfigDict(strict=True, extra="ignore")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @field_validator("name")
    @classmethod
    def _one_line(cls, name: str | None) -> str | None:
        if name is not None and not is_name(name):
            raise ValueError(NAMES_ARE)
        return name

    @property
    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatBody(_Sampled):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=65536)
    max_tokens: int | None = Field(default=None, ge=1, lt=MOST_TOKENS)
    max_completion_tokens: int | None = Field(default=None, ge=1, lt=MOST_TOKENS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
