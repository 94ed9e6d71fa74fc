"""The largest tensor that a piece of code makes, seen by intercepting every torch operation."""

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LargestTensor(TorchDispatchMode):
    """Records the most elements that any result of any operation had."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                # An expanded view has many elements and little memory.
                held = leaf.untyped_storage().nbytes() // leaf.element_size()
                self.elements = max(self.elements, min(leaf.numel(), held))
        return result
