"""Calibration: whether a confidence of 80 % is right in 80 % of the pixels.

Counted at the 256 levels of the confidence raster, so that every figure rests on exactly what users
get, and any binning can be made afterwards.

References:
    Guo, Pleiss, Sun, Weinberger: On calibration of modern neural networks. ICML 2017.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from geodeform.classes import NODATA_CLASS

N_BINS = 15
"""Bins of equal width, as in Guo et al."""

_LEVELS = 256


@dataclass
class Calibration:
    """Confidence against accuracy, counts pooled over images.

    Attributes:
        pixels: (256,) known pixels of each confidence level k, which means k/255.
        right: (256,) those of them whose class is right.
    """

    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_LEVELS, np.int64))
    right: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_LEVELS, np.int64))

    def add(
        self,
        labels: NDArray[np.uint8],
        prediction: NDArray[np.uint8],
        confidence: NDArray[np.uint8],
    ) -> None:
        """Add one image.

        Args:
            labels: Class ids of any shape; pixels of 255 are left out.
            prediction: Class ids, same shape.
            confidence: round(255·probability of the predicted class), same shape.

        Raises:
            ValueError: If the shapes differ.
        """
        if not labels.shape == prediction.shape == confidence.shape:
            raise ValueError(
                f"labels {labels.shape}, prediction {prediction.shape} and confidence "
                f"{confidence.shape} differ in shape"
            )
        known = labels != NODATA_CLASS
        self.pixels += np.bincount(confidence[known], minlength=_LEVELS)
        self.right += np.bincount(confidence[known & (labels == prediction)], minlength=_LEVELS)

    def bins(
        self, n: int = N_BINS
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Sum up n bins of equal width, ((m − 1)/n, m/n]; a confidence of 0 is in the first.

        Returns:
            Pixels of each bin, their mean confidence, their accuracy; NaN for an empty bin.
        """
        level = np.arange(_LEVELS)
        # in integers, as k/255 and m/n meet exactly where 255·m is a multiple of n
        index = np.maximum(-(-level * n // (_LEVELS - 1)) - 1, 0)
        pixels = np.bincount(index, self.pixels, minlength=n).astype(np.int64)
        weight = np.bincount(index, self.pixels * level, minlength=n) / (_LEVELS - 1)
        right = np.bincount(index, self.right, minlength=n)
        confidence, accuracy = np.full(n, np.nan), np.full(n, np.nan)
        np.divide(weight, pixels, out=confidence, where=pixels > 0)
        np.divide(right, pixels, out=accuracy, where=pixels > 0)
        return pixels, confidence, accuracy

    def error(self, n: int = N_BINS) -> float:
        """Expected calibration error, 0…1: mean |accuracy − confidence| of the bins by pixels."""
        pixels, confidence, accuracy = self.bins(n)
        total = int(pixels.sum())
        if not total:
            return float("nan")
        gaps = np.abs(accuracy - confidence)[pixels > 0]
        return float((gaps * pixels[pixels > 0]).sum() / total)

    def brier(self) -> float:
        """Mean of (confidence − [the class is right])², 0…1: the Brier score of the top class."""
        total = int(self.pixels.sum())
        if not total:
            return float("nan")
        p = np.arange(_LEVELS) / (_LEVELS - 1)
        wrong = self.pixels - self.right
        return float((self.right * (1 - p) ** 2 + wrong * p**2).sum() / total)

    def mean_confidence(self) -> float:
        """Mean confidence of the known pixels, 0…1; above the accuracy where it is too sure."""
        total = int(self.pixels.sum())
        if not total:
            return float("nan")
        return float((self.pixels * np.arange(_LEVELS)).sum() / (_LEVELS - 1) / total)
