"""Reading a request's JSON: strict, bounded, and off the event loop when it is long."""

import asyncio
import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from reformer.serving.errors import ApiError, Refusal, bad_request

Body = TypeVar("Body", bound=BaseModel)

_LONG = 1 << 16


async def read_body(request: Request, kind: type[Body]) -> Body:
    """The body as a ``kind``; ApiError 415 or 400 when it is not one."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise ApiError(Refusal(415, "the content-type must be application/json"))
    data = await request.body()
    if len(data) > _LONG:
        return await asyncio.to_thread(_parse, data, kind)
    return _parse(data, kind)


def _parse(data: bytes, kind: type[Body]) -> Body:
    try:
        values = json.loads(data.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the body is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise bad_request("the body must be a JSON object")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise bad_request(_sentence(error)) from error


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"][:3])
    return f"{place}: {first['msg']}"
