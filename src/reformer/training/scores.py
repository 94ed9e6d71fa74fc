"""How well labels are predicted: accuracy, F1, and which classes are taken for which."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


def confusion_matrix(wanted: Counts, predicted: Counts, num_classes: int) -> Counts:
    """How often class i was taken for class j, [num_classes, num_classes]."""
    pairs = wanted * num_classes + predicted
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def accuracy(confusion: Counts) -> float:
    """The share of right predictions."""
    return float(np.trace(confusion) / max(1, confusion.sum()))


def f1_scores(hits: Counts, predicted: Counts, wanted: Counts) -> npt.NDArray[np.float64]:
    """Per class, the harmonic mean of precision and recall: 2 hits / (predicted + wanted).

    hits, predicted, wanted: how often, [C]. 0 for a class that was never predicted nor wanted.
    """
    return 2.0 * hits / np.maximum(predicted + wanted, 1)


def macro_f1(hits: Counts, predicted: Counts, wanted: Counts) -> float:
    """The mean F1 of the classes that occur, in the data or in the predictions."""
    occurs = predicted + wanted > 0
    return float(f1_scores(hits, predicted, wanted)[occurs].mean()) if occurs.any() else 0.0


def spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """The spans (kind, first, end) that B-kind, I-kind and O mark. An I- without its B- begins
    a span, as in CoNLL's script."""
    found, start = set(), 0
    for place, (before, tag) in enumerate(zip(["O", *tags], [*tags, "O"], strict=True)):
        inside = tag.startswith("I-") and before[1:] == tag[1:]
        if not inside:
            if before != "O":
                found.add((before[2:], start, place))
            start = place
    return found


def span_f1(wanted: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """F1 of whole spans over all sentences: both ends and the kind must be right."""
    pairs = [(spans(w), spans(p)) for w, p in zip(wanted, predicted, strict=True)]
    hits = sum(len(w & p) for w, p in pairs)
    total = sum(len(w) + len(p) for w, p in pairs)
    return 2.0 * hits / total if total else 1.0
