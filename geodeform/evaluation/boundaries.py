"""How well the borders between classes are found: boundary F1 and trimap accuracy.

A *boundary pixel* of a map has one of its four neighbours in another class. The frame of the image
is no boundary, and nor is the border of unknown ground (255). Distances are Euclidean, from pixel
centre to pixel centre, and exact.

References:
    Csurka, Larlus, Perronnin: What is a good evaluation measure for semantic segmentation?
    BMVC 2013 (boundary F1, tolerance 0.75 % of the image's diagonal).
    Kohli, Ladicky, Torr: Robust higher order potentials for enforcing label consistency. IJCV 2009
    (trimap accuracy).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from geodeform.classes import NODATA_CLASS

DIAGONAL_SHARE = 0.0075
"""Boundary tolerance of Csurka et al., as a share of the image's diagonal."""

TRIMAP_WIDTHS = (1, 16, 64, 128)
"""Widths of the paper's trimaps (figure 9 b), in pixels."""

_TILE = 2048  # distance transforms hold about 20 bytes a pixel of a tile and what is around it
_Block = tuple[slice, slice]


def boundary_pixels(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Mark the pixels that have one of their four neighbours in another known class.

    Args:
        labels: (H, W) class ids, 255 unknown.

    Returns:
        (H, W), true on both sides of every border between two classes.
    """
    edge = np.zeros(labels.shape, bool)
    for before, after in (((slice(None), slice(-1)), (slice(None), slice(1, None))),
                          ((slice(-1), slice(None)), (slice(1, None), slice(None)))):  # fmt: skip
        a, b = labels[before], labels[after]
        differ = (a != b) & (a != NODATA_CLASS) & (b != NODATA_CLASS)
        edge[before] |= differ
        edge[after] |= differ
    return edge


def diagonal_tolerance(shape: tuple[int, int]) -> float:
    """0.75 % of the diagonal of an image (H, W), in pixels."""
    return DIAGONAL_SHARE * math.hypot(*shape)


@dataclass
class BoundaryScore:
    """Boundary precision, recall and F1 of each class, counts pooled over images.

    Precision: of the predicted boundary pixels of a class, the share that has a boundary pixel of
    the same class in the labels at most the tolerance away; recall the other way round. Pixels
    whose label is unknown take no part. Csurka et al. average over images; here, as for IoU, the
    counts of all images are added first.

    Attributes:
        n_classes: Number of classes.
        predicted: (n_classes,) boundary pixels of the prediction.
        labelled: (n_classes,) boundary pixels of the labels.
        predicted_hits: (n_classes,) those of the prediction that are near one of the labels.
        labelled_hits: (n_classes,) those of the labels that are near one of the prediction.
    """

    n_classes: int
    predicted: NDArray[np.int64] = field(init=False)
    labelled: NDArray[np.int64] = field(init=False)
    predicted_hits: NDArray[np.int64] = field(init=False)
    labelled_hits: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        for name in COUNTS:
            setattr(self, name, np.zeros(self.n_classes, np.int64))

    def precision(self) -> NDArray[np.float64]:
        """(n_classes,) 0…1; NaN where nothing is predicted."""
        return _ratio(self.predicted_hits, self.predicted)

    def recall(self) -> NDArray[np.float64]:
        """(n_classes,) 0…1; NaN where nothing is labelled."""
        return _ratio(self.labelled_hits, self.labelled)

    def f1(self) -> NDArray[np.float64]:
        """(n_classes,) harmonic mean of precision and recall, 0…1.

        0 where a labelled class has no predicted boundary, NaN where no boundary is labelled.
        """
        precision, recall = np.nan_to_num(self.precision()), np.nan_to_num(self.recall())
        f1 = np.zeros(self.n_classes)
        total = precision + recall
        np.divide(2 * precision * recall, total, out=f1, where=total > 0)
        return np.where(self.labelled > 0, f1, np.nan)

    def mean_f1(self) -> float:
        """Mean F1 over the classes that have a boundary in the labels; NaN without one."""
        values = self.f1()[self.labelled > 0]
        return float(values.mean()) if values.size else float("nan")


COUNTS = ("predicted", "labelled", "predicted_hits", "labelled_hits")
"""Names of a :class:`BoundaryScore`'s counts."""


def add_boundaries(
    labels: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    scores: Sequence[BoundaryScore],
    tolerances: Sequence[float],
) -> None:
    """Add one image to boundary scores, one a tolerance.

    Args:
        labels: (H, W) class ids, 255 unknown.
        prediction: (H, W) class ids, 255 no class.
        scores: What to add to.
        tolerances: How far a boundary pixel may lie from its counterpart, in pixels, ≥ 0.

    Raises:
        ValueError: If the shapes differ.
    """
    if labels.shape != prediction.shape:
        raise ValueError(f"labels {labels.shape} and prediction {prediction.shape} differ in shape")
    prediction = np.where(labels == NODATA_CLASS, NODATA_CLASS, prediction).astype(np.uint8)
    wanted, found = boundary_pixels(labels), boundary_pixels(prediction)
    for value in range(scores[0].n_classes):
        labelled = np.argwhere(wanted & (labels == value))
        predicted = np.argwhere(found & (prediction == value))
        near_labelled = _distances(predicted, labelled, max(tolerances))
        near_predicted = _distances(labelled, predicted, max(tolerances))
        for score, tolerance in zip(scores, tolerances, strict=True):
            score.labelled[value] += len(labelled)
            score.predicted[value] += len(predicted)
            score.predicted_hits[value] += np.count_nonzero(near_labelled <= tolerance)
            score.labelled_hits[value] += np.count_nonzero(near_predicted <= tolerance)


def _distances(
    points: NDArray[np.int64], others: NDArray[np.int64], reach: float
) -> NDArray[np.float64]:
    """Distance of each of (n, 2) points to the nearest of (m, 2) others; inf beyond the reach."""
    if not len(points) or not len(others):
        return np.full(len(points), np.inf)
    # boundaries are a small part of a map: a tree of their pixels answers 20 times as fast as
    # a distance transform of the map; unbalanced it is built faster, and points lie evenly enough
    tree = cKDTree(others, balanced_tree=False, compact_nodes=False)
    distances: NDArray[np.float64] = tree.query(points, distance_upper_bound=reach + 1)[0]
    return distances


def trimap_bands(
    labels: NDArray[np.uint8], widths: Sequence[int] = TRIMAP_WIDTHS
) -> NDArray[np.uint8]:
    """Tell in which trimaps each pixel lies.

    A trimap of width w holds the known pixels less than w pixels from a boundary pixel of the
    labels: of width 1 the boundary pixels themselves, one on either side of a border.

    Args:
        labels: (H, W) class ids, 255 unknown.
        widths: Widths in pixels, rising, at most 254 of them.

    Returns:
        (H, W) index of the narrowest trimap that holds a pixel (the wider ones hold it as well);
        ``len(widths)`` where none does, and on unknown ground.

    Raises:
        ValueError: If the widths are not positive and rising.
    """
    if not widths or min(widths) <= 0 or any(a >= b for a, b in zip(widths, widths[1:])):  # noqa: B905, RUF007
        raise ValueError(f"widths must be positive and rising, got {tuple(widths)}")
    edge = boundary_pixels(labels)
    bands = np.full(labels.shape, len(widths), np.uint8)
    for core, around, inner in _tiles(labels.shape, math.ceil(widths[-1])):
        near = edge[around]
        if near.any():
            distance = distance_transform_edt(~near)[inner]
            bands[core] = np.searchsorted(widths, distance, side="right")
    bands[labels == NODATA_CLASS] = len(widths)
    return bands


@dataclass
class Trimap:
    """Accuracy near the borders of the labels, counts pooled over images.

    Attributes:
        widths: Widths of the trimaps in pixels, rising.
        pixels: (len(widths),) known pixels in each trimap.
        right: (len(widths),) those of them whose class is right.
    """

    widths: tuple[int, ...] = TRIMAP_WIDTHS
    pixels: NDArray[np.int64] = field(init=False)
    right: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.pixels = np.zeros(len(self.widths), np.int64)
        self.right = np.zeros(len(self.widths), np.int64)

    def add(
        self,
        bands: NDArray[np.uint8],
        labels: NDArray[np.uint8],
        prediction: NDArray[np.uint8],
    ) -> None:
        """Add one image, with the bands that :func:`trimap_bands` made of its labels."""
        n = len(self.widths)
        self.pixels += np.cumsum(np.bincount(bands.ravel(), minlength=n + 1)[:n])
        hits = bands[labels == prediction]
        self.right += np.cumsum(np.bincount(hits, minlength=n + 1)[:n])

    def accuracy(self) -> NDArray[np.float64]:
        """(len(widths),) share of right pixels in each trimap, 0…1; NaN where it has none."""
        return _ratio(self.right, self.pixels)


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    ratio = np.full(part.shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def _tiles(shape: tuple[int, int], reach: int) -> Iterator[tuple[_Block, _Block, _Block]]:
    """Tiles of an image, what lies within reach of each, and the tile inside of that."""
    H, W = shape
    for top, left in product(range(0, H, _TILE), range(0, W, _TILE)):
        bottom, right = min(top + _TILE, H), min(left + _TILE, W)
        above, before = max(0, top - reach), max(0, left - reach)
        yield (
            (slice(top, bottom), slice(left, right)),
            (slice(above, min(H, bottom + reach)), slice(before, min(W, right + reach))),
            (slice(top - above, bottom - above), slice(left - before, right - before)),
        )
