"""Bytes as tokens, as a tokenizer.json: id = byte + offset.

google/reformer-enwik8 has no tokenizer of its own: its 258 ids are the bytes after two that are
never text (0, padding, and 1), offset 2. Our byte models have offset 0.
"""

import json
from typing import Any

_PADDING = "<|padding|>"


def byte_tokenizer(offset: int = 0) -> str:
    """The text of a tokenizer.json; the ids below ``offset`` are special and hold no text."""
    vocabulary = {symbol: offset + byte for byte, symbol in enumerate(_byte_symbols())}
    special = [_PADDING if index == 0 else f"<|reserved_{index}|>" for index in range(offset)]
    byte_level = {
        "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False,
    }  # fmt: skip
    values: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": index, "content": content, "single_word": False, "lstrip": False,
                "rstrip": False, "normalized": False, "special": True,
            }
            for index, content in enumerate(special)
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": False, "merges": [],
            "vocab": {**{content: index for index, content in enumerate(special)}, **vocabulary},
        },
    }  # fmt: skip
    return json.dumps(values, ensure_ascii=False, indent=1) + "\n"


def _byte_symbols() -> list[str]:
    """The printable character that stands for each byte in byte-level BPE (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
