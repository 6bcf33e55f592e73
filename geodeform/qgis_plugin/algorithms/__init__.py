"""The algorithms of the provider, one module each."""

from __future__ import annotations

from .budget import BudgetAlgorithm
from .density import DensityAlgorithm
from .segment import SegmentAlgorithm

ALGORITHMS = (SegmentAlgorithm, DensityAlgorithm, BudgetAlgorithm)
