"""One function behind ``reformer convert``: what is in SOURCE decides the direction.

a Hugging Face Reformer (folder or hub id)    becomes a model of this library
a model of this library (model or run folder) becomes a Hugging Face Reformer
a Trax model (.pkl or .pkl.gz)                becomes a model of this library
a reformer-pytorch state dict (.pt or .safetensors)   becomes one, too
"""

import os
from pathlib import Path

from reformer.config import ReformerConfig
from reformer.interop import lucidrains, trax
from reformer.interop.byte_tokenizer import byte_tokenizer
from reformer.interop.checkpoint_files import CONFIG_FILE, WeightsFile, read_json
from reformer.interop.errors import ConversionError
from reformer.interop.huggingface import checkpoint
from reformer.interop.sentencepiece import tokenizer_from_sentencepiece
from reformer.layers import Rule
from reformer.models import store
from reformer.models.pretrained import PretrainedReformer

_TOKENIZER = "tokenizer.json"
_SENTENCEPIECE = "spiece.model"
# google/reformer-enwik8: the bytes after two ids that are no text; its folder has no tokenizer.
_ENWIK8_VOCABULARY, _ENWIK8_OFFSET = 258, 2


def convert(
    source: str,
    target: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    weights_file: WeightsFile = "model.safetensors",
    revision: str | None = None,
    rule: Rule = "chunk",
) -> str:
    """Convert SOURCE into the folder TARGET, which must not hold anything yet.

    config: for files of weights alone, a JSON file that says what the weights do not: for Trax a
    config.json of this library (or a folder with one), for reformer-pytorch the arguments of its
    ReformerLM. weights_file, revision, rule: see ``huggingface.load``. Returns a
    sentence about what was written. Raises ``ConversionError``; TARGET is then as it was.
    """
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConversionError(f"{target} exists already: name a new folder")
    if Path(source).is_file():
        _require_chunk_rule(rule, source)
        return _from_file(Path(source), target, config)
    if config is not None:
        raise ConversionError(f"config is for files of weights alone: {source} has its own")
    folder = checkpoint.find_folder(source, weights_file, revision)
    model_type = read_json(folder / CONFIG_FILE).get("model_type")
    if model_type == store.MODEL_TYPE:
        _require_chunk_rule(rule, source)
        return _to_hugging_face(folder, target)
    model = checkpoint.load(folder, weights_file=weights_file, rule=rule)
    tokenizer = _tokenizer_of(folder, model.config)
    return _written(model, target, tokenizer, "a Hugging Face Reformer")


def _require_chunk_rule(rule: Rule, source: str) -> None:
    if rule != "chunk":
        raise ConversionError(
            f"rule is {rule!r}: it is for Hugging Face's models that become ours, and {source} is "
            "none"
        )


def _from_file(source: Path, target: Path, config: str | os.PathLike[str] | None) -> str:
    if config is None:
        raise ConversionError(
            f"{source} holds weights alone: name a JSON file of its settings with config (--config)"
        )
    path = Path(config) / CONFIG_FILE if Path(config).is_dir() else Path(config)
    values = read_json(path)
    if ".pkl" in source.suffixes:
        ours = ReformerConfig.from_dict(values.get("reformer", values))
        return _written(trax.load(source, ours), target, None, "a Trax model")
    if source.suffix in lucidrains.SUFFIXES:
        return _written(lucidrains.load(source, values), target, None, "a reformer-pytorch model")
    raise ConversionError(
        f"{source} is of no known kind: .pkl and .pkl.gz are Trax's, "
        f"{', '.join(lucidrains.SUFFIXES)} reformer-pytorch's"
    )


def _written(model: PretrainedReformer, target: Path, tokenizer: str | None, origin: str) -> str:
    model.save_pretrained(target)
    if tokenizer is not None:
        _write_text(target / _TOKENIZER, tokenizer)
    return f"{target} is {origin} as {type(model).__name__}" + _about(tokenizer)


def _about(tokenizer: str | None) -> str:
    return ", with its tokenizer.json" if tokenizer is not None else ", without a tokenizer"


def _to_hugging_face(folder: Path, target: Path) -> str:
    architecture, _ = store.read_config(folder)
    classes = {cls.__name__: cls for cls in checkpoint.MODELS.values()}
    if architecture not in classes:
        raise ConversionError(f"{architecture} has no equal in Hugging Face's Reformer")
    model = classes[architecture].from_pretrained(folder)
    tokenizer = None
    if (folder / _TOKENIZER).is_file():
        tokenizer = _read_text(folder / _TOKENIZER)
    elif model.config.vocab_size == 256:
        tokenizer = byte_tokenizer()
    checkpoint.export(model, target)
    if tokenizer is not None:
        _write_text(target / _TOKENIZER, tokenizer)
        _write_text(target / "tokenizer_config.json", _TOKENIZER_CONFIG)
    needs = " (transformers 5.24 or later)" if checkpoint.adds_bias(model) else ""
    return f"{target} is {folder} as a Hugging Face Reformer{needs}" + _about(tokenizer)


# Without it transformers would look for the SentencePiece file of its own Reformer.
_TOKENIZER_CONFIG = '{"tokenizer_class": "PreTrainedTokenizerFast"}\n'


def _tokenizer_of(folder: Path, config: ReformerConfig) -> str | None:
    if (folder / _TOKENIZER).is_file():
        return _read_text(folder / _TOKENIZER)
    if (folder / _SENTENCEPIECE).is_file():
        return tokenizer_from_sentencepiece(folder / _SENTENCEPIECE)
    if config.vocab_size == _ENWIK8_VOCABULARY:
        return byte_tokenizer(_ENWIK8_OFFSET)
    return None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"{path} cannot be read as UTF-8: {error}") from error


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
