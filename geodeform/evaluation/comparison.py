"""Comparison: what an experiment's evaluations say, and how sure that is.

A *cell* is a method at a budget: one evaluation a seed, pooled over the held-out parts. Figures are
means over the seeds, with the sample standard deviation. Differences from the baseline are paired:
the same seed, the same blocks of the same images. Their intervals are of a bootstrap over seeds and
blocks (Efron & Tibshirani 1993, percentile method). Blocks side by side are taken as independent
and three seeds are few, so the intervals are, if anything, too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from geodeform.config import Size
from geodeform.errors import ConfigError
from geodeform.evaluation.experiment import Entry, Experiment
from geodeform.evaluation.result import Cost, Evaluation, pooled
from geodeform.evaluation.timing import CellKey, Times

RESAMPLES = 4000
"""Resamples of a bootstrap."""

LEVEL = 0.95
"""Coverage of the intervals."""

_CHUNK = 250  # resamples counted at once
_Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """A figure over seeds.

    Attributes:
        values: One a seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds; NaN where a seed has no value."""
        return float(np.mean(self.values))

    @property
    def std(self) -> float:
        """Sample standard deviation (n − 1); NaN of a single seed."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else math.nan


@dataclass(frozen=True)
class Cell:
    """A method at a budget.

    Attributes:
        method: Name of the method.
        budget: Samples (h, w) of a window; None where every pixel is seen.
        seeds: Of the trainings.
        evaluations: One a seed, pooled over the held-out parts.
        times: Measured beside the other cells; None where only the evaluations' own times are
            there, which other work on the machine may have stretched.
    """

    method: str
    budget: Size | None
    seeds: tuple[int, ...]
    evaluations: tuple[Evaluation, ...]
    times: Times | None = None

    def summary(self, figure: Callable[[Evaluation], float]) -> Summary:
        """A figure of each seed's evaluation."""
        return Summary(tuple(float(figure(one)) for one in self.evaluations))

    @property
    def miou(self) -> Summary:
        """THE figure: full-resolution mIoU of the map that users get, 0…1."""
        return self.summary(lambda one: one.miou)

    @property
    def cpu_seconds_per_megapixel(self) -> float:
        """Processor time for a million pixels of the scene."""
        if self.times is not None:
            return self.times.cpu_seconds
        return self._median(lambda cost: cost.cpu_seconds)

    @property
    def seconds_per_megapixel(self) -> float:
        """Wall-clock time for a million pixels of the scene, without reading."""
        if self.times is not None:
            return self.times.seconds
        return self._median(lambda cost: cost.seconds)

    def _median(self, spent: Callable[[Cost], float]) -> float:
        """Median over the seeds of a cost for a million pixels."""
        costs = [one.cost for one in self.evaluations]
        return float(np.median([spent(cost) / cost.scene_pixels * 1e6 for cost in costs]))

    def of_seeds(self, seeds: Iterable[int]) -> Cell:
        """The cell of some of its seeds, in their order."""
        at = dict(zip(self.seeds, self.evaluations, strict=True))
        chosen = tuple(seeds)
        return replace(self, seeds=chosen, evaluations=tuple(at[seed] for seed in chosen))


@dataclass(frozen=True)
class Difference:
    """How much better a method's mIoU is than the baseline's.

    Attributes:
        values: Of each seed that both have, in shares of 1.
        low: Lower end of the interval.
        high: Upper end.
    """

    values: tuple[float, ...]
    low: float
    high: float

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.values))

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class EqualTime:
    """A method against the baseline with the budget that takes the same processor time.

    Attributes:
        cpu_seconds_per_megapixel: Of the method.
        samples: Samples of a window that the baseline affords in that time, interpolated.
        beyond: Whether the baseline was not evaluated at that time, so that its nearest budget
            stands for it.
        difference: Of the method from the baseline there, its mIoU interpolated linearly over the
            logarithm of time.
    """

    cpu_seconds_per_megapixel: float
    samples: float
    beyond: bool
    difference: Difference


class Comparison:
    """An experiment with its results.

    Args:
        experiment: With its folds filled in.
        results: Evaluations, see :func:`geodeform.evaluation.campaign.read_results`. Seeds that
            lack a held-out part are left out.
        times: See :func:`geodeform.evaluation.timing.measure_times`; the evaluations' own where
            there are none.

    Attributes:
        experiment: As given.
        cells: (method, budget) → cell, of those that have a seed; in the experiment's order.
        missing: Evaluations that are not there.
        timed: Whether all cells were timed beside each other.
    """

    def __init__(
        self,
        experiment: Experiment,
        results: Mapping[Entry, Evaluation],
        times: Mapping[CellKey, Times] | None = None,
    ) -> None:
        self.experiment = experiment
        entries = experiment.entries()
        self.missing = sum(entry not in results for entry in entries)
        found: dict[tuple[str, Size | None], dict[int, dict[tuple[str, ...], Evaluation]]] = {}
        for entry in entries:
            if entry in results:
                seeds = found.setdefault((entry.method, entry.budget), {})
                seeds.setdefault(entry.seed, {})[entry.fold] = results[entry]
        self._parts = found
        self.cells: dict[tuple[str, Size | None], Cell] = {}
        for method in experiment.methods:
            for budget in experiment.budgets_of(method):
                whole = {
                    seed: pooled([parts[fold] for fold in experiment.folds])
                    for seed, parts in sorted(found.get((method, budget), {}).items())
                    if len(parts) == len(experiment.folds)
                }
                if whole:
                    self.cells[method, budget] = Cell(
                        method,
                        budget,
                        tuple(whole),
                        tuple(whole.values()),
                        (times or {}).get((method, budget)),
                    )

        self.timed = all(cell.times is not None for cell in self.cells.values())

    def cell(self, method: str, budget: Size | None) -> Cell | None:
        """The cell of a method at a budget; None where it has no complete seed."""
        return self.cells.get((method, budget))

    def curve(self, method: str) -> list[Cell]:
        """A method's cells, in order of budget."""
        return [cell for (name, _), cell in self.cells.items() if name == method]

    def fold_difference(self, method: str, budget: Size, fold: tuple[str, ...]) -> Summary | None:
        """Differences of a method's mIoU from the baseline's on one held-out part, a seed each."""
        ours = self._parts.get((method, budget), {})
        base = self._parts.get((self.experiment.baseline, budget), {})
        values = [
            ours[seed][fold].miou - base[seed][fold].miou
            for seed in sorted(ours)
            if fold in ours[seed] and fold in base.get(seed, {})
        ]
        return Summary(tuple(values)) if values else None

    def difference(self, method: str, budget: Size | None) -> Difference | None:
        """A method's difference from the baseline at equal pixels; None where a side is missing."""
        base = self.cell(self.experiment.baseline, budget)
        ours = self.cell(method, budget)
        if base is None or ours is None:
            return None
        return paired_difference(ours, [(1.0, base)])

    def at_equal_time(self, method: str, budget: Size | None) -> EqualTime | None:
        """A method's difference from the baseline at equal processor time."""
        ours, base = self.cell(method, budget), self._baseline_by_time
        if ours is None or not base:
            return None
        times = np.log([cell.cpu_seconds_per_megapixel for cell in base])
        wanted = math.log(ours.cpu_seconds_per_megapixel)
        upper = int(np.searchsorted(times, wanted))
        if upper in (0, len(base)):
            near = base[min(upper, len(base) - 1)]
            parts, beyond = [(1.0, near)], abs(wanted - times[min(upper, len(base) - 1)]) > 1e-9
        else:
            share = float((wanted - times[upper - 1]) / (times[upper] - times[upper - 1]))
            parts, beyond = [(1 - share, base[upper - 1]), (share, base[upper])], False
        difference = paired_difference(ours, parts)
        if difference is None:
            return None
        samples = math.exp(
            sum(weight * math.log(math.prod(cell.budget or (1,))) for weight, cell in parts)
        )
        return EqualTime(ours.cpu_seconds_per_megapixel, samples, beyond, difference)

    @cached_property
    def _baseline_by_time(self) -> list[Cell]:
        cells = [c for c in self.curve(self.experiment.baseline) if c.budget is not None]
        return sorted(cells, key=lambda cell: cell.cpu_seconds_per_megapixel)

    def equal_accuracy(self, method: str, budget: Size) -> float | None:
        """Share of the baseline's pixels that a method needs for the same mIoU.

        Below 1 the method is cheaper: 0.67 is the paper's "33 % less". The baseline's mean mIoU is
        interpolated over the logarithm of its samples; None where it does not reach the method's,
        or exceeds it with its fewest samples, or does not rise.
        """
        ours = self.cell(method, budget)
        curve = [c for c in self.curve(self.experiment.baseline) if c.budget is not None]
        if ours is None or len(curve) < 2:
            return None
        height = np.array([cell.miou.mean for cell in curve])
        samples = np.log([math.prod(cell.budget or (1,)) for cell in curve])
        target = ours.miou.mean
        for k in range(1, len(curve)):
            if height[k - 1] <= target <= height[k] and height[k] > height[k - 1]:
                share = (target - height[k - 1]) / (height[k] - height[k - 1])
                needed = samples[k - 1] + share * (samples[k] - samples[k - 1])
                return float(math.prod(budget) / math.exp(needed))
        return None


def paired_difference(ours: Cell, base: Sequence[tuple[float, Cell]]) -> Difference | None:
    """A cell's mIoU minus a weighted mean of others', with a paired bootstrap.

    Each resample draws seeds and blocks with replacement, the same for both sides; blocks' counts
    are added before IoU is taken.

    Args:
        ours: A method's cell.
        base: (weight, cell), weights of sum 1.

    Returns:
        The difference over the seeds that all have; None where there is none.

    Raises:
        ConfigError: If the evaluations are of different images.
    """
    seeds = tuple(
        seed for seed in ours.seeds if all(seed in cell.seeds for _, cell in base)
    )  # fmt: skip
    if not seeds:
        return None
    sides = [(1.0, ours.of_seeds(seeds))]
    sides += [(-weight, cell.of_seeds(seeds)) for weight, cell in base]
    places = [(u.item, u.row, u.column) for u in sides[0][1].evaluations[0].units]
    for _, cell in sides:
        for one in cell.evaluations:
            if [(u.item, u.row, u.column) for u in one.units] != places:
                raise ConfigError(
                    f"The evaluations of {cell.method} are of other images; evaluate them again."
                )
    counts = [(weight, _counts(cell)) for weight, cell in sides]
    values = sum(
        weight * np.array([one.miou for one in cell.evaluations]) for weight, cell in sides
    )
    rng = np.random.default_rng(0)
    means = [
        _resampled(counts, rng, min(_CHUNK, RESAMPLES - start))
        for start in range(0, RESAMPLES, _CHUNK)
    ]
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(np.concatenate(means), (tail, 1 - tail))
    return Difference(tuple(float(v) for v in np.atleast_1d(values)), float(low), float(high))


def _counts(cell: Cell) -> _Counts:
    """(seeds, blocks, 3, classes): hits, pixels of the label, pixels of the prediction."""
    found = []
    for one in cell.evaluations:
        blocks = np.stack([unit.counts for unit in one.units]).astype(np.float64)  # U,C,C+1
        hits = np.diagonal(blocks, axis1=1, axis2=2)
        found.append(np.stack((hits, blocks.sum(2), blocks.sum(1)[:, :-1]), 1))
    return np.stack(found)


def _resampled(
    counts: Sequence[tuple[float, _Counts]], rng: np.random.Generator, resamples: int
) -> _Counts:
    """(resamples,) weighted sums of mean mIoU over drawn seeds, of drawn blocks."""
    seeds, blocks = counts[0][1].shape[:2]
    drawn_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds  # R,S
    drawn_blocks = rng.multinomial(blocks, np.full(blocks, 1 / blocks), resamples)  # R,U
    result = np.zeros(resamples)
    for weight, one in counts:
        hits, truth, guess = np.einsum("ru,sukc->krsc", drawn_blocks, one, optimize=True)
        union = truth + guess - hits
        iou = np.full(hits.shape, np.nan)
        np.divide(hits, union, out=iou, where=truth > 0)  # classes that the labels have
        present = (truth > 0).sum(-1)
        miou = np.nansum(iou, -1) / np.where(present > 0, present, np.nan)  # R,S
        result += weight * (miou * drawn_seeds).sum(1)
    return result
