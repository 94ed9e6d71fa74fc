"""Finished sequences, kept so that a prompt that begins as one of them need not be read again."""

from collections import OrderedDict
from collections.abc import Sequence

from reformer.nn.cache import CachedSequence

_LEAST_SHARED = 16
"""Sharing fewer tokens than this is not worth the looking up."""


class PrefixStore:
    """Sequences within a budget of bytes; the longest unused go first."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._rows: OrderedDict[int, CachedSequence] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        """Memory of all kept sequences."""
        return sum(row.num_bytes for row in self._rows.values())

    def keep(self, row: CachedSequence) -> None:
        """Keep a sequence that nobody appends to any more."""
        if len(row) < _LEAST_SHARED or row.num_bytes > self._budget:
            return
        self._rows[id(row)] = row
        while self.num_bytes > self._budget:
            self._rows.popitem(last=False)

    def take(self, prompt: Sequence[int]) -> CachedSequence | None:
        """A sequence that holds the longest beginning of the prompt, short of its last token.

        One that would be shortened is forked first, so it stays for others.
        """
        shared, row = max(
            ((_common_length(row.input_ids, prompt[:-1]), row) for row in self._rows.values()),
            key=lambda found: found[0],
            default=(0, None),
        )
        if row is None or shared < _LEAST_SHARED or not row.can_truncate(shared):
            return None
        if shared == len(row):
            return self._rows.pop(id(row))
        self._rows.move_to_end(id(row))
        copy = row.fork()
        copy.truncate(shared)
        return copy


def _common_length(held: Sequence[int], prompt: Sequence[int]) -> int:
    """How many ids both begin with: by halving, so that long lists are compared at C speed."""
    low, high = 0, min(len(held), len(prompt))
    while low < high:
        middle = (low + high + 1) // 2
        if held[low:middle] == prompt[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
