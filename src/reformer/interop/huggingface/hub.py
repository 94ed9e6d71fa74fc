"""Checkpoints of the Hugging Face hub, in the hub's own cache."""

from pathlib import Path

from reformer.interop.checkpoint_files import WeightsFile
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
    wanted = ["config.json", "spiece.model", "tokenizer*.json", f"{stem}*.{suffix}*"]
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except Exception as error:  # the hub's errors come from several libraries
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConversionError(
            f"{repository} is no folder here and could not be fetched from the hub: {reason}"
        ) from error
