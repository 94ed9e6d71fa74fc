"""reformer-pytorch's ReformerLM (lucidrains) as ours, where its settings have an equal here.

Its settings are the arguments of its constructor; a checkpoint does not hold them. What has no
equal is named in an error, with the reason: see ``NO_EQUAL``. What stays different:

- Theirs hashes into length / bucket_size buckets at each length, ours always into those of
  max_seq_len; and theirs draws other rotations in every pass, ours keep theirs.
- A token that sees no other scores itself -5e4 there and -1e5 here. Both are the same but for
  rounding, which with several rounds changes such a token by up to 0.4 percent.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from reformer.config import LSH, ReformerConfig
from reformer.interop.checkpoint_files import read_torch_file
from reformer.interop.errors import ConversionError
from reformer.models.language import ReformerForCausalLM
from reformer.models.masked_language import ReformerForMaskedLM

SUFFIXES = (".pt", ".pth", ".safetensors")

NO_EQUAL = {
    "weight_tie": "layers that share their weights",
    "ff_glu": "gated feed-forward layers",
    "ff_dropout": "dropout inside the feed-forward layer",
    "layer_dropout": "layers that are skipped at random",
    "use_scale_norm": "ScaleNorm",
    "use_rezero": "ReZero",
    "num_mem_kv": "learned memory keys",
    "one_value_head": "a value head that all heads share",
    "weight_tie_embedding": "a head that is the embedding",
    "return_embeddings": "a model without a head",
    "fixed_position_emb": "sinusoidal positions",
    "n_local_attn_heads": "local and LSH heads in one layer",
    "pkm_layers": "product key memories",
}
"""Settings that must keep their default (off), and what they ask for."""

_NO_BEARING = {
    "ff_chunks", "attn_chunks", "reverse_thres", "random_rotations_per_head",
    "post_attn_dropout", "pkm_num_keys",
}  # fmt: skip
"""Settings that do not change what the model computes (theirs ignores post_attn_dropout)."""

_USED = {
    "num_tokens", "dim", "depth", "max_seq_len", "heads", "dim_head", "bucket_size", "n_hashes",
    "causal", "lsh_dropout", "ff_mult", "ff_activation", "use_full_attn", "full_attn_thres",
    "emb_dim", "absolute_position_emb", "axial_position_emb", "axial_position_shape",
}  # fmt: skip


_COUNTS = {
    "num_tokens", "dim", "depth", "max_seq_len", "heads", "dim_head", "bucket_size", "n_hashes",
    "ff_mult",
}  # fmt: skip
_MOST_LAYERS = 10_000


def import_settings(settings: Mapping[str, Any]) -> ReformerConfig:
    """Our configuration for the arguments of their constructor; ``ConversionError`` names what
    has no equal."""
    for name, value in settings.items():
        if name not in _USED | _NO_BEARING | set(NO_EQUAL):
            raise ConversionError(f"{name!r} is no setting of reformer-pytorch's ReformerLM")
        if name in NO_EQUAL and value:
            raise ConversionError(f"{name} is {value!r}: {NO_EQUAL[name]} have no equal here")
    missing = [n for n in ("num_tokens", "dim", "depth", "max_seq_len") if n not in settings]
    if missing:
        raise ConversionError(f"{missing[0]} is missing: it has no default in reformer-pytorch")
    for name in _COUNTS & set(settings):
        value = settings[name]
        if type(value) is not int or not 0 < value < 2**31:
            raise ConversionError(f"{name} is {value!r}: it must be a whole number from 1 up")
    if settings["depth"] > _MOST_LAYERS:
        raise ConversionError(f"depth is {settings['depth']}: it may be at most {_MOST_LAYERS}")
    dim, longest = settings["dim"], settings["max_seq_len"]
    chunk = settings.get("bucket_size", 64)
    _check_equal(settings, dim, chunk)
    return ReformerConfig(
        vocab_size=settings["num_tokens"],
        hidden_size=dim,
        feed_forward_size=dim * settings.get("ff_mult", 4),
        num_heads=settings.get("heads", 8),
        head_size=settings.get("dim_head", 64),
        max_length=longest,
        layers=(_layer(settings, longest, chunk),) * settings["depth"],
        causal=settings.get("causal", False),
        axial_shape=(longest,),
        axial_sizes=(dim,),
        streams="float",
        norm_epsilon=1e-5,
        streams_end="averaged",
        attention_bias="output",
    )


def _check_equal(settings: Mapping[str, Any], dim: int, chunk: int) -> None:
    if not (settings.get("absolute_position_emb") or settings.get("axial_position_emb")):
        raise ConversionError(
            "absolute_position_emb and axial_position_emb are off: the default, rotary positions "
            "after hashing, has no equal here"
        )
    if settings.get("emb_dim", dim) not in (None, dim):
        raise ConversionError(f"emb_dim is {settings['emb_dim']}: embeddings here are dim wide")
    if settings.get("ff_activation") is not None:
        raise ConversionError("ff_activation is given: only the default, GELU, is known here")
    most = settings.get("full_attn_thres", 0)
    if not isinstance(most, (int, float)):
        raise ConversionError(f"full_attn_thres is {most!r}: it must be a number")
    if not settings.get("use_full_attn") and most > chunk:
        raise ConversionError(
            f"full_attn_thres is {most}: here attention is exact up to bucket_size ({chunk})"
        )


def _layer(settings: Mapping[str, Any], longest: int, chunk: int) -> LSH:
    scale = settings.get("dim_head", 64) ** -0.5
    dropout = settings.get("lsh_dropout", 0.0)
    if settings.get("use_full_attn"):
        return LSH(1, longest, 2, "chunk", score_scale=scale, dropout=dropout)
    buckets = longest // chunk
    return LSH(
        settings.get("n_hashes", 4), chunk, (buckets,), "chunk", score_scale=scale, dropout=dropout
    )


def load(
    source: str | os.PathLike[str] | Mapping[str, Tensor], settings: Mapping[str, Any]
) -> ReformerForCausalLM | ReformerForMaskedLM:
    """Their ReformerLM as ours, in evaluation mode; bidirectional ones are masked models.

    source: its state dict, or a file of it (.safetensors; .pt and .pth, read as plain weights).
    settings: the arguments of its constructor. Raises ``ConversionError``.
    """
    config = import_settings(settings)
    theirs = dict(source) if isinstance(source, Mapping) else _read(Path(source))
    found = dict(_tensors(theirs, config))
    rest = sorted(theirs)
    if rest:
        raise ConversionError(f"the weights hold {rest[0]}, which these settings do not have")

    def read(expected: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        for name, tensor in expected.items():
            if found[name].shape != tensor.shape:
                raise ConversionError(
                    f"{name} is {list(found[name].shape)} in the weights, but the settings ask "
                    f"for {list(tensor.shape)}"
                )
        return found

    cls = ReformerForCausalLM if config.causal else ReformerForMaskedLM
    return cls(config, read=read).eval()


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        return read_torch_file(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise ConversionError(f"{path} is damaged or missing: {error}") from error


def _tensors(theirs: dict[str, Tensor], config: ReformerConfig) -> Iterator[tuple[str, Tensor]]:
    """Ours, name by name; each of theirs is taken out as it is used."""

    def take(name: str) -> Tensor:
        if name not in theirs:
            raise ConversionError(f"the weights lack {name}")
        return theirs.pop(name).detach().to(torch.float32, copy=True)

    yield "reformer.embedding.tokens.weight", take("token_emb.weight")
    yield "reformer.embedding.positions.tables.0", _positions(theirs, take, config)
    for index in range(len(config.layers)):
        block = f"reformer.blocks.{index}"
        layer = f"reformer.layers.blocks.{index}"
        for part in ("weight", "bias"):
            yield f"{block}.attention_norm.{part}", take(f"{layer}.f.net.norm.{part}")
            yield f"{block}.attention.output.{part}", take(f"{layer}.f.net.fn.to_out.{part}")
            yield f"{block}.feed_forward_norm.{part}", take(f"{layer}.g.net.norm.{part}")
            yield f"{block}.feed_forward.inner.{part}", take(f"{layer}.g.net.fn.fn.w1.{part}")
            yield f"{block}.feed_forward.output.{part}", take(f"{layer}.g.net.fn.fn.w2.{part}")
        yield f"{block}.attention.query_key.weight", take(f"{layer}.f.net.fn.toqk.weight")
        yield f"{block}.attention.value.weight", take(f"{layer}.f.net.fn.tov.weight")
    for part in ("weight", "bias"):
        yield f"reformer.norm.{part}", take(f"norm.{part}")
        yield f"head.{part}", take(f"out.1.{part}")
    # The same modules under a second name.
    for name in [name for name in theirs if name.startswith("reformer.layers.irrev_blocks.")]:
        del theirs[name]


def _positions(theirs: dict[str, Tensor], take: Any, config: ReformerConfig) -> Tensor:
    """One table for all positions; their axial tables are summed."""
    if "pos_emb.emb.weight" in theirs:
        return take("pos_emb.emb.weight")
    names = sorted(name for name in theirs if name.startswith("pos_emb.weights."))
    if not names:
        raise ConversionError("the weights lack pos_emb.emb.weight and pos_emb.weights.0")
    total = take(names[0])
    for name in names[1:]:
        total = total + take(name)
    return total.flatten(0, -2)[: config.max_length]
