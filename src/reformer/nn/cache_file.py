"""A decode cache on disk: a folder with cache.json and cache.safetensors.

Links between bucket mates are not stored: they follow from the buckets, so a damaged file
cannot send a walk anywhere. Nothing is unpickled. cache.json holds the checksum of the
tensors and the config that they belong to; the weights that made them are the caller's.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from reformer.config import ReformerConfig
from reformer.nn.cache import CachedSequence, CacheError, DecodeCache
from reformer.ops.decode import LinkedTokens, link_tokens
from reformer.ops.token_store import SegmentedStore

DESCRIPTION_FILE = "cache.json"
TENSORS_FILE = "cache.safetensors"
# Buckets hang on how rotations are drawn: those of format 1 were N(0, 1) for every model, those of
# format 2 no products of signs.
_FORMAT = 3


def save_cache(cache: DecodeCache, folder: str | os.PathLike[str]) -> None:
    """Write the cache into ``folder``, which is made if needed."""
    if any(row.memory for row in cache.rows):
        raise CacheError("a decoder's cache cannot be saved: it is made anew from its source")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for index, row in enumerate(cache.rows):
        tensors[f"{index}.input_ids"] = torch.tensor(row.input_ids, dtype=torch.int32)
        for layer, kept in enumerate(row.layers):
            for name, tensor in _tensors(kept).items():
                tensors[f"{index}.{layer}.{name}"] = tensor.cpu().contiguous()
    part = folder / (TENSORS_FILE + ".part")
    save_file(tensors, part)
    description = {
        "format": _FORMAT,
        "checksum": _checksum(part),
        "undo_length": cache.undo_length,
        "config": _relevant(cache.config),
    }
    _replace(part, folder / TENSORS_FILE)
    part = folder / (DESCRIPTION_FILE + ".part")
    part.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    _replace(part, folder / DESCRIPTION_FILE)


def load_cache(
    folder: str | os.PathLike[str],
    config: ReformerConfig,
    *,
    device: torch.device | str = "cpu",
) -> DecodeCache:
    """The cache in ``folder``, for a model of this config and with the weights that made it.

    CacheError when there is none, when it is damaged, or when it belongs to another config.
    """
    folder = Path(folder)
    description = _read_description(folder / DESCRIPTION_FILE)
    if description["config"] != _relevant(config):
        raise CacheError(f"{folder} holds a cache of another model: its config is not this one")
    path = folder / TENSORS_FILE
    try:
        if _checksum(path) != description["checksum"]:
            raise CacheError(f"{path} is damaged: its checksum is not the one in cache.json")
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CacheError(f"{path} cannot be read: {error}") from error
    dtypes = {tensor.dtype for name, tensor in tensors.items() if name.endswith(".value")}
    cache = DecodeCache(
        config,
        sum(name.endswith(".input_ids") for name in tensors),
        undo_length=description["undo_length"],
        dtype=next(iter(dtypes), torch.float32),
        device=device,
    )
    try:
        for index, row in enumerate(cache.rows):
            _fill(row, index, tensors, config.vocab_size)
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise CacheError(f"{path} does not hold the tensors of this config: {error}") from error
    return cache


def _tensors(kept: LinkedTokens | SegmentedStore) -> dict[str, Tensor]:
    store = kept.store if isinstance(kept, LinkedTokens) else kept
    names = set(store.fields) - {"link"}
    return {name: store.slice(name, store.first, store.length) for name in sorted(names)}


def _fill(row: CachedSequence, index: int, tensors: Mapping[str, Tensor], vocab_size: int) -> None:
    ids = tensors[f"{index}.input_ids"]
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        raise ValueError(f"row {index} has token ids outside the vocabulary")
    for layer, kept in enumerate(row.layers):
        key, value = tensors[f"{index}.{layer}.key"], tensors[f"{index}.{layer}.value"]
        if isinstance(kept, SegmentedStore):
            kept.first = kept.length = len(ids) - len(key)
            kept.append({"key": key, "value": value})
            continue
        buckets = tensors[f"{index}.{layer}.bucket"]
        if (
            buckets.numel()
            and not 0 <= int(buckets.min()) <= int(buckets.max()) < kept.last.shape[2]
        ):
            raise ValueError(f"layer {layer} has buckets that do not exist")
        by_token = buckets.to(kept.last.device).permute(1, 2, 0).long()
        link = link_tokens(by_token, kept.last, 0).permute(2, 0, 1)
        kept.store.append({"key": key, "value": value, "link": link, "bucket": buckets})
        if kept.store.length != len(ids):
            raise ValueError(f"layer {layer} has {kept.store.length} of {len(ids)} tokens")
    row.input_ids = ids.tolist()


def _relevant(config: ReformerConfig) -> dict[str, Any]:
    """The config as JSON gives it back, without what does not touch a cache's contents."""
    values: dict[str, Any] = json.loads(json.dumps(config.to_dict()))
    for name in (
        "dropout",
        "dropout_shared",
        "slice_length",
        "init_scale",
        "position_scale",
        "num_levels",
        "origin",
    ):
        values.pop(name, None)
    return values


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CacheError(f"{path.parent} is not a cache: it has no {DESCRIPTION_FILE}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != _FORMAT:
            raise ValueError(
                f"format {values['format']} is not {_FORMAT}: make the cache again from its text"
            )
        if type(values["undo_length"]) is not int:
            raise TypeError(f"undo_length is {values['undo_length']!r}")
        return {name: values[name] for name in ("checksum", "undo_length", "config")}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CacheError(f"{path} cannot be read: {error}") from error


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace(part: Path, path: Path) -> None:
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
