"""Token stores: a memory-mapped file of ids beside a JSON header.

``NAME.tokens`` holds little-endian ids in the smallest of uint8, uint16, uint32 that fits the
vocabulary; ``NAME.json`` the dtype and the counts. Stores are written as a stream and read
through a memory map, so a corpus may be larger than memory. The header is written last: a
store without one is unfinished.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reformer.data.files import InputError
from reformer.data.tokenizer import Tokenizer

_FORMAT = 1
_DTYPES: dict[str, type[np.unsignedinteger[Any]]] = {
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
}


@dataclass(frozen=True)
class StoreHeader:
    """What ``NAME.json`` says. num_bytes: size of the text before tokenisation."""

    format: int
    dtype: str
    num_tokens: int
    num_bytes: int
    vocab_size: int

    def check(self) -> None:
        """ValueError when the numbers cannot be right."""
        for name in ("format", "num_tokens", "num_bytes", "vocab_size"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ValueError(f"{name} is {value!r}: it must be a whole number")
        if self.num_tokens > 0 and self.num_bytes == 0:
            raise ValueError(f"num_bytes is 0 for {self.num_tokens} tokens")


@dataclass(frozen=True)
class TokenStore:
    """Token ids [num_tokens] in the file's own dtype, and the size of the text behind them."""

    tokens: npt.NDArray[Any]
    num_bytes: int

    def __len__(self) -> int:
        return len(self.tokens)


def smallest_dtype(vocab_size: int) -> str:
    """The name of the smallest unsigned type that holds every id below vocab_size."""
    for name, dtype in _DTYPES.items():
        if vocab_size - 1 <= np.iinfo(dtype).max:
            return name
    raise InputError(f"vocab_size is {vocab_size}: token ids must fit 32 bits")


def write_store(
    folder: Path, name: str, chunks: Iterable[bytes], tokenizer: Tokenizer, vocab_size: int
) -> TokenStore:
    """Tokenise a stream of bytes into ``folder/NAME.tokens``; memory stays bounded.

    vocab_size is the model's: a larger id raises InputError, and nothing is left behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    header_path, tokens_path = _paths(folder, name)
    header_path.unlink(missing_ok=True)
    dtype = smallest_dtype(vocab_size)
    counted = _Counted(chunks)
    num_tokens = 0
    try:
        with open(tokens_path, "wb") as file:
            for ids in tokenizer.encode(counted):
                if len(ids) and int(ids.max()) >= vocab_size:
                    raise InputError(
                        f"the text holds the token id {int(ids.max())}, but the model's "
                        f"vocab_size is {vocab_size}: raise it to {tokenizer.vocab_size}"
                    )
                file.write(ids.astype(np.dtype(_DTYPES[dtype]).newbyteorder("<")).tobytes())
                num_tokens += len(ids)
    except BaseException:
        tokens_path.unlink(missing_ok=True)
        raise
    header = StoreHeader(_FORMAT, dtype, num_tokens, counted.num_bytes, vocab_size)
    part = header_path.with_suffix(".part")
    part.write_text(json.dumps(asdict(header), indent=2) + "\n", encoding="utf-8")
    os.replace(part, header_path)
    return open_store(folder, name)


def has_store(folder: Path, name: str) -> bool:
    """Whether the store is there and finished."""
    return all(path.is_file() for path in _paths(folder, name))


def open_store(folder: Path, name: str) -> TokenStore:
    """Map a finished store; InputError when its header and its tokens do not agree."""
    header_path, tokens_path = _paths(folder, name)
    try:
        header = StoreHeader(**json.loads(header_path.read_text(encoding="utf-8")))
        header.check()
        dtype = np.dtype(_DTYPES[header.dtype]).newbyteorder("<")
        size = tokens_path.stat().st_size
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{header_path} is not a token store: {error}") from error
    if header.format != _FORMAT or size != header.num_tokens * dtype.itemsize:
        raise InputError(
            f"{tokens_path} has {size} bytes where its header promises "
            f"{header.num_tokens} tokens of {header.dtype}: delete {folder} to make it again"
        )
    if header.num_tokens == 0:
        return TokenStore(np.zeros(0, dtype), header.num_bytes)
    return TokenStore(np.memmap(tokens_path, dtype, mode="r"), header.num_bytes)


def _paths(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.json", folder / f"{name}.tokens"


class _Counted:
    """Passes chunks on and counts their bytes."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.num_bytes = 0
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.num_bytes += len(chunk)
            yield chunk
