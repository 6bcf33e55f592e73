"""What the charts of a comparison share: looks of its methods, figures to draw, and words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from geodeform.config import Size
from geodeform.evaluation.calibration import Calibration
from geodeform.evaluation.comparison import (
    LEVEL,
    Cell,
    Comparison,
    Difference,
    Summary,
)
from geodeform.evaluation.comparison_tables import (
    Figure,
    Findings,
    learns,
    points,
    sure_parts,
    way_of,
)
from geodeform.evaluation.experiment import shown_size
from geodeform.evaluation.result import Evaluation

# the colours and marks of geodeform.plot.budgets for what both draw
_BASELINE_LOOK, _LEARNED_LOOK, _RESIZER_LOOK = (
    ("#D55E00", "s"), ("#0072B2", "o"), ("#009E73", "^"),
)  # fmt: skip
_FEWEST_CORRELATED = 3  # methods; two always lie on a line
# the rest of Okabe and Ito's, without the yellow that white paper swallows, then Tol's muted ones
_OTHER_LOOKS = (
    ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"), ("#000000", "h"), ("#882255", "<"),
    ("#999933", ">"), ("#332288", "p"), ("#44AA99", "X"), ("#777777", "*"),
)  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How a method is drawn, everywhere.

    Attributes:
        name: Of the method.
        title: What it is called, with a word where it is an oracle.
        colour: ``#RRGGBB``.
        marker: matplotlib's.
        every_pixel: Whether it has no budget.
        oracle: Whether it sees the labels at test time.
    """

    name: str
    title: str
    colour: str
    marker: str
    every_pixel: bool
    oracle: bool = False

    def as_oracle(self) -> Look:
        """The same method, marked as one that sees the labels."""
        said = "" if "oracle" in self.title.lower() else " (oracle)"
        return replace(self, title=self.title + said, oracle=True)

    @property
    def mark(self) -> dict[str, Any]:
        """Properties of its marks and lines."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "markersize": 4.5,
            "markerfacecolor": "white" if self.oracle else self.colour,
            "markeredgecolor": self.colour,
            "linestyle": "--" if self.oracle else "-",
            "linewidth": 1.1,
        }

    @property
    def bar(self) -> dict[str, Any]:
        """Properties of its bars."""
        return {
            "facecolor": "white" if self.oracle else self.colour,
            "edgecolor": self.colour,
            "hatch": "/////" if self.oracle else None,
        }

    def handle(self) -> Line2D:
        """Its entry in a legend."""
        return Line2D([], [], label=self.title, **self.mark)


class Shown:
    """What of a comparison is drawn.

    Args:
        comparison: With all of its results or a part.

    Attributes:
        comparison: As given.
        found: What tables ask of it.
        known: Method → look, of all methods but points of studies, in the experiment's order.
        baseline: The baseline's look.
        looks: Those of methods that have a cell.
        budgets: Those at which methods are compared, rising.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison, self.found = comparison, Findings(comparison)
        self.known = _looks(self.found)
        self.baseline = self.known[comparison.experiment.baseline]
        self.looks = [self.known[name] for name in self.found.methods]
        self.budgets = self.found.budgets

    @property
    def sampled(self) -> list[Look]:
        """Methods that have a budget."""
        return [look for look in self.looks if not look.every_pixel]

    def cell(self, look: Look, budget: Size) -> Cell | None:
        """A method's cell; one that sees every pixel has the same at all budgets."""
        return self.comparison.cell(look.name, None if look.every_pixel else budget)

    def cells(self, looks: Iterable[Look] | None = None) -> list[Cell]:
        """All cells of some methods, or of all."""
        chosen = self.looks if looks is None else looks
        return [cell for look in chosen for cell in self.comparison.curve(look.name)]

    @property
    def middle(self) -> Size:
        """The budget in the middle."""
        return self.budgets[len(self.budgets) // 2]


def _looks(found: Findings) -> dict[str, Look]:
    """Every method's look. It follows from the experiment, so partial results do not change it."""
    experiment = found.experiment
    named = [method for method in experiment.methods.values() if not method.study]
    usual = {experiment.baseline: _BASELINE_LOOK}
    rest = [method.name for method in named if method.name not in usual]
    learned = [name for name in rest if learns(experiment, name)]
    resized = [name for name in rest if way_of(experiment, name) == "interpolation"]
    for names, look in ((learned, _LEARNED_LOOK), (resized, _RESIZER_LOOK)):
        if names:
            usual[names[0]] = look
    looks, others = {}, 0
    for method in named:
        if method.name in usual:
            colour, marker = usual[method.name]
        else:
            colour = _OTHER_LOOKS[others % len(_OTHER_LOOKS)][0]
            # the second time around every colour has another mark
            turn = others + others // len(_OTHER_LOOKS)
            marker = _OTHER_LOOKS[turn % len(_OTHER_LOOKS)][1]
            others += 1
        one = Look(method.name, method.title, colour, marker, method.every_pixel)
        looks[method.name] = one.as_oracle() if found.is_oracle(method.name) else one
    return looks


# --- figures of an evaluation ------------------------------------------------------------------


def samples(cell: Cell) -> float:
    """Samples of a window."""
    return float(math.prod(cell.budget or (1,)))


def time_per_megapixel(cell: Cell) -> float:
    """Seconds for a megapixel of the scene, by the cell's clock."""
    return cell.clocked()


def gflop_per_megapixel(cell: Cell) -> float:
    """Floating-point operations for a megapixel of the scene, in 10⁹."""
    return cell.evaluations[0].cost.flops_per_megapixel / 1e9


def paired(ours: Cell, base: Cell | None, figure: Figure) -> Summary | None:
    """Differences of a figure from the baseline's of the same seeds; None where they share none."""
    pairs = _pairs(ours, base)
    return Summary(tuple(figure(a) - figure(b) for a, b in pairs)) if pairs else None


def class_gains(shown: Shown, look: Look) -> dict[Size, NDArray[np.float64]]:
    """Budget → (seeds, classes) IoU minus the baseline's of the same seed, where there are any."""
    found = {
        budget: _pairs(shown.cell(look, budget), shown.comparison.cell(shown.baseline.name, budget))
        for budget in shown.budgets
    }
    return {
        budget: np.array([a.soft.confusion.iou() - b.soft.confusion.iou() for a, b in pairs])
        for budget, pairs in found.items()
        if pairs
    }


def _pairs(ours: Cell | None, base: Cell | None) -> list[tuple[Evaluation, Evaluation]]:
    """Evaluations of the seeds that both have."""
    if ours is None or base is None:
        return []
    seeds = [seed for seed in ours.seeds if seed in base.seeds]
    return list(
        zip(ours.of_seeds(seeds).evaluations, base.of_seeds(seeds).evaluations, strict=True)
    )


def sampled_over_original(cell: Cell, index: int) -> Summary:
    """Share of a class among the samples over its share of the pixels."""
    return cell.summary(
        lambda one: float(
            one.deformed.frequencies()[index] / one.soft.confusion.frequencies()[index]
        )
    )


def pooled_calibration(cell: Cell) -> Calibration:
    """Counts of all seeds."""
    counts = [one.calibration for one in cell.evaluations]
    return Calibration(
        np.sum([one.pixels for one in counts], 0), np.sum([one.right for one in counts], 0)
    )


def sampler_of(shown: Shown, look: Look) -> str:
    """How a method that has a cell samples."""
    return shown.comparison.curve(look.name)[0].evaluations[0].sampler


def classes_by_frequency(cell: Cell) -> dict[int, tuple[str, float]]:
    """Class → its name and share of the labelled pixels, of those that occur; from the largest."""
    one = cell.evaluations[0]
    shares = one.soft.confusion.frequencies()
    order = np.argsort(-shares, kind="stable")
    return {int(k): (one.classes[k], float(shares[k])) for k in order if shares[k] > 0}


# --- words -------------------------------------------------------------------------------------


def sentences(parts: Iterable[str]) -> str:
    """A caption of sentences, without those that are empty."""
    return " ".join(filter(None, parts))


def range_words(counts: Iterable[int]) -> str:
    """A count, or from the lowest to the highest."""
    low, high = min(found := set(counts)), max(found)
    return str(low) if low == high else f"{low} to {high}"


def drawn_words(shown: Shown, budgets: Sequence[Size]) -> str:
    """Which budgets are drawn, where some are left out."""
    if len(budgets) == len(shown.budgets):
        return ""
    names = " and ".join(map(shown_size, budgets))
    return f"Of {len(shown.budgets)} budgets {names} {'are' if len(budgets) > 1 else 'is'} drawn."


def mean_words(counts: Iterable[int]) -> str:
    """What a mean is over, by the numbers of seeds."""
    found = set(counts)
    return "of one seed" if found == {1} else f"means over {range_words(found)} seeds"


def spread_words(cells: Sequence[Cell], what: str) -> str:
    """How many seeds, and what the whiskers are."""
    counts = {len(cell.seeds) for cell in cells}
    if counts == {1}:
        return "One seed, so no spread is drawn."
    some = " (none where there is one)" if 1 in counts else ""
    other = len({cell.seeds for cell in cells}) > 1
    return (
        f"{what.capitalize()} are {mean_words(counts)}, whiskers ± one sample standard "
        f"deviation{some}."
        + (" Not all have the same seeds: compare them by paired differences." if other else "")
    )


def oracle_words(looks: Iterable[Look], how: str) -> str:
    """How oracles are drawn, where there is one."""
    if not any(look.oracle for look in looks):
        return ""
    return f"Oracles, which see the labels at test time, {how}."


def moved_words(moved: bool, about: str) -> str:
    """That marks do not stand exactly where they belong, where it is so.

    Args:
        moved: Whether it is so.
        about: What they stand around.
    """
    if not moved:
        return ""
    return (
        "Marks are moved a little sideways where they would cover each other, symmetric about "
        f"{about}; lines are not."
    )


def correlation_words(
    drawn: Mapping[Size, Mapping[Look, tuple[float, float]]], figures: str
) -> str:
    """How two figures of the methods go together, where enough methods do not see the labels.

    Oracles lead in what sampling allows and, seeing the labels, in what comes out: with them a
    correlation says that they are oracles.

    Args:
        drawn: Budget → method → both figures.
        figures: What they are called.
    """
    said, counts = [], []
    for budget, pairs in drawn.items():
        values = [pair for look, pair in pairs.items() if not look.oracle]
        if len(values) < _FEWEST_CORRELATED or np.ptp(values, axis=0).min() <= 0:
            continue
        value = f"{np.corrcoef(np.transpose(values))[0, 1]:+.2f}"
        said.append(f"{value} at {shown_size(budget)}".replace("-", "\N{MINUS SIGN}"))
        counts.append(len(values))
    if not said:
        return ""
    without = any(look.oracle for pairs in drawn.values() for look in pairs)
    return (
        f"Correlation of {figures} over the means of {range_words(counts)} methods"
        f"{', without oracles' if without else ''}: {', '.join(said)}."
    )


def interval_words(shown: Shown, differences: Sequence[Difference]) -> str:
    """What marks and intervals are."""
    counts = {len(difference.values) for difference in differences}
    what = shown.found.blocks[1]
    chance = (
        f"of the {what} alone, as there is one seed"
        if counts == {1}
        else f"that count the chance of the {what} and of the seeds"
        + (" (of the former alone where there is one)" if 1 in counts else "")
    )
    return f"Marks are {mean_words(counts)}, lines {100 * LEVEL:.0f} % intervals {chance}."


def sure_words(
    where: str, differences: Sequence[Difference], *, without: str = "", beyond: int = 0
) -> str:
    """How many intervals leave out 0, and on which side.

    Args:
        where: What is equal, "pixels" or "time".
        differences: Those that are counted.
        without: Which are not.
        beyond: How many more are at a time outside the baseline's own.
    """
    said = sure_parts(differences, beyond, of_intervals=True)
    without = f"without {without}, " if without else ""
    return f"At equal {where}, {without}{'; '.join(said)}." if said else ""


def highest_words(shown: Shown) -> str:
    """Which methods without labels have the highest mean mIoU."""
    if len({cell.seeds for cell in shown.cells(shown.sampled)}) > 1:
        return ""  # means over other seeds do not compare
    said = []
    for budget in shown.budgets:
        means = [
            (cell.miou.mean, look.title)
            for look in shown.sampled
            if not look.oracle and (cell := shown.cell(look, budget)) is not None
        ]
        if means:
            mean, title = max(means, key=lambda pair: pair[0])
            said.append(f"{title} at {shown_size(budget)} ({100 * mean:.1f} %)")
    return f"The highest means without labels at test time: {', '.join(said)}." if said else ""


def gain_words(
    looks: Sequence[Look],
    gains: Mapping[str, Mapping[Size, NDArray[np.float64]]],
    classes: Mapping[int, tuple[str, float]],
) -> str:
    """The largest gain of a class and the largest loss.

    Args:
        looks: Methods that are drawn.
        gains: Of each method, see :func:`class_gains`.
        classes: See :func:`classes_by_frequency`.
    """
    found = [
        (float(values.mean(0)[k]), name, look.title, shown_size(budget))
        for look in looks
        for budget, values in gains[look.name].items()
        for k, (name, _) in classes.items()
    ]
    most, least = (
        f"{name} by {title} at {budget} ({points(gain)} points)"
        for gain, name, title, budget in (max(found), min(found))
    )
    return f"The highest: {most}; the lowest: {least}."
