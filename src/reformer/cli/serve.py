"""``reformer serve``: a model behind HTTP."""

import os
import sys
from pathlib import Path

from reformer.cli.arguments import ServeArguments
from reformer.cli.devices import find_device
from reformer.config import ConfigError
from reformer.data.chat_template import ChatTemplate, chat_encoder, read_template
from reformer.data.files import InputError
from reformer.data.tokenizer import tokenizer_in
from reformer.models.language import ReformerForCausalLM
from reformer.training.run import require_vocabulary

KEY_VARIABLE = "REFORMER_API_KEY"


def run(arguments: ServeArguments) -> int:
    """Load the model, listen, serve."""
    try:
        import pydantic  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(
            "serving needs starlette, uvicorn and pydantic: pip install 'reformer-core[serve]'"
        ) from error
    from reformer.serving.engine import Engine, EngineSettings
    from reformer.serving.server import ServerSettings, listen, serve
    from reformer.serving.service import Service

    server_settings = ServerSettings(
        host=arguments.host,
        port=arguments.port,
        api_key=_api_key(arguments.api_key_file),
        body_bytes=arguments.max_body_megabytes << 20,
        grace_seconds=arguments.grace_seconds,
    )
    request_seconds = float(_at_least_one("request_seconds", arguments.request_seconds))
    engine_settings = EngineSettings(
        num_slots=_at_least_one("slots", arguments.slots),
        queue_length=_at_least_one("queue_length", arguments.queue_length),
        prefix_bytes=max(0, arguments.prefix_megabytes) << 20,
        batch_invariant=arguments.batch_invariant,
    )
    model = ReformerForCausalLM.from_pretrained(arguments.run)
    model.to(find_device(arguments.device))
    tokenizer = tokenizer_in(arguments.run)
    require_vocabulary(tokenizer, model.config.vocab_size)
    template = read_template(arguments.run) or ChatTemplate()
    encoder = chat_encoder(template, tokenizer)
    listening = listen(server_settings)
    service = Service(
        name=arguments.name or arguments.run.resolve().name,
        engine=Engine(model, engine_settings),
        tokenizer=tokenizer,
        encoder=encoder,
        vocab_size=model.config.vocab_size,
        max_length=model.config.max_length,
        request_seconds=request_seconds,
    )
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"Serving {service.name} on http://{shown}:{port}", file=sys.stderr, flush=True)
    serve(service, server_settings, listening)
    return 0


def _api_key(path: Path | None) -> str | None:
    """The key, which is never an argument: other users of the machine could read it there."""
    if path is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the API key from {path}: {error}") from error


def _at_least_one(name: str, value: int) -> int:
    if not 1 <= value < 2**31:
        raise ConfigError(f"{name} is {value}: it must be a whole number from 1 to 2147483647")
    return value
