"""``reformer generate``: text that continues a prompt, as it is drawn."""

import sys
from collections.abc import Iterable

from reformer.cli.arguments import GenerateArguments
from reformer.cli.devices import find_device
from reformer.cli.terminal import printable
from reformer.data.tokenizer import tokenizer_in
from reformer.generation.decode import encode_prompt, generate, stream_text
from reformer.generation.sampling import Sampling, SamplingError
from reformer.models.language import ReformerForCausalLM
from reformer.training.run import require_vocabulary


def run(arguments: GenerateArguments) -> int:
    """Parse, generate, print."""
    sampling = Sampling(arguments.temperature, arguments.top_k, arguments.top_p)
    _require_whole("max_new_tokens", arguments.max_new_tokens, 1)
    _require_whole("seed", arguments.seed, 0)
    model = ReformerForCausalLM.from_pretrained(arguments.run)
    model.to(find_device(arguments.device))
    tokenizer = tokenizer_in(arguments.run)
    require_vocabulary(tokenizer, model.config.vocab_size)
    prompt = arguments.prompt
    if prompt == "-":
        prompt = sys.stdin.buffer.read().decode("utf-8", errors="surrogateescape")
    ids = generate(
        model,
        encode_prompt(prompt, tokenizer),
        max_new_tokens=arguments.max_new_tokens,
        sampling=sampling,
        seed=arguments.seed,
    )
    _write(stream_text(ids, tokenizer), prompt)
    return 0


def _require_whole(name: str, value: int, least: int) -> None:
    if not least <= value < 2**31:
        raise SamplingError(
            f"{name} is {value}: it must be a whole number from {least} to 2147483647"
        )


def _write(pieces: Iterable[str], prompt: str) -> None:
    output = sys.stdout
    output.reconfigure(errors="replace")  # type: ignore[union-attr]
    shown = printable if output.isatty() else str
    if output.isatty():
        output.write(shown(prompt))
    for piece in pieces:
        output.write(shown(piece))
        output.flush()
    output.write("\n")
    output.flush()
