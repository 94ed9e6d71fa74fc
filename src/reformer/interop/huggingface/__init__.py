"""Hugging Face: their Reformers as ours and back, and ours inside their library.

    model = load("google/reformer-enwik8")      theirs as ours: a folder, a hub id, an object
    export(model, folder)                       ours as theirs
    speed_up(their_model)                       theirs, faster where it stands
    register()                                  ours for AutoModelForCausalLM and its sisters

Only this package knows ``transformers``, and only ``speed_up`` and ``register`` import it.
"""

from typing import TYPE_CHECKING, TypeVar

from reformer.interop.errors import ConversionError
from reformer.interop.huggingface.checkpoint import export, load

__all__ = ["ConversionError", "export", "load", "register", "speed_up"]

if TYPE_CHECKING:
    from torch import nn

_Model = TypeVar("_Model", bound="nn.Module")


def speed_up(model: _Model) -> _Model:
    """See ``fused.speed_up``."""
    from reformer.interop.huggingface.fused import speed_up as apply

    return apply(model)


def register() -> None:
    """Make the Auto classes of transformers know our models; see ``native``."""
    from reformer.interop.huggingface import native  # noqa: F401
