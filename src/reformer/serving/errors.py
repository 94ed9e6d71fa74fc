"""Answers that are not results, in the form of OpenAI's errors."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Refusal:
    """An answer in the form of OpenAI's errors."""

    status: int
    message: str
    kind: str = "invalid_request_error"
    code: str | None = None

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        error = {"message": self.message, "type": self.kind, "param": None, "code": self.code}
        return {"error": error}


class ApiError(Exception):
    """A request that gets a refusal as its answer."""

    def __init__(self, refusal: Refusal, *, retry_after: int | None = None) -> None:
        super().__init__(refusal.message)
        self.refusal, self.retry_after = refusal, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with the answer."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


def bad_request(message: str, code: str | None = None) -> ApiError:
    """400: the client asked for something that cannot be."""
    return ApiError(Refusal(400, message, code=code))
