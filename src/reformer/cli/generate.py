"""``reformer generate``: text that continues a prompt, as it is drawn."""

import json
import sys
from collections.abc import Iterator

from reformer.cli.arguments import GenerateArguments, SamplingArguments
from reformer.cli.devices import find_device
from reformer.cli.terminal import printable
from reformer.data.files import InputError, read_file
from reformer.data.tokenizer import Tokenizer, tokenizer_in
from reformer.generation.decode import Completion, can_cache, generate, generate_batch
from reformer.generation.sampling import Sampling, SamplingError
from reformer.generation.text import WrittenText, encode_prompt
from reformer.models.language import ReformerForCausalLM
from reformer.training.run import require_vocabulary


def run(arguments: GenerateArguments) -> int:
    """Parse, generate, print."""
    sampling = sampling_of(arguments)
    for name, least in (("max_new_tokens", 1), ("seed", 0), ("samples", 1)):
        require_whole(name, getattr(arguments, name), least)
    model = ReformerForCausalLM.from_pretrained(arguments.run)
    model.to(find_device(arguments.device))
    tokenizer = tokenizer_in(arguments.run)
    require_vocabulary(tokenizer, model.config.vocab_size)
    prompt = _prompt(arguments)
    ids = encode_prompt(prompt, tokenizer)
    _say_what_is_special(model, len(ids), arguments)
    if arguments.samples == 1 and not arguments.json:
        _stream(model, tokenizer, prompt, ids, sampling, arguments)
    else:
        _print_all(model, tokenizer, ids, sampling, arguments)
    return 0


def sampling_of(arguments: SamplingArguments) -> Sampling:
    """The sampling that the flags describe."""
    return Sampling(
        arguments.temperature,
        arguments.top_k,
        arguments.top_p,
        arguments.min_p,
        arguments.repetition_penalty,
    )


def require_whole(name: str, value: int, least: int) -> None:
    """SamplingError unless ``least <= value < 2^31``."""
    if not least <= value < 2**31:
        raise SamplingError(
            f"{name} is {value}: it must be a whole number from {least} to 2147483647"
        )


def _prompt(arguments: GenerateArguments) -> str:
    if arguments.prompt_file is None:
        if arguments.prompt != "-":
            return arguments.prompt
        data = sys.stdin.buffer.read()
    else:
        if arguments.prompt:
            raise InputError("--prompt and --prompt-file are both given: give one of them")
        data = b"".join(read_file(arguments.prompt_file))
    return data.decode("utf-8", errors="surrogateescape")


def _say_what_is_special(
    model: ReformerForCausalLM, num_tokens: int, arguments: GenerateArguments
) -> None:
    if not can_cache(model.config):
        print("This model runs a whole pass for every token (chunk rule).", file=sys.stderr)
    if num_tokens + arguments.max_new_tokens > model.config.max_length:
        print(
            f"The prompt has {num_tokens} tokens; the model sees its latest "
            f"{model.config.max_length} tokens at most.",
            file=sys.stderr,
        )


def _stream(
    model: ReformerForCausalLM,
    tokenizer: Tokenizer,
    prompt: str,
    ids: list[int],
    sampling: Sampling,
    arguments: GenerateArguments,
) -> None:
    output = sys.stdout
    output.reconfigure(errors="replace")  # type: ignore[union-attr]
    shown = printable if output.isatty() else str
    if output.isatty():
        output.write(shown(prompt))
    written = WrittenText(tokenizer, arguments.stop)
    tokens = generate(
        model,
        ids,
        max_new_tokens=arguments.max_new_tokens,
        sampling=sampling,
        seed=arguments.seed,
    )
    for piece in _pieces(tokens, written):
        output.write(shown(piece))
        output.flush()
    output.write("\n")
    output.flush()


def _pieces(tokens: Iterator[int], written: WrittenText) -> Iterator[str]:
    for token_id in tokens:
        yield written.feed(token_id)
        if written.ended:
            return
    yield written.finish()


def _print_all(
    model: ReformerForCausalLM,
    tokenizer: Tokenizer,
    ids: list[int],
    sampling: Sampling,
    arguments: GenerateArguments,
) -> None:
    texts = [WrittenText(tokenizer, arguments.stop) for _ in range(arguments.samples)]

    def ends(_prompt: int, sample: int, token_id: int) -> bool:
        texts[sample].feed(token_id)
        return texts[sample].ended

    (completions,) = generate_batch(
        model,
        [ids],
        max_new_tokens=arguments.max_new_tokens,
        num_samples=arguments.samples,
        sampling=sampling,
        seed=arguments.seed,
        ends=ends,
    )
    for sample, (text, completion) in enumerate(zip(texts, completions, strict=True)):
        text.finish()
        print(_record(text.text, completion, sample, arguments))


def _record(text: str, completion: Completion, sample: int, arguments: GenerateArguments) -> str:
    if not arguments.json:
        heading = f"--- sample {sample + 1} of {arguments.samples}\n"
        return heading + (printable(text) if sys.stdout.isatty() else text)
    values = {
        "text": text,
        "token_ids": completion.token_ids,
        "finish_reason": completion.finish_reason,
        "seed": arguments.seed,
        "sample": sample,
    }
    return json.dumps(values, ensure_ascii=True)
