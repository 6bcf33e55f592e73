"""Refinement: a coarse map first, then the rest of the budget where that map is unsure.

Every pass ends with outputs that are whole, so a run can be stopped, or looked at, after any. The
first pass takes a quarter to a half of the budget, evenly; each further one an equal part of the
rest. What a network is unsure of is known then, not expected: the windows that are sampled again,
more densely, are those in which the most doubt goes away for the samples. How much of it a denser
look takes away is what the model's error net says; without one it is the same for all windows.
Nothing is lost: a window's scores are the mean over all looks at it, each weighed by its samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from geodeform.allocation import (
    allocate,
    candidate_sizes,
    cell_weights,
    class_weights,
    rising,
    size_of,
    weighed_errors,
)
from geodeform.deform.coords import Size, grid_to_pixels
from geodeform.models.error_net import USUAL_RISE
from geodeform.planning import SegmentationPlan
from geodeform.predict import WindowPrediction, WindowPredictor
from geodeform.run import Run

_CELLS = 16  # a side, in which priorities are looked up


class Refinement:
    """What passes over one scene hand on: predictions, compact as ever, and what they cost.

    Memory holds every look at a window, 4·(classes + 3) bytes a sample.

    Args:
        steps: Passes after the first, at least 1.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._kept: dict[int, WindowPrediction | None] = {}
        self._earlier: dict[int, WindowPrediction] = {}  # of windows that are sampled again
        self._sizes: dict[int, Size] = {}
        self._spent = 0

    def begin(self, run: Run, step: int) -> tuple[Run, WindowPredictor]:
        """Plan a pass.

        Args:
            run: Of the whole budget, shared out evenly.
            step: 0 for the first pass.

        Returns:
            The run with its plan for this pass, and what predicts it: windows whose size stays are
            not predicted again.
        """
        plan = run.plan
        if step == 0:
            first = _first_size(plan, candidate_sizes(plan, run.network.spec))
            self._sizes = dict.fromkeys(plan.active, first)
        else:
            empty = [index for index, kept in self._kept.items() if kept is None]
            plan = plan.knowing_empty(empty)
            total = plan.seen_windows * math.prod(plan.sample_size)
            spent = self._spent - sum(math.prod(self._sizes[index]) for index in empty)
            self._choose(run, (total - spent) / (self.steps - step + 1))
        fresh = [index for index in plan.active if index not in self._kept]
        self._spent += sum(math.prod(self._sizes[index]) for index in fresh)
        sizes = tuple(self._sizes[index] for index in plan.active)
        plan = replace(
            plan,
            sizes=sizes,
            refined=f"{step + 1} of {self.steps + 1}",
            earlier_samples=self._spent - sum(math.prod(size) for size in sizes),
        )
        run = replace(run, plan=plan)
        return run, _RefiningPredictor(run, self._kept, self._earlier)

    def _choose(self, run: Run, budget: float) -> None:
        """Choose the windows that are sampled again, and how densely."""
        plan = run.plan
        # windows without data are never predicted
        seen = {index: kept for index, kept in self._kept.items() if kept is not None}
        if not seen:
            return
        candidates = _denser_sizes(plan, candidate_sizes(plan, run.network.spec))
        counts = np.array([math.prod(size) for size in candidates], float)
        falls = _falls(run, seen, candidates)
        errors = np.empty((len(seen), len(candidates) + 1))
        for row, (index, kept) in enumerate(seen.items()):
            doubt = _doubt(run, index, kept)
            denser = counts > math.prod(self._sizes[index])
            errors[row, 0] = doubt  # stays as it is, for nothing
            errors[row, 1:] = np.where(denser, doubt * falls[index], doubt)
        chosen = allocate(errors, np.concatenate([[0.0], counts]), budget)
        for index, choice in zip(seen, chosen, strict=True):
            if choice > 0:
                self._sizes[index] = candidates[choice - 1]
                del self._kept[index]
                self._earlier[index] = seen[index]


def _falls(
    run: Run, seen: Mapping[int, WindowPrediction], candidates: Sequence[Size]
) -> dict[int, NDArray[np.float64]]:
    """Errors after another look of each candidate's size over those now, of each window."""
    counts = np.array([math.prod(size) for size in candidates])
    spent = {index: sum(look.magnification.size for look in p.looks) for index, p in seen.items()}
    if not run.network.spec.error_net:
        return {index: (now / (now + counts)) ** (USUAL_RISE / 2) for index, now in spent.items()}
    # looks count together: what a window got wrong by one of as many samples as all of them
    totals = np.unique(np.add.outer([*set(spent.values())], np.array([0, *counts])))
    H, W = run.plan.window_size
    sizes = [(round(math.sqrt(total * H / W)), round(math.sqrt(total * W / H))) for total in totals]
    falls = {}
    with run.predictor() as predictor:
        for batch, errors in weighed_errors(predictor, list(seen), sizes):
            for index, row in zip(batch, errors, strict=True):
                before, *after = row[np.searchsorted(totals, spent[index] + np.array([0, *counts]))]
                # where no error counts, another look takes none away
                falls[index] = np.array(after) / before if before > 0 else np.ones(len(after))
    return falls


def _denser_sizes(plan: SegmentationPlan, candidates: Sequence[Size]) -> list[Size]:
    """Sizes of another look: the candidates, and up to twice an even window's samples."""
    even = math.prod(plan.sample_size)
    scale = math.prod(plan.full_window) / math.prod(plan.window_size)
    more = [size_of(plan, even * factor * scale) for factor in (1, 1.5, 2)]
    return rising([*candidates, *more])


class _RefiningPredictor(WindowPredictor):
    """Predicts what is not kept yet, and keeps it with what was known of the window before."""

    def __init__(
        self,
        run: Run,
        kept: dict[int, WindowPrediction | None],
        earlier: dict[int, WindowPrediction],
    ) -> None:
        super().__init__(run.scene, run.network, run.plan, run.device)
        self._kept = kept
        self._earlier = earlier

    def predict(self, indices: Sequence[int]) -> Iterator[tuple[int, WindowPrediction | None]]:
        """Yield (index, prediction) for the windows ``indices``, in order."""
        fresh = super().predict([index for index in indices if index not in self._kept])
        for index in indices:
            if index not in self._kept:
                _, found = next(fresh)
                if found is not None and index in self._earlier:
                    found = replace(found, earlier=self._earlier.pop(index).looks)
                self._kept[index] = found
            kept = self._kept[index]
            if kept is None:
                yield index, None
                continue
            # what painting works out of a reverse map, and puts on a GPU, is not kept
            last, *others = (replace(one, reverse=replace(one.reverse)) for one in kept.looks)
            yield index, replace(last, earlier=tuple(others))


def _first_size(plan: SegmentationPlan, candidates: list[Size]) -> Size:
    """Samples of every window in the first pass: the model's fewest, from a quarter to a half."""
    whole = math.prod(plan.sample_size)
    for size in candidates:
        if whole / 4 <= math.prod(size) <= whole / 2:
            return size
    height, width = plan.sample_size
    return max(8, height // 2), max(8, width // 2)


def _doubt(run: Run, index: int, prediction: WindowPrediction) -> float:
    """Expected errors of a window by its own confidence, weighed as an allocation weighs them.

    Of several looks the mean, as the map is of their scores.
    """
    if prediction.earlier:
        looks = prediction.looks
        samples = [look.magnification.size for look in looks]
        return float(np.average([_doubt(run, index, look) for look in looks], weights=samples))
    of_class = class_weights(run.plan, run.network.spec)
    weighed = prediction.probabilities * of_class[:, None, None].astype(np.float32)
    decided = prediction.probabilities.argmax(0)[None]
    wrong = weighed.sum(0) - np.take_along_axis(weighed, decided, 0)[0]  # h,w
    cells = cell_weights(run.plan, index, (_CELLS, _CELLS))
    wrong = wrong * cells[_cells_of_samples(prediction, cells.shape)]
    if prediction.valid is not None:  # what samples stand for beyond the data is not mapped
        wrong = wrong * prediction.valid[_cells_of_samples(prediction, prediction.valid.shape)]
    ground = 1 / prediction.magnification  # what a sample stands for
    return float((wrong * ground).sum() / ground.sum())


def _cells_of_samples(
    prediction: WindowPrediction, cells: tuple[int, ...]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column of the cell (gy, gx) of a window that each sample (h, w) lies in."""
    size = prediction.reverse.size
    x, y = np.moveaxis(grid_to_pixels(prediction.reverse.grid, size), -1, 0)
    row, column = (
        (at * n / length).astype(np.intp).clip(0, n - 1)
        for at, n, length in zip((y, x), cells, size, strict=True)
    )
    return row, column
