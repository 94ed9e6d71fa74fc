"""Text to token ids and back: bytes, or a tokenizer.json of the ``tokenizers`` library.

A tokenizer turns a stream of bytes into arrays of ids without holding the stream, and ids
back into bytes. Bytes lose nothing, whatever the input; a tokenizer.json needs UTF-8.
"""

import codecs
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from reformer.data.files import InputError

TOKENIZER_FILE = "tokenizer.json"
_BLOCK_SIZE = 1 << 18
_MOST_HELD = 8

TokenIds = npt.NDArray[np.integer[Any]]


class TextDecoder(Protocol):
    """Ids to text, one by one; incomplete characters are held back until they are whole."""

    def feed(self, token_id: int) -> str:
        """The text that this id completes; may be empty."""
        ...

    def finish(self) -> str:
        """Whatever was held back, with U+FFFD for broken characters."""
        ...


class Tokenizer(Protocol):
    """What data, training and generation need of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...

    def encode(self, chunks: Iterable[bytes]) -> Iterator[TokenIds]:
        """Ids of a stream of bytes, block by block."""
        ...

    def decoder(self) -> TextDecoder:
        """A fresh decoder for one stream of ids."""
        ...


@dataclass(frozen=True)
class PlacedTokens:
    """Token ids int64 [L], and where each stands: characters ``starts[i]`` to ``ends[i]`` - 1."""

    ids: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def covering(self, start: int, end: int) -> tuple[int, int]:
        """The first and the last token of the characters start to end - 1."""
        first = int(np.searchsorted(self.ends, start, side="right"))
        return first, int(np.searchsorted(self.starts, end, side="left")) - 1


class ByteTokenizer:
    """Each byte is a token; ids are 0 to 255."""

    vocab_size = 256

    def encode(self, chunks: Iterable[bytes]) -> Iterator[TokenIds]:
        for chunk in chunks:
            yield np.frombuffer(chunk, dtype=np.uint8)

    def decoder(self) -> TextDecoder:
        return _ByteDecoder()

    def places(self, text: str) -> "PlacedTokens":
        """The bytes of a text, and the character that each is of."""
        data = text.encode("utf-8", errors="replace")
        ids = np.frombuffer(data, dtype=np.uint8).astype(np.int64)
        # A byte that begins with the bits 10 goes on with a character.
        starts = np.cumsum((ids & 0xC0) != 0x80) - 1
        return PlacedTokens(ids, starts, starts + 1)


class _ByteDecoder:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        # A model may have more ids than there are bytes; those have no text.
        return self._decoder.decode(bytes([token_id])) if token_id < 256 else ""

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class JsonTokenizer:
    """A tokenizer.json, read by the ``tokenizers`` library; no special tokens are added."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        library = _tokenizers_library()
        try:
            self.text = self.path.read_text(encoding="utf-8")
            self._tokenizer = library.Tokenizer.from_str(self.text)
        except OSError as error:
            raise InputError(f"cannot read the tokenizer {path}: {error.strerror}") from error
        except Exception as error:  # the library raises plain Exception for malformed JSON
            raise InputError(f"{path} is not a tokenizer.json: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        if self.vocab_size == 0:
            raise InputError(f"the tokenizer {path} has an empty vocabulary")

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        return max(ids, default=-1) + 1

    def encode(self, chunks: Iterable[bytes]) -> Iterator[TokenIds]:
        for text in text_blocks(chunks):
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
            yield np.asarray(ids, dtype=np.int64)

    def decoder(self) -> TextDecoder:
        return _JsonDecoder(self._tokenizer)

    def places(self, text: str) -> "PlacedTokens":
        """The tokens of a text, and the characters that each stands for."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        return PlacedTokens(np.asarray(encoding.ids, dtype=np.int64), offsets[:, 0], offsets[:, 1])


class _JsonDecoder:
    """Decodes the ids since the last whole character, and gives out what is new."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = ""

    def feed(self, token_id: int) -> str:
        self._ids.append(token_id)
        text = self._decode()
        # An unfinished character is held back; one that never finishes is broken, and shown.
        if text.endswith("\ufffd") and len(self._ids) < _MOST_HELD:
            return ""
        new = text[len(self._shown) :]
        # The last token stays as context: decoders treat the start of a text specially.
        self._ids = self._ids[-1:]
        self._shown = self._decode()
        return new

    def finish(self) -> str:
        return self._decode()[len(self._shown) :]

    def _decode(self) -> str:
        return str(self._tokenizer.decode(self._ids, skip_special_tokens=False))


def text_blocks(chunks: Iterable[bytes], block_size: int = _BLOCK_SIZE) -> Iterator[str]:
    """A stream of UTF-8 as strings, cut after a line where there is one, else anywhere."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    pending: list[str] = []
    size = offset = 0
    for chunk in chunks:
        pending.append(_decode(decoder, chunk, offset))
        offset += len(chunk)
        size += len(pending[-1])
        if size < block_size:
            continue
        text = "".join(pending)
        # A block without a line end is cut as it is: memory must stay bounded.
        cut = text.rfind("\n") + 1 or len(text)
        yield text[:cut]
        pending = [text[cut:]]
        size = len(pending[0])
    pending.append(_decode(decoder, b"", offset, final=True))
    if text := "".join(pending):
        yield text


def _decode(decoder: Any, chunk: bytes, offset: int, final: bool = False) -> str:
    try:
        return str(decoder.decode(chunk, final))
    except UnicodeDecodeError as error:
        raise InputError(
            f"the input is not UTF-8 text (near byte {offset + error.start}): "
            "train on bytes instead, without a tokenizer"
        ) from error


def tokenizer_in(folder: str | os.PathLike[str]) -> JsonTokenizer | ByteTokenizer:
    """The folder's tokenizer.json, or bytes when it has none."""
    path = Path(folder) / TOKENIZER_FILE
    return JsonTokenizer(path) if path.exists() else ByteTokenizer()


def train_tokenizer(chunks: Iterable[bytes], vocab_size: int) -> str:
    """A byte-level BPE tokenizer for a stream of UTF-8, as the text of a tokenizer.json.

    vocab_size counts the 256 bytes, so it must be at least 257. Any text survives encoding
    and decoding unchanged.
    """
    if not 257 <= vocab_size <= 2**24:
        raise InputError(f"vocab_size is {vocab_size}: it must be from 257 to {2**24}")
    library = _tokenizers_library()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(_lines(text_blocks(chunks)), trainer)
    return json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, indent=1) + "\n"


def _lines(blocks: Iterable[str]) -> Iterator[Sequence[str]]:
    for block in blocks:
        yield block.splitlines(keepends=True)


def _tokenizers_library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise InputError(
            "tokenizer.json files need the tokenizers package: pip install tokenizers"
        ) from error
    return tokenizers
