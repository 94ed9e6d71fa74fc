"""What a kind of signal is: how its files are read as values, and written from them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.uint8]
"""[N], each below the kind's ``vocab_size``."""


class SignalKind(ABC):
    """A kind of signal with what its files have in common, such as a sample rate.

    Subclasses are dataclasses whose fields are plain values.
    """

    name: ClassVar[str]
    value_name: ClassVar[str]
    """What one value is called, in the plural."""
    endings: ClassVar[frozenset[str]]
    """Endings of its files' names, besides those of compressed files."""
    vocab_size: ClassVar[int]
    num_levels: ClassVar[int] = 0
    """Values below this are levels of one quantity (``ReformerConfig.num_levels``)."""

    @abstractmethod
    def read(self, file: Path) -> Iterator[Values]:
        """A file's values, part by part; InputError names the file and what is wrong."""

    @abstractmethod
    def write(self, values: Values, file: Path) -> None:
        """A new file that holds the values."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"kind": self.name, **asdict(self)}  # type: ignore[call-overload]
