"""What changes in the course of a training: the edge loss's weight γ and the kernel's width σ.

Each is a function of the step alone, so a resumed run goes on as an uninterrupted one does.
"""

from __future__ import annotations

import math

SIGMA_STAGES = 16
"""So many widths a training goes through: the matrices of a kernel are made once and kept."""


def gamma_at(step: int, steps: int, *, start: float, end: float) -> float:
    """Weight of the edge loss at a step: linear from the first step's to the last one's.

    Args:
        step: 0…steps − 1.
        steps: Steps in all.
        start: Weight at the first step.
        end: Weight at the last step.
    """
    return start + (end - start) * step / max(1, steps - 1)


def sigma_at(step: int, steps: int, *, start: float | None, end: float) -> float:
    """Width σ of the grid's kernel at a step: geometric, in :data:`SIGMA_STAGES` equal stages.

    Args:
        step: 0…steps − 1.
        steps: Steps in all.
        start: Width in the first stage; None for ``end`` throughout.
        end: Width in the last stage.
    """
    stage = min(step * SIGMA_STAGES // steps, SIGMA_STAGES - 1)
    if start is None or stage == SIGMA_STAGES - 1:
        return end
    return start * math.pow(end / start, stage / (SIGMA_STAGES - 1))
