"""SentencePiece models as a tokenizer.json, without the sentencepiece library.

A .model file is a protocol buffer: pieces with scores, a trainer's and a normaliser's settings.
BPE pieces become merges: SentencePiece joins the neighbours whose union has the best score, so
every way to split a piece in two is a merge with that piece's rank.
"""

import base64
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from reformer.interop.errors import ConversionError

_SPACE = "\u2581"
_UNIGRAM, _BPE = 1, 2
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6


class _Piece(NamedTuple):
    text: str
    score: float
    kind: int


def tokenizer_from_sentencepiece(path: str | os.PathLike[str]) -> str:
    """The text of a tokenizer.json that gives the same ids as the SentencePiece model.

    Raises ``ConversionError`` for files that are none, and for word and character models.
    """
    path = Path(path)
    try:
        fields = list(_fields(path.read_bytes()))
        pieces = [_piece(value) for number, value in fields if number == 1]
        trainer = dict(_fields(next(value for number, value in fields if number == 2)))
        normalizer = dict(_fields(next(value for number, value in fields if number == 3)))
        return _tokenizer(path, pieces, trainer.get(3, _UNIGRAM), normalizer)
    except ConversionError:
        raise
    except OSError as error:
        raise ConversionError(f"cannot read {path}: {error.strerror}") from error
    except (
        ValueError, StopIteration, struct.error, IndexError, TypeError, AttributeError
    ) as error:  # fmt: skip
        raise ConversionError(f"{path} is not a SentencePiece model") from error


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, value) of a protocol buffer: ints, floats and bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value
        elif wire == 2:
            length, position = _varint(data, position)
            if position + length > len(data):
                raise ValueError("a field ends beyond the file")
            yield number, data[position : position + length]
            position += length
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            yield number, struct.unpack("<d" if wire == 1 else "<f", data[position:][:size])[0]
            position += size
        else:
            raise ValueError(f"unknown wire type {wire}")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
    raise ValueError("a number that does not end")


def _piece(data: bytes) -> _Piece:
    values = dict(_fields(data))
    return _Piece(values.get(1, b"").decode("utf-8"), values.get(2, 0.0), values.get(3, 1))


def _tokenizer(path: Path, pieces: list[_Piece], kind: int, normalizer: dict[int, Any]) -> str:
    if kind not in (_UNIGRAM, _BPE):
        raise ConversionError(f"{path} is a word or character model: only BPE and unigram are read")
    unknown = next((i for i, piece in enumerate(pieces) if piece.kind == _UNKNOWN), None)
    if unknown is None:
        raise ConversionError(f"{path} has no piece for what is unknown")
    fallback = any(piece.kind == _BYTE for piece in pieces)
    model = _bpe(pieces, unknown, fallback) if kind == _BPE else _unigram(pieces, unknown, fallback)
    metaspace = {
        "type": "Metaspace", "replacement": _SPACE, "split": True,
        "prepend_scheme": "always" if normalizer.get(3, 1) else "never",
    }  # fmt: skip
    special = [(i, p) for i, p in enumerate(pieces) if p.kind in (_UNKNOWN, _CONTROL)]
    defined = [(i, p) for i, p in enumerate(pieces) if p.kind == _USER_DEFINED]
    values = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": index, "content": piece.text, "single_word": False, "lstrip": False,
                "rstrip": False, "normalized": False, "special": piece.kind != _USER_DEFINED,
            }
            for index, piece in sorted(special + defined)
        ],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(normalizer)},
        "pre_tokenizer": metaspace,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [{"type": "ByteFallback"}, metaspace] if fallback else [metaspace],
        },
        "model": model,
    }  # fmt: skip
    return json.dumps(values, ensure_ascii=False, indent=1) + "\n"


def _normalizers(settings: dict[int, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if settings.get(2):
        charsmap = base64.b64encode(settings[2]).decode("ascii")
        found.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if settings.get(4, 1):  # superfluous spaces are removed
        found.append({"type": "Strip", "strip_left": True, "strip_right": True})
        found.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    return found


def _bpe(pieces: list[_Piece], unknown: int, fallback: bool) -> dict[str, Any]:
    vocabulary = {piece.text: index for index, piece in enumerate(pieces)}
    joined = {piece.text for piece in pieces if piece.kind == _NORMAL}
    merges = []
    for piece in pieces:
        if piece.kind != _NORMAL:
            continue
        for cut in range(1, len(piece.text)):
            left, right = piece.text[:cut], piece.text[cut:]
            if left in joined and right in joined:
                merges.append((-piece.score, vocabulary[left], vocabulary[right], [left, right]))
    return {
        "type": "BPE", "dropout": None, "unk_token": pieces[unknown].text,
        "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
        "byte_fallback": fallback, "ignore_merges": False, "vocab": vocabulary,
        "merges": [merge[3] for merge in sorted(merges)],
    }  # fmt: skip


def _unigram(pieces: list[_Piece], unknown: int, fallback: bool) -> dict[str, Any]:
    return {
        "type": "Unigram", "unk_id": unknown, "byte_fallback": fallback,
        "vocab": [[piece.text, piece.score] for piece in pieces],
    }  # fmt: skip
