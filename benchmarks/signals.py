"""Bits per value of a signal: a trained run beside simple predictors and, for sound, FLAC.

    python benchmarks/signals.py RUN --train FILES --test FILES --out signals.json

All predict the same values, 0 to 255, that the model reads. "difference" codes each by its
difference from the one before, "linear" by that from a least-squares prediction from the ORDER
before, both at the cost of how often such a difference came in training; "pair" by how often it
followed the one before there. FLAC (`apt-get install flac`) writes the values as 8-bit sound.
A result is added under the run's name.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
import wave
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reformer.data.signals.files import find_signals, kept_kind, signal_values
from reformer.models.language import ReformerForCausalLM
from reformer.tasks.signal import TASK
from reformer.training.run import open_run

ORDER = 8
Numbers = npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--train", nargs="+", required=True)
    parser.add_argument("--test", nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    kind = kept_kind(arguments.run)
    train, test = (
        signal_values(find_signals(files), kind).astype(np.float64)
        for files in (arguments.train, arguments.test)
    )
    bits = {
        "difference": _cost(np.diff(train), np.diff(test)),
        "linear": _cost(*(_after_linear(x, _coefficients(train)) for x in (train, test))),
        "pair": _pair_cost(train.astype(int), test.astype(int)),
    }
    if kind.name == "sound" and shutil.which("flac"):
        bits["FLAC"] = _flac(test)
    bits["Reformer"] = _reformer(arguments.run, arguments.test)
    result = {
        "kind": kind.name, "values": {"train": len(train), "test": len(test)},
        "bits_per_value": bits,
    }  # fmt: skip
    results: dict[str, Any] = {}
    if arguments.out.exists():
        results = json.loads(arguments.out.read_text())
    results[arguments.run.name] = result
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _before(values: Numbers) -> Numbers:
    """The ORDER values before each, and a one [N - ORDER, ORDER + 1]."""
    windows = np.lib.stride_tricks.sliding_window_view(values[:-1], ORDER)
    return np.hstack([windows, np.ones((len(windows), 1))])


def _coefficients(values: Numbers) -> Numbers:
    return np.linalg.lstsq(_before(values), values[ORDER:], rcond=None)[0]


def _after_linear(values: Numbers, coefficients: Numbers) -> Numbers:
    predicted = np.clip(np.round(_before(values) @ coefficients), 0, 255)
    return values[ORDER:] - predicted


def _cost(train: Numbers, test: Numbers) -> float:
    """Mean bits of the test's differences by their counts in training, each at least one."""
    counts = np.bincount(train.astype(int) + 255, minlength=511) + 1
    return float(-np.log2(counts / counts.sum())[test.astype(int) + 255].mean())


def _pair_cost(train: npt.NDArray[np.int64], test: npt.NDArray[np.int64]) -> float:
    """Mean bits of the test's values by what followed the one before in training; where little
    did, by how often each value came at all."""
    single = (np.bincount(train, minlength=256) + 1) / (len(train) + 256)
    pairs = np.bincount(train[:-1] * 256 + train[1:], minlength=65536).reshape(256, 256)
    chances = (pairs + 8 * single) / (pairs.sum(axis=1, keepdims=True) + 8)
    return float(-np.log2(chances[test[:-1], test[1:]]).mean())


def _flac(values: Numbers) -> float:
    with tempfile.TemporaryDirectory() as folder:
        sound, packed = Path(folder, "values.wav"), Path(folder, "values.flac")
        with wave.open(str(sound), "wb") as file:
            file.setparams((1, 1, 48000, len(values), "NONE", "not compressed"))
            file.writeframes(values.astype(np.uint8).tobytes())
        subprocess.run(["flac", "--best", "--silent", sound, "-o", packed], check=True)
        return packed.stat().st_size * 8 / len(values)


def _reformer(run: Path, files: list[str]) -> float:
    validation = TASK.validation_on(open_run(run), files)
    model = ReformerForCausalLM.from_pretrained(run)
    return float(validation.measure(model, whole=True)["validation_bits_per_value"])


if __name__ == "__main__":
    main()
