"""Checkpoints of the Hugging Face hub, in the hub's own cache."""

from pathlib import Path

from reformer.interop.checkpoint_files import WeightsFile, how_to_ask_for, other_kind
from reformer.interop.errors import ConversionError


def download(repository: str, weights_file: WeightsFile, revision: str | None = None) -> Path:
    """A folder with the repository's configuration, tokenizer and weights of the named kind."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ConversionError(
            f"{repository} is no folder, and fetching it from the hub needs huggingface_hub: "
            "pip install 'reformer-core[hf]'"
        ) from error
    stem, suffix = weights_file.split(".")
    weights = f"{stem}*.{suffix}*"
    wanted = ["config.json", "spiece.model", "tokenizer*.json", weights]
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except Exception as error:  # the hub's errors come from several libraries
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConversionError(
            f"{repository} is no folder here and could not be fetched from the hub: {reason}"
        ) from error
    if not any(folder.glob(weights)):
        other = other_kind(weights_file)
        raise ConversionError(
            f"{repository} has no {weights_file}; it may have a {other}: {how_to_ask_for(other)}"
        )
    return folder
