"""Every file that the library reads, in folders that are small and right, and how it is read."""

import gzip
import json
import lzma
import pickle
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from reformer.config import LSH, Local
from reformer.data.chat_template import TEMPLATE_FILE, ChatTemplate, template_text
from reformer.data.dialogues import read_dialogues
from reformer.data.files import read_file
from reformer.data.tokenizer import JsonTokenizer, train_tokenizer
from reformer.generation.extend import extend, new_cache
from reformer.interop.convert import convert
from reformer.interop.huggingface import checkpoint as huggingface
from reformer.interop.lucidrains import import_settings
from reformer.models.language import ReformerForCausalLM
from reformer.nn.cache_file import load_cache, save_cache
from reformer.tasks import prepare_task
from reformer.training import checkpoint, loop
from reformer.training.loop import start_or_resume
from reformer.training.run import Run, open_run
from tests.interop.test_trax import CONFIG as TRAX_CONFIG
from tests.interop.test_trax import trax_weights
from tests.models.small import small_config
from tests.training.conftest import Listener
from tests.trust.conftest import new_run

CHUNKED = small_config(
    layers=(Local(8, rule="chunk"), LSH(2, 8, 8, rule="chunk")), axial_shape=(8, 8),
    vocab_size=4, head_bias="held",
)  # fmt: skip
LUCIDRAINS = {
    "num_tokens": 23, "dim": 16, "depth": 1, "max_seq_len": 32, "heads": 2, "dim_head": 8,
    "bucket_size": 4, "n_hashes": 1, "causal": True, "absolute_position_emb": True,
}  # fmt: skip
TEXT = "The whale and the ship and the sea. " * 30
DIALOGUE = (
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
)


@dataclass(frozen=True)
class Slot:
    """A file, the folder that it lies in, and what reads it there."""

    folder: str
    file: str
    read: Callable[[Path], object]

    @property
    def name(self) -> str:
        return f"{self.folder}/{self.file}"


def _read_model(folder: Path) -> object:
    model = ReformerForCausalLM.from_pretrained(folder)
    return model(torch.zeros(1, min(4, model.config.max_length), dtype=torch.int64))


def _read_run(folder: Path) -> object:
    """All that resuming reads, up to the first step."""
    run, task = prepare_task(open_run(folder), length_fixed=True, say=str)
    run.chat_template()
    return start_or_resume(run, task.model, Listener(), torch.device("cpu"))


def _resign(folder: Path) -> None:
    """Whoever changes a checkpoint on purpose makes its manifest fit."""
    step = folder / "checkpoints" / "step-000001"
    if not (step / "manifest.json").is_dir():
        (step / "manifest.json").unlink(missing_ok=True)
        (step / "manifest.json").write_text(checkpoint._manifest(step, 1))


def _read_signed_run(folder: Path) -> object:
    _resign(folder)
    return _read_run(folder)


def _read_cache(folder: Path) -> object:
    return load_cache(folder, small_config())


def _read_tokenizer(folder: Path) -> object:
    tokenizer = JsonTokenizer(folder / "tokenizer.json")
    ids = [int(i) for part in tokenizer.encode([TEXT.encode()]) for i in part]
    decoder = tokenizer.decoder()
    return "".join(decoder.feed(i) for i in ids) + decoder.finish()


def _converted(source: str, **options: Any) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        target = folder.parent / "converted"
        given = {k: str(folder / v) if k == "config" else v for k, v in options.items()}
        try:
            return convert(str(folder / source), target, **given)
        finally:
            shutil.rmtree(target, ignore_errors=True)

    return read


def _read_text(name: str) -> Callable[[Path], object]:
    return lambda folder: sum(len(chunk) for chunk in read_file(folder / name))


def _read_dialogues(folder: Path) -> object:
    return list(read_dialogues([folder / "talk.jsonl"]))


_BIN = _converted(".", weights_file="pytorch_model.bin")
SLOTS = (
    *(Slot("model", name, _read_model) for name in ("config.json", "model.safetensors")),
    *(
        Slot("run", name, _read_run)
        for name in (
            "run.json", "chat.json", "metrics.jsonl", "model.safetensors", "config.json",
            "data/train.json", "data/train.tokens", "data/validation.json", "checkpoints/latest",
            "checkpoints/step-000001/manifest.json", "checkpoints/step-000001/state.json",
        )
    ),
    *(
        Slot("run", f"checkpoints/step-000001/{name}", _read_signed_run)
        for name in ("state.json", "model.safetensors", "optimizer.safetensors")
    ),
    *(Slot("cache", name, _read_cache) for name in ("cache.json", "cache.safetensors")),
    Slot("tokenizer", "tokenizer.json", _read_tokenizer),
    *(
        Slot("huggingface", name, _converted("."))
        for name in ("config.json", "model.safetensors", "spiece.model")
    ),
    *(
        Slot("shards", name, _converted("."))
        for name in ("model.safetensors.index.json", "model-1.safetensors", "tokenizer.json")
    ),
    Slot("torch", "pytorch_model.bin", _BIN),
    Slot("torch shards", "pytorch_model.bin.index.json", _BIN),
    Slot("torch shards", "pytorch_model-1.bin", _BIN),
    Slot("trax", "model.pkl", _converted("model.pkl", config="config.json")),
    Slot("trax", "model.pkl.gz", _converted("model.pkl.gz", config="config.json")),
    Slot("trax", "config.json", _converted("model.pkl", config="config.json")),
    Slot("lucidrains", "model.pt", _converted("model.pt", config="settings.json")),
    Slot("lucidrains", "model.safetensors",
         _converted("model.safetensors", config="settings.json")),
    Slot("lucidrains", "settings.json", _converted("model.pt", config="settings.json")),
    *(
        Slot("texts", name, _read_text(name))
        for name in ("text.txt", "text.txt.gz", "text.txt.xz", "text.txt.zst")
    ),
    Slot("texts", "talk.jsonl", _read_dialogues),
)  # fmt: skip


def make_folders(root: Path) -> None:
    """All the folders; every slot can be read."""
    root.mkdir(exist_ok=True)
    for make in (_model, _run, _cache, _tokenizer, _huggingface, _trax, _lucidrains, _texts):
        make(root)


def _model(root: Path) -> None:
    ReformerForCausalLM(small_config()).save_pretrained(root / "model")


def _run(root: Path) -> None:
    (root / "text.txt").write_text(TEXT * 2)
    run: Run = new_run(root / "run", root / "text.txt", steps=9, keep_last=1)
    run, task = prepare_task(run, length_fixed=True, say=str)
    state = start_or_resume(run, task.model, Listener(), torch.device("cpu"))
    loop.update(state, task.source, run.description.settings)
    loop._save(run, state)
    (run.path / TEMPLATE_FILE).write_text(template_text(ChatTemplate()))
    run.metrics.write_text('{"step": 1, "train_bits_per_byte": 5.0}\n')


def _cache(root: Path) -> None:
    model = ReformerForCausalLM(small_config()).eval()
    cache = new_cache(model, 1)
    extend(model, [[1, 2, 3, 4, 5]], cache)
    save_cache(cache, root / "cache")


def _tokenizer(root: Path) -> None:
    (root / "tokenizer").mkdir()
    (root / "tokenizer" / "tokenizer.json").write_text(train_tokenizer([TEXT.encode()], 280))


def _huggingface(root: Path) -> None:
    folder = root / "huggingface"
    huggingface.export(ReformerForCausalLM(CHUNKED), folder)
    (folder / "spiece.model").write_bytes(_sentencepiece(["<unk>", "a", "b", "\u2581"]))
    values = huggingface.read_tensors(folder, "model.safetensors")
    tensors = {name: tensor.clone() for name, tensor in values.items()}
    index = {"weight_map": dict.fromkeys(tensors, "model-1.safetensors")}
    for name, suffix in (("shards", "safetensors"), ("torch", "bin"), ("torch shards", "bin")):
        other = root / name
        other.mkdir()
        shutil.copy(folder / "config.json", other)
        if name == "shards":
            save_file(tensors, other / "model-1.safetensors")
            shutil.copy(root / "tokenizer" / "tokenizer.json", other)
            (other / "model.safetensors.index.json").write_text(json.dumps(index))
        elif name == "torch":
            torch.save(tensors, other / "pytorch_model.bin")
        else:
            torch.save(tensors, other / f"pytorch_model-1.{suffix}")
            shards = {"weight_map": dict.fromkeys(tensors, f"pytorch_model-1.{suffix}")}
            (other / "pytorch_model.bin.index.json").write_text(json.dumps(shards))


def _sentencepiece(pieces: list[str]) -> bytes:
    """A unigram model, as a protocol buffer."""

    def part(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    parts = b""
    for index, piece in enumerate(pieces):
        kind = bytes([3 << 3, 2 if index == 0 else 1])
        score = bytes([2 << 3 | 5]) + struct.pack("<f", -float(index))
        parts += part(1, part(1, piece.encode()) + score + kind)
    return parts + part(2, bytes([3 << 3, 1])) + part(3, bytes([3 << 3, 1]))


def _trax(root: Path) -> None:
    folder = root / "trax"
    folder.mkdir()
    weights = trax_weights(ReformerForCausalLM(TRAX_CONFIG), chunked=False)
    data = pickle.dumps({"weights": weights})
    (folder / "model.pkl").write_bytes(data)
    (folder / "model.pkl.gz").write_bytes(gzip.compress(data))
    (folder / "config.json").write_text(json.dumps(TRAX_CONFIG.to_dict()))


def _lucidrains(root: Path) -> None:
    folder = root / "lucidrains"
    folder.mkdir()
    tensors = _lucidrains_names(ReformerForCausalLM(import_settings(LUCIDRAINS)))
    torch.save(tensors, folder / "model.pt")
    save_file(tensors, folder / "model.safetensors")
    (folder / "settings.json").write_text(json.dumps(LUCIDRAINS))


def _lucidrains_names(model: ReformerForCausalLM) -> dict[str, torch.Tensor]:
    pairs = {
        "reformer.embedding.tokens": "token_emb", "reformer.norm": "norm", "head": "out.1",
        "reformer.embedding.positions.tables.0": "pos_emb.emb.weight",
        "reformer.blocks.0.attention_norm": "reformer.layers.blocks.0.f.net.norm",
        "reformer.blocks.0.attention.output": "reformer.layers.blocks.0.f.net.fn.to_out",
        "reformer.blocks.0.attention.query_key": "reformer.layers.blocks.0.f.net.fn.toqk",
        "reformer.blocks.0.attention.value": "reformer.layers.blocks.0.f.net.fn.tov",
        "reformer.blocks.0.feed_forward_norm": "reformer.layers.blocks.0.g.net.norm",
        "reformer.blocks.0.feed_forward.inner": "reformer.layers.blocks.0.g.net.fn.fn.w1",
        "reformer.blocks.0.feed_forward.output": "reformer.layers.blocks.0.g.net.fn.fn.w2",
    }  # fmt: skip
    found = {}
    for name, tensor in model.state_dict().items():
        ours = max((ours for ours in pairs if name.startswith(ours)), key=len)
        found[pairs[ours] + name.removeprefix(ours)] = tensor.clone()
    return found


def _texts(root: Path) -> None:
    import zstandard

    folder = root / "texts"
    folder.mkdir()
    data = TEXT.encode()
    (folder / "text.txt").write_bytes(data)
    (folder / "text.txt.gz").write_bytes(gzip.compress(data))
    (folder / "text.txt.xz").write_bytes(lzma.compress(data))
    (folder / "text.txt.zst").write_bytes(zstandard.compress(data))
    (folder / "talk.jsonl").write_text(DIALOGUE * 3)
