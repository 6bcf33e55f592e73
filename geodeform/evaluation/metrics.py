"""Segmentation metrics over label arrays: numpy only, pooled over any number of images.

IoU is pooled: the counts of all images are added before any ratio is taken, and the mean runs over
the evaluated classes only (design/method.md, Metrics).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geodeform.classes import NODATA_CLASS

_CHUNK = 1 << 20  # pixels counted at once: intermediates take 18 bytes a pixel


def confusion_matrix(
    labels: NDArray[np.integer],
    prediction: NDArray[np.integer],
    n_classes: int,
    *,
    ignore: int = NODATA_CLASS,
) -> NDArray[np.int64]:
    """Count how often class i was predicted as class j.

    Args:
        labels: Ids of any shape; pixels equal to ``ignore`` are left out.
        prediction: Ids of the same shape. An id outside 0…n_classes − 1 (255, no data) counts as
            "no class": a miss for the label's class and a false alarm for none.
        n_classes: Number of classes.
        ignore: Label value that is not evaluated.

    Returns:
        (n_classes, n_classes + 1) counts, row = label, column = prediction, last column = no class.

    Raises:
        ValueError: If the shapes differ or a label is neither a class nor ``ignore``.
    """
    if labels.shape != prediction.shape:
        raise ValueError(f"labels {labels.shape} and prediction {prediction.shape} differ in shape")
    width = n_classes + 1
    counts = np.zeros(n_classes * width, np.int64)
    truth, guess = labels.reshape(-1), prediction.reshape(-1)
    for start in range(0, truth.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        known = truth[part] != ignore
        rows, columns = truth[part][known], guess[part][known]
        if rows.size and (int(rows.min()) < 0 or int(rows.max()) >= n_classes):
            strange = int(rows[(rows < 0) | (rows >= n_classes)][0])
            raise ValueError(
                f"label {strange} is neither a class of 0…{n_classes - 1} nor {ignore}"
            )
        columns = np.where((columns < 0) | (columns >= n_classes), n_classes, columns)
        # int32 halves the traffic and holds every id of at most 255 classes
        flat = rows.astype(np.int32) * width + columns.astype(np.int32)
        counts += np.bincount(flat, minlength=n_classes * width)
    return counts.reshape(n_classes, width)


@dataclass
class Confusion:
    """Counts pooled over images, and what follows from them.

    Attributes:
        n_classes: Number of classes.
        ignore: Label value that is not evaluated.
        counts: (n_classes, n_classes + 1), as :func:`confusion_matrix` returns.
    """

    n_classes: int
    ignore: int = NODATA_CLASS
    counts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.n_classes, self.n_classes + 1), np.int64)

    @classmethod
    def of(cls, counts: ArrayLike) -> Confusion:
        """Take counts that were made before, (n_classes, n_classes + 1); they are copied.

        Raises:
            ValueError: If the shape is another.
        """
        taken = np.array(counts, np.int64)
        if taken.ndim != 2 or taken.shape[1] != taken.shape[0] + 1:
            raise ValueError(f"counts must be (n, n + 1), got {taken.shape}")
        confusion = cls(len(taken))
        confusion.counts = taken
        return confusion

    def add(self, labels: NDArray[np.integer], prediction: NDArray[np.integer]) -> None:
        """Add one image's pixels; raises as :func:`confusion_matrix` does."""
        self.counts += confusion_matrix(labels, prediction, self.n_classes, ignore=self.ignore)

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class, (n_classes,) in 0…1.

        NaN for a class that neither the labels nor the predictions have.
        """
        hits = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(1) + self.counts[:, : self.n_classes].sum(0) - hits
        iou = np.full(self.n_classes, np.nan)
        np.divide(hits, union, out=iou, where=union > 0)
        return iou

    def evaluated(self) -> NDArray[np.bool_]:
        """Which classes occur in the labels, (n_classes,)."""
        return np.asarray(self.counts.sum(1) > 0)

    def miou(self, classes: Iterable[int] | None = None) -> float:
        """Mean IoU over the evaluated classes, 0…1.

        Args:
            classes: Ids to average; where not given, those that occur in the labels. A given class
                that never occurs and is never predicted is left out; NaN where none is left.
        """
        chosen = self.evaluated() if classes is None else np.isin(self._ids(), list(classes))
        values = self.iou()[chosen]
        values = values[~np.isnan(values)]
        return float(values.mean()) if values.size else float("nan")

    def accuracy(self) -> float:
        """Share of the known pixels whose class is right, 0…1; NaN without a pixel."""
        total = int(self.counts.sum())
        return float(np.trace(self.counts) / total) if total else float("nan")

    def precision(self) -> NDArray[np.float64]:
        """Share of each class's predictions that are right (user's accuracy), (n_classes,) 0…1.

        NaN for a class that is never predicted.
        """
        return self._of_hits(self.counts[:, : self.n_classes].sum(0))

    def recall(self) -> NDArray[np.float64]:
        """Share of each class's pixels that are found (producer's accuracy), (n_classes,) 0…1.

        NaN for a class that the labels lack.
        """
        return self._of_hits(self.counts.sum(1))

    def f1(self) -> NDArray[np.float64]:
        """Harmonic mean of precision and recall (Dice), (n_classes,) 0…1; NaN as :meth:`iou`."""
        iou = self.iou()
        return 2 * iou / (1 + iou)

    def kappa(self) -> float:
        """Cohen's kappa, −1…1: accuracy above chance; NaN without a pixel or without a choice."""
        total = int(self.counts.sum())
        if not total:
            return float("nan")
        rows, columns = self.counts.sum(1) / total, self.counts.sum(0) / total
        chance = float(rows @ columns[: self.n_classes])
        return (self.accuracy() - chance) / (1 - chance) if chance < 1 else float("nan")

    def frequencies(self) -> NDArray[np.float64]:
        """Share of each class among the known pixels, (n_classes,), sum 1; NaN without a pixel."""
        pixels = self.counts.sum(1)
        total = int(pixels.sum())
        return pixels / total if total else np.full(self.n_classes, np.nan)

    def _of_hits(self, whole: NDArray[np.int64]) -> NDArray[np.float64]:
        share = np.full(self.n_classes, np.nan)
        np.divide(np.diag(self.counts), whole, out=share, where=whole > 0)
        return share

    def _ids(self) -> NDArray[np.int64]:
        return np.arange(self.n_classes)
