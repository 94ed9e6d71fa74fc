"""``reformer extend``: a signal goes on as a model expects it to."""

import itertools
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from reformer.cli.arguments import ExtendArguments
from reformer.cli.devices import find_device
from reformer.cli.generate import require_whole, sampling_of
from reformer.data.files import InputError, ending_of
from reformer.data.signals.files import find_signals, kept_kind, signal_values
from reformer.generation.decode import generate
from reformer.models.language import ReformerForCausalLM


def run(arguments: ExtendArguments) -> int:
    """Read the signal, write it again with what follows."""
    sampling = sampling_of(arguments)
    for name, least in (("seed", 0), ("values", 1)):
        require_whole(name, getattr(arguments, name), least)
    kind = kept_kind(arguments.run)
    values = signal_values(find_signals([arguments.file]), kind)
    out = arguments.out or _free_path(arguments.run, arguments.file)
    if out.exists():
        raise InputError(f"{out} exists and is never overwritten: name another --out")
    model = ReformerForCausalLM.from_pretrained(arguments.run)
    model.to(find_device(arguments.device))
    new = generate(
        model,
        values[-model.config.max_length :].tolist(),
        max_new_tokens=arguments.values,
        sampling=sampling,
        seed=arguments.seed,
    )
    console = Console(stderr=True)
    shown = track(new, "Extending", arguments.values, console=console, transient=True)
    following = np.fromiter(shown, np.uint8)
    try:
        kind.write(np.concatenate([values, following]), out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    print(out)
    return 0


def _free_path(run: Path, file: Path) -> Path:
    paths = (run / f"extended-{number}{ending_of(file)}" for number in itertools.count(1))
    return next(path for path in paths if not path.exists())
