"""How well labels are predicted: accuracy, F1, and which classes are taken for which."""

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
