"""The device that a command computes on."""

import torch

from reformer.cli.arguments import DeviceName
from reformer.config import ConfigError


def find_device(name: DeviceName) -> torch.device:
    """auto takes a GPU when there is one; ConfigError for a GPU that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda': torch finds no GPU here; use --device cpu")
    return torch.device(name)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 have instructions of their own; without them they take
    ten times as long as those in float32."""
    if device.type != "cpu":
        return True
    library = torch.backends.mkldnn.is_available()
    return library and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
