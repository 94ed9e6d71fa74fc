"""Hugging Face: their Reformers as ours and back, and ours inside their library.

Only this package knows ``transformers``, and only what runs inside that library imports it.
"""

from reformer.interop.errors import ConversionError
from reformer.interop.huggingface.checkpoint import export, load

__all__ = ["ConversionError", "export", "load"]
