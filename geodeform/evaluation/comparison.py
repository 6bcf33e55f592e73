"""Comparison: what an experiment's evaluations say, and how sure that is.

A *cell* is a method at a budget: one evaluation a seed, pooled over the held-out parts. Figures are
means over the seeds, with the sample standard deviation. Differences from the baseline are paired:
the same seed, the same blocks of the same images.

The interval of a difference d̄ (mean of n seeds' d) has two sources of chance. Other ground: the
variance v_b of d̄ over resamples of the blocks, the networks as they are (Efron & Tibshirani 1993).
Other trainings: v_s / n, v_s the sample variance of the n differences. It is
d̄ ± t·√(v_b + v_s/n), t Student's with Welch and Satterthwaite's degrees of freedom, since n is
small: a bootstrap over three seeds covers 80 % where it says 95 %. (In simulations this one covers
93 % with three seeds that differ much, and 94 to 95 % where they do not.)

A difference at equal time has a third: which of the baseline's budgets takes that time is measured.
Each of the r rounds of :mod:`geodeform.evaluation.timing` gives a difference of its own; the
variance of their median, that of them times π / 2r, is added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from geodeform.config import Size
from geodeform.errors import ConfigError
from geodeform.evaluation.experiment import Entry, Experiment
from geodeform.evaluation.result import Cost, Evaluation, pooled
from geodeform.evaluation.timing import CellKey, Clock, Times, first_trainings

RESAMPLES = 4000
"""Resamples of a bootstrap."""

LEVEL = 0.95
"""Coverage of the intervals."""

FEWEST_SEEDS = 3
"""With fewer a difference is never sure."""

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
        times: Measured beside the other cells; None for points of studies, and where only the
            evaluations' own times are there, which other work on the machine may have stretched.
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
    def oracle(self) -> bool:
        """Whether it sees the labels at test time."""
        return any(one.oracle for one in self.evaluations)

    @property
    def clock(self) -> Clock:
        """The time that counts: a processor's does not see what a GPU does."""
        gpu = any(one.cost.device_memory_bytes is not None for one in self.evaluations)
        return "wall-clock" if gpu else "processor"

    def clocked(self, clock: Clock | None = None) -> float:
        """Seconds for a million pixels of the scene, by a clock; :attr:`clock` unless given."""
        if (clock or self.clock) == "processor":
            return self.cpu_seconds_per_megapixel
        return self.seconds_per_megapixel

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
        end_error: Standard error of both ends that comes from drawing so many resamples and no
            more: another generator would put them elsewhere by that.
    """

    values: tuple[float, ...]
    low: float
    high: float
    end_error: float = 0.0

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.values))

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out 0, whatever was drawn, and rests on enough seeds.

        An end that lies within twice its own error of 0 says nothing: the generator's seed would
        decide.
        """
        beside = max(self.low, -self.high)  # how far 0 lies outside
        return len(self.values) >= FEWEST_SEEDS and beside > 2 * self.end_error

    @property
    def better(self) -> bool:
        """Whether the method is surely above the baseline."""
        return self.sure and self.low > 0

    @property
    def worse(self) -> bool:
        """Whether it is surely below."""
        return self.sure and self.high < 0


@dataclass(frozen=True)
class EqualTime:
    """A method against the baseline with the budget that takes the same time.

    Attributes:
        seconds_per_megapixel: Of the method, by the clock that was asked for.
        samples: Samples of a window that serve the baseline best in that time, interpolated.
        longer: Whether that time is longer than all of the baseline's, whose best one stands for
            it: more samples might serve the baseline better, so the method may be found worse, but
            not better.
        shorter: Whether it is shorter than all of them, and the smallest budget stands for it:
            the method may be found better, but not worse.
        difference: Of the method from the baseline there, its mIoU interpolated linearly over the
            logarithm of time.
    """

    seconds_per_megapixel: float
    samples: float
    longer: bool
    shorter: bool
    difference: Difference

    @property
    def beyond(self) -> bool:
        """Whether the baseline was not evaluated around that time, so the times are not equal."""
        return self.longer or self.shorter

    @property
    def better(self) -> bool:
        """Whether the method is surely above the baseline in the same time."""
        return self.difference.better and not self.longer

    @property
    def worse(self) -> bool:
        """Whether it is surely below."""
        return self.difference.worse and not self.shorter


def difference_of(one: Difference | EqualTime) -> Difference:
    """The difference itself, at equal pixels or at equal time."""
    return one.difference if isinstance(one, EqualTime) else one


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
        timed: Whether all methods were timed beside each other.
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
        self.cells: dict[CellKey, Cell] = {}
        complete: dict[CellKey, dict[int, Evaluation]] = {}
        for method in experiment.methods:
            for budget in experiment.budgets_of(method):
                whole = {
                    seed: pooled([parts[fold] for fold in experiment.folds])
                    for seed, parts in sorted(found.get((method, budget), {}).items())
                    if len(parts) == len(experiment.folds)
                }
                if whole:
                    complete[method, budget] = whole
        # tables, charts and text ask for the same differences, each a bootstrap
        self._differences: dict[CellKey, Difference | None] = {}
        self._at_equal_time: dict[tuple[str, Size | None, Clock], EqualTime | None] = {}
        # Of one run or of none: times of different runs do not compare.
        methods = complete.keys() & first_trainings(experiment).keys()
        self.timed = bool(times) and methods <= (times or {}).keys()
        for (method, budget), whole in complete.items():
            beside = times.get((method, budget)) if times and self.timed else None
            self.cells[method, budget] = Cell(
                method, budget, tuple(whole), tuple(whole.values()), beside
            )

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
        key = method, budget
        if key not in self._differences:
            self._differences[key] = self._difference(method, budget)
        return self._differences[key]

    def _difference(self, method: str, budget: Size | None) -> Difference | None:
        base = self.cell(self.experiment.baseline, budget)
        ours = self.cell(method, budget)
        if base is None or ours is None:
            return None
        return paired_difference(ours, [(1.0, base)], self.experiment.block_items)

    def at_equal_time(
        self, method: str, budget: Size | None, clock: Clock | None = None
    ) -> EqualTime | None:
        """A method's difference from the best that the baseline reaches in the same time.

        Nobody has to spend all of the time: where the baseline gets worse with more samples, it is
        taken at fewer. (Else a method would gain by being slow.) The choice is by the figures that
        are compared, so it favours the baseline a little.

        Args:
            method: Name of the method.
            budget: Samples of a window; None where every pixel is seen.
            clock: The time that is equal, :attr:`Cell.clock` unless given.

        Returns:
            None where a side is missing, where the methods were not timed beside each other, or of
            an oracle, whose time is spent on labels that nobody has.
        """
        ours = self.cell(method, budget)
        if ours is None or ours.oracle:
            return None
        clock = clock or ours.clock
        key = method, budget, clock
        if key not in self._at_equal_time:
            self._at_equal_time[key] = self._equal_time(ours, clock)
        return self._at_equal_time[key]

    def _equal_time(self, ours: Cell, clock: Clock) -> EqualTime | None:
        base = self._baseline_budgets
        if not base or ours.times is None:
            return None
        spent, beside = ours.clocked(clock), [cell.clocked(clock) for cell in base]
        parts = _best_within(base, beside, spent)
        by_round = np.stack([c.times.by(clock) for c in (ours, *base) if c.times is not None])
        rounds = [
            ours.miou.mean - _weighted(_best_within(base, theirs, one))
            for one, *theirs in by_round.T.tolist()
        ]
        difference = paired_difference(ours, parts, self.experiment.block_items, rounds)
        if difference is None:
            return None
        samples = math.exp(
            sum(weight * math.log(math.prod(cell.budget or (1,))) for weight, cell in parts)
        )
        more = 1 + 1e-9
        return EqualTime(
            spent, samples, spent > more * max(beside), more * spent < beside[0], difference
        )

    @cached_property
    def _baseline_budgets(self) -> list[Cell]:
        return [c for c in self.curve(self.experiment.baseline) if c.budget is not None]

    def equal_accuracy(self, method: str, budget: Size) -> float | None:
        """Share of the baseline's pixels that a method needs for the same mIoU.

        Below 1 the method is cheaper: 0.67 is the paper's "33 % less". The baseline's mean mIoU is
        interpolated over the logarithm of its samples; None where it does not reach the method's,
        or exceeds it with its fewest samples, or does not rise.
        """
        ours = self.cell(method, budget)
        curve = self._baseline_budgets
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


def _best_within(
    base: Sequence[Cell], times: Sequence[float], spent: float
) -> list[tuple[float, Cell]]:
    """The best that the baseline reaches in a time, its smallest budget at least.

    Args:
        base: The baseline's cells, in order of budget.
        times: Of each.
        spent: What may be spent, in the same unit.

    Returns:
        (weight, cell), weights of sum 1.
    """
    # More samples take longer: what says otherwise is chance.
    logs = np.log(np.maximum.accumulate(times))
    wanted = math.log(spent)
    upper = int(np.searchsorted(logs, wanted))
    # The curve is straight between budgets, so its highest point is one of them or its end.
    choices = [[(1.0, cell)] for cell in base[: max(upper, 1)]]
    if 0 < upper < len(base):
        part = float((wanted - logs[upper - 1]) / (logs[upper] - logs[upper - 1]))
        choices.append([(1 - part, base[upper - 1]), (part, base[upper])])
    return max(choices, key=_weighted)


def _weighted(parts: Sequence[tuple[float, Cell]]) -> float:
    """Weighted mean of cells' mIoU."""
    return sum(weight * cell.miou.mean for weight, cell in parts)


def paired_difference(
    ours: Cell,
    base: Sequence[tuple[float, Cell]],
    block_items: int = 1,
    rounds: Sequence[float] = (),
) -> Difference | None:
    """A cell's mIoU minus a weighted mean of others', with its interval (see the module's head).

    Args:
        ours: A method's cell.
        base: (weight, cell), weights of sum 1.
        block_items: Successive images that are drawn together, such as frames of a video.
        rounds: The difference by the times of each round, where times decided the weights.

    Returns:
        The difference over the seeds that all have; None where there is none.

    Raises:
        ConfigError: If the evaluations are of different images.
    """
    seeds = tuple(seed for seed in ours.seeds if all(seed in cell.seeds for _, cell in base))
    if not seeds:
        return None
    sides = [(1.0, ours.of_seeds(seeds))]
    sides += [(-weight, cell.of_seeds(seeds)) for weight, cell in base]
    places = [(u.item, u.row, u.column) for u in sides[0][1].evaluations[0].units]
    for _, cell in sides:
        for one in cell.evaluations:
            if [(u.item, u.row, u.column) for u in one.units] != places:
                raise ConfigError(
                    f"The evaluations of {cell.method} are of other images than those of "
                    f"{ours.method}: delete the older ones, to make them again."
                )
    blocks = _blocks([item for item, _, _ in places], block_items)
    counts = [(weight, _counts(cell, blocks)) for weight, cell in sides]
    values = np.zeros(len(seeds))
    for weight, cell in sides:
        values += weight * np.array([one.miou for one in cell.evaluations])
    rng = np.random.default_rng(0)
    means = [
        _resampled(counts, rng, min(_CHUNK, RESAMPLES - start))
        for start in range(0, RESAMPLES, _CHUNK)
    ]
    of_blocks = float(np.nanvar(np.concatenate(means)))
    half = _half_width(of_blocks, values, rounds)
    # the variance of R draws is known to a share of sqrt(2 / R), of which its root has half
    more = _half_width(of_blocks * (1 + math.sqrt(2 / RESAMPLES)), values, rounds)
    mean = float(values.mean())
    return Difference(tuple(values.tolist()), mean - half, mean + half, abs(more - half))


def _half_width(
    of_blocks: float, values: NDArray[np.float64], rounds: Sequence[float] = ()
) -> float:
    """Half of the interval's width: by the blocks' variance, the seeds' and rounds' differences."""
    n, r = len(values), len(rounds)
    of_seeds = float(np.var(values, ddof=1)) / n if n > 1 else 0.0
    of_times = float(np.var(rounds, ddof=1)) * math.pi / (2 * r) if r > 1 else 0.0
    whole = of_blocks + of_seeds + of_times
    if whole == 0:
        return 0.0
    estimated = [(one, k - 1) for one, k in ((of_seeds, n), (of_times, r)) if one > 0]
    freedom = (
        1 / sum((one / whole) ** 2 / free for one, free in estimated) if estimated else math.inf
    )
    quantile = stats.norm if math.isinf(freedom) else stats.t(freedom)
    return float(quantile.ppf((1 + LEVEL) / 2)) * math.sqrt(whole)


def _blocks(items: Sequence[str], block_items: int) -> NDArray[np.int64]:
    """Number of the block that each unit belongs to."""
    if block_items == 1:
        return np.arange(len(items))
    order = {item: k for k, item in enumerate(dict.fromkeys(items))}
    return np.array([order[item] // block_items for item in items])


def _counts(cell: Cell, blocks: NDArray[np.int64]) -> _Counts:
    """(seeds, blocks, 3, classes): hits, pixels of the label, pixels of the prediction."""
    found = []
    for one in cell.evaluations:
        units = np.stack([unit.counts for unit in one.units]).astype(np.float64)  # U,C,C+1
        hits = np.diagonal(units, axis1=1, axis2=2)
        parts = np.stack((hits, units.sum(2), units.sum(1)[:, :-1]), 1)  # U,3,C
        whole = np.zeros((int(blocks.max()) + 1, *parts.shape[1:]))
        np.add.at(whole, blocks, parts)
        found.append(whole)
    return np.stack(found)


def _resampled(
    counts: Sequence[tuple[float, _Counts]], rng: np.random.Generator, resamples: int
) -> _Counts:
    """(resamples,) weighted sums of the seeds' mean mIoU on drawn blocks, the same for all."""
    blocks = counts[0][1].shape[1]
    drawn = rng.multinomial(blocks, np.full(blocks, 1 / blocks), resamples)  # R,U
    result = np.zeros(resamples)
    for weight, one in counts:
        hits, truth, guess = np.einsum("ru,sukc->krsc", drawn, one, optimize=True)
        union = truth + guess - hits
        iou = np.full(hits.shape, np.nan)
        np.divide(hits, union, out=iou, where=truth > 0)  # classes that the labels have
        present = (truth > 0).sum(-1)
        miou = np.nansum(iou, -1) / np.where(present > 0, present, np.nan)  # R,S
        result += weight * miou.mean(1)
    return result
