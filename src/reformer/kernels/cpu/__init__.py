"""Native kernels for the CPU: the functions that ``ops/dispatch.py`` may choose.

C++17 without torch headers, one source built for several instruction sets, loaded with ctypes.
Importing this works without a compiled library; ``refusal`` then says what is missing.
"""

from reformer.kernels.cpu.attention import attention, attention_backward
from reformer.kernels.cpu.decode import append_linked, append_refusal, append_windowed
from reformer.kernels.cpu.hashing import hash_vectors
from reformer.kernels.cpu.layer import append_layer, layer_refusal
from reformer.kernels.cpu.library import Description, description, refusal
from reformer.kernels.cpu.sorting import sort_tokens

__all__ = [
    "Description",
    "append_layer",
    "append_linked",
    "append_refusal",
    "append_windowed",
    "attention",
    "attention_backward",
    "description",
    "hash_vectors",
    "layer_refusal",
    "refusal",
    "sort_tokens",
]
