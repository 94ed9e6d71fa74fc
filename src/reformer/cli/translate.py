"""``reformer translate``: a text written from each line, as an encoder-decoder has learned to."""

import json
import sys
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from reformer.cli.arguments import TranslateArguments
from reformer.cli.devices import find_device
from reformer.cli.terminal import printable
from reformer.config import ConfigError
from reformer.data.files import InputError, ending_of, find_files
from reformer.data.records import read_records, read_text
from reformer.data.tokenizer import Tokenizer, tokenizer_in
from reformer.generation.sampling import Sampling, SamplingError
from reformer.generation.translating import Translation, fits, translate, translate_by_beams
from reformer.models.encoder_decoder import ReformerEncoderDecoder
from reformer.training.run import require_vocabulary

Line = tuple[int, str]


def run(arguments: TranslateArguments) -> int:
    """Parse, translate, print each group of lines when it is done."""
    if arguments.batch_size < 1:
        raise ConfigError(f"batch_size is {arguments.batch_size}: it must be 1 or more")
    model = ReformerEncoderDecoder.from_pretrained(arguments.run)
    model.to(find_device(arguments.device))
    tokenizer = tokenizer_in(arguments.run)
    require_vocabulary(tokenizer, model.config.vocab_size - 1)
    write = partial(_write, arguments, model, tokenizer)
    at_once = 1 if arguments.num_beams or _is_typed(arguments.file) else arguments.batch_size
    sources = _lines(arguments.file)
    while lines := list(islice(sources, at_once)):
        _warn(model, tokenizer, lines)
        texts = [source for _, source in lines if source.strip()]
        written = iter(write(texts) if texts else [])
        for number, source in lines:
            translation = next(written) if source.strip() else Translation("", [], "stop")
            _print(number, translation, as_json=arguments.json)
        sys.stdout.flush()
    return 0


def _write(
    arguments: TranslateArguments,
    model: ReformerEncoderDecoder,
    tokenizer: Tokenizer,
    sources: list[str],
) -> list[Translation]:
    if arguments.num_beams is None:
        return translate(
            model,
            tokenizer,
            sources,
            sampling=Sampling(temperature=arguments.temperature, top_p=arguments.top_p),
            seed=arguments.seed,
            max_new_tokens=arguments.max_new_tokens,
        )
    if arguments.temperature > 0 or arguments.top_p is not None:
        raise SamplingError("temperature and top_p are for drawing tokens: beam search draws none")
    (source,) = sources
    return translate_by_beams(
        model,
        tokenizer,
        source,
        num_beams=arguments.num_beams,
        length_penalty=arguments.length_penalty,
        max_new_tokens=arguments.max_new_tokens,
    )[:1]


def _lines(name: str) -> Iterator[Line]:
    """Each source and the line that it stands on."""
    if name == "-":
        for number, data in enumerate(sys.stdin.buffer, start=1):
            yield number, data.decode("utf-8", errors="replace").rstrip("\r\n")
        return
    for file in find_files([Path(name)]):
        if ending_of(file) in (".jsonl", ".csv"):
            yield from ((record.line, record.text("source")) for record in read_records([file]))
        elif text := read_text(file).removesuffix("\n"):
            for number, line in enumerate(text.split("\n"), start=1):
                line = line.removesuffix("\r")
                yield number, line.split("\t")[0] if ending_of(file) == ".tsv" else line
        else:
            raise InputError(f"{file} holds no text")


def _is_typed(name: str) -> bool:
    """Whether a person at a terminal waits for each line's answer."""
    return name == "-" and sys.stdin.isatty()


def _warn(model: ReformerEncoderDecoder, tokenizer: Tokenizer, lines: list[Line]) -> None:
    for number, source in lines:
        if not fits(model, tokenizer, source):
            print(
                f"reformer: line {number} is longer than this model's {model.config.max_length} "
                "tokens: its end is not read",
                file=sys.stderr,
            )


def _print(number: int, translation: Translation, *, as_json: bool) -> None:
    if not as_json:
        text = " ".join(translation.text.splitlines())  # one line in, one line out
        print(printable(text) if sys.stdout.isatty() else text)
        return
    values: dict[str, Any] = {
        "line": number,
        "target": translation.text,
        "finish_reason": translation.finish_reason,
    }
    if translation.log_probability is not None:
        values["log_probability"] = translation.log_probability
    print(json.dumps(values, ensure_ascii=False))
