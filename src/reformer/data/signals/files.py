"""From signal files to token stores, by the kind that their names say."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from reformer import durable
from reformer.data.corpus import Corpus, has_corpus, open_corpus, write_corpus
from reformer.data.files import InputError, ending_of, find_files_like
from reformer.data.signals.genome import Genome
from reformer.data.signals.kind import SignalKind, Values
from reformer.data.signals.series import Series
from reformer.data.signals.sound import Sound
from reformer.data.sources import LossUnit, TextSource
from reformer.data.store import TokenStore
from reformer.data.tokenizer import ByteTokenizer

_KIND_FILE = "signal.json"
_KINDS: tuple[type[SignalKind], ...] = (Sound, Genome, Series)
_ENDINGS = frozenset().union(*(kind.endings for kind in _KINDS))
_WHAT_WORKS = "signals: sound (.wav), genomes (.fasta, .fa, .fna) or series of numbers (.csv)"


def find_signals(inputs: Sequence[str | Path]) -> list[Path]:
    """Signal files, all of one kind; a folder stands for those below it."""
    files = find_files_like(inputs, lambda path: _ending(path) in _ENDINGS, _WHAT_WORKS)
    first = _type_of(files[0])
    for file in files:
        if _type_of(file) is not first:
            raise InputError(
                f"{files[0]} is a {first.name} and {file} a {_type_of(file).name}: a model learns "
                "one kind of signal"
            )
    return files


def find_kind(files: Sequence[Path], column: str | None) -> SignalKind:
    """The kind of these files. column: of CSV files, what to learn."""
    kind = _type_of(files[0])
    if kind is Series:
        return Series.of(files, column)
    if column is not None:
        raise InputError(f"column is {column!r}, but {files[0]} is a {kind.name} without columns")
    return Sound.of(files[0]) if kind is Sound else Genome.of(files[0])


def _type_of(file: Path) -> type[SignalKind]:
    for kind in _KINDS:
        if _ending(file) in kind.endings:
            return kind
    raise InputError(f"{file} is none of the {_WHAT_WORKS}, by its name")


def _ending(file: Path) -> str:
    return ending_of(file).lower()


def read_signals(files: Sequence[Path], kind: SignalKind) -> Iterator[bytes]:
    """The files' values, end to end, a byte each; InputError for a file of another kind."""
    for file in files:
        if _type_of(file) is not type(kind):
            raise InputError(
                f"{file} is a {_type_of(file).name}, and this model learns a {kind.name}"
            )
        for values in kind.read(file):
            yield values.tobytes()


def signal_values(files: Sequence[Path], kind: SignalKind) -> Values:
    """The values of whole files, end to end; InputError when there are none."""
    data = b"".join(read_signals(files, kind))
    if not data:
        raise _nothing_in(files, kind)
    return np.frombuffer(data, np.uint8)


def _nothing_in(files: Sequence[Path], kind: SignalKind) -> InputError:
    return InputError(f"{', '.join(str(file) for file in files[:3])} holds no {kind.value_name}")


def prepare_signals(
    folder: Path, inputs: Sequence[str], validation: str | None, kind: SignalKind
) -> Corpus:
    """Stores of the values in ``folder``, or those that are finished there."""
    if has_corpus(folder):
        return open_corpus(folder)
    files = find_signals(inputs)
    held_out = None if validation is None else read_signals(find_signals([validation]), kind)
    total = sum(len(part) for part in read_signals(files, kind))
    if total == 0:
        raise _nothing_in(files, kind)
    values = read_signals(files, kind)
    return write_corpus(folder, values, total, held_out, ByteTokenizer(), kind.vocab_size)


def keep_kind(folder: Path, kind: SignalKind) -> None:
    """Write the kind down in a run's folder."""
    durable.write_text(folder / _KIND_FILE, json.dumps(kind.to_dict(), indent=2) + "\n")


def kept_kind(folder: Path) -> SignalKind:
    """The kind that ``keep_kind`` wrote; InputError when there is none that makes sense."""
    file = folder / _KIND_FILE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        name = values.pop("kind")
        (kind,) = (kind for kind in _KINDS if kind.name == name)
        return kind(**values)
    except FileNotFoundError as error:
        raise InputError(f"{folder} has no {_KIND_FILE}: use a run of --task signal") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error


class SignalSource(TextSource):
    """Parts of a signal at random places."""

    def __init__(self, store: TokenStore, length: int, seed: int) -> None:
        super().__init__(store, length, seed)
        self.unit = LossUnit("bits_per_value", 1.0 / math.log(2.0))
